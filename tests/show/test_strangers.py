"""Text from a stranger reaches terminal, Markdown and HTML as letters: no markup, no control characters."""

from __future__ import annotations

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from harness.board.check_board import check_board
from harness.board.leaderboard import rebuild
from harness.board.readme import submission_markdown
from harness.board.submission import Claim, load_submission
from harness.cli.training import show_pairs
from harness.core.errors import LONGEST_ERROR, LlmbenchError, one_line
from harness.core.events import Done
from harness.core.project import Project
from harness.core.runs import FailedRun, load_run, save_run
from harness.core.schema import LONGEST_LINE
from harness.core.terminal import markdown, put
from harness.core.track import load_track
from harness.lab.arms import Arms
from harness.lab.contest import Contest
from harness.rule.verdict import failed_verdict
from harness.show.live import LiveRuns
from harness.show.report import check_lines, check_markdown
from harness.show.site import render_site
from harness.show.tables import facts_table, new_table
from tests.make import FIRST, RULE, copy_board, edit, make_run
from tests.sandbox import Sandbox, make_sandbox

NASTY = (
    "[/past] [bold]b[/] :smile: \x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\u2066 `` ` | <script>alert(1)</script> &lt;"
    " @someone #1 ![i](https://x.test/i) www.x.test **b** _e_ $x$ ~~s~~\n# head\r\n| a | b |\n```\nACCEPTED: \x00"
)


def harmless(text: str) -> str:
    """The text, which must hold nothing but printable characters and line ends."""
    assert "Traceback" not in text
    strange = {character for character in text if not (character.isprintable() or character == "\n")}
    assert not strange, strange
    return text


class Tags(HTMLParser):
    """The names of all tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.found.add(tag)


# --- the functions, one a sink -----------------------------------------------------------------------------------

LOUD = st.text(st.sampled_from("`|<>[]()!*_#@&\\\n-=+~$:/. ax1\x1b\u202e"), max_size=40) | st.text(max_size=40)


@given(text=LOUD)
@example(text=NASTY)
@example(text="`` ` ```")
@example(text="| a | b |")
def test_in_markdown_any_text_is_letters_in_one_line_or_one_cell(text: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    assert Tags(parser.render(f"Says: {markdown(text)}.")).found <= {"p", "code"}
    table = parser.render(f"| a | b |\n|---|---|\n| {markdown(text)} | 1 |\n\nend")
    assert table.count("<td>") == 2
    assert Tags(table).found <= {"table", "thead", "tbody", "tr", "th", "td", "code", "p"}


@pytest.mark.parametrize("plain", ["AMD EPYC family 25 model 17", "Intel(R) Xeon(R) CPU @ 2.20GHz", "torch 2.13.0+cpu"])
def test_plain_words_stay_plain_in_markdown(plain: str) -> None:
    assert markdown(plain) == plain


@given(text=LOUD)
@example(text=NASTY)
def test_on_a_terminal_any_text_is_letters(text: str) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    put(console, text)
    table = new_table(text, (text,), left=(text,))
    table.add_row(text)
    console.print(table)
    console.print(facts_table([(text, text)]))
    harmless(console.file.getvalue())  # type: ignore[attr-defined]


def test_markup_of_a_terminal_is_shown_and_not_obeyed() -> None:
    console = Console(file=io.StringIO(), width=80)
    table = new_table("[bold]title[/]", ("[red]head",))
    table.add_row("Attention over [/past] :smile: keys")
    console.print(table)
    for text in ("[bold]title[/]", "[red]head", "[/past] :smile:"):
        assert text in console.file.getvalue()  # type: ignore[attr-defined]


@given(text=st.text(), longest=st.integers(1, 50))
def test_a_cut_line_is_short_and_stays_as_it_is(text: str, longest: int) -> None:
    line = one_line(text, longest)
    assert len(line) <= longest
    assert one_line(line, longest) == line
    assert text[:longest] == line or line.endswith("…") or not text[:longest].isprintable()


def test_an_error_of_thirty_megabytes_is_short() -> None:
    assert len(str(LlmbenchError("x\x1b" * 15 * 10**6))) == LONGEST_ERROR


# --- runs and submissions ----------------------------------------------------------------------------------------


@pytest.fixture
def failed(tmp_path: Path) -> FailedRun:
    """A run that ended with a stranger's sentence, as it is read again from its file."""
    run = make_run("base+idea", 0, 3.5)
    fields = {name: getattr(run, name) for name in FailedRun.model_fields if name not in ("status", "reason")}
    save_run(tmp_path / "run.json", FailedRun(**fields, status="error", reason=NASTY + 10**6 * "long"))
    found = load_run(tmp_path / "run.json")
    assert isinstance(found, FailedRun)
    return found


def test_a_failed_runs_reason_is_one_short_line_everywhere(
    failed: FailedRun, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(failed.reason) == LONGEST_LINE
    verdict = failed_verdict("candidate_failed", failed.reason, RULE, added_statements=0, stage="screen")
    contest = Contest(Arms("base", "base+idea"), (), (), (failed,), verdict)
    show_pairs(contest)
    console = Console(file=io.StringIO(), width=100)
    with LiveRuns(console, load_track(project, "pocket")) as live:
        live(failed, Done(result=failed, reused=False))
    for text in (capsys.readouterr().out, console.file.getvalue(), *contest.failures):  # type: ignore[attr-defined]
        assert "[/past] [bold]b[/]" in harmless(text)
        assert text.strip().count("\n") == 0


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A board whose runs name a machine and packages as a stranger likes."""
    project = copy_board(tmp_path_factory.mktemp("strange"), 4)
    for path in sorted(project.submissions.glob("*/runs/*.json")):
        about = json.loads(path.read_text())["provenance"]
        machine = about["machine"] | {"cpu": NASTY, "os": NASTY, "python": NASTY, "gpu": NASTY}
        edit(path, provenance=about | {"machine": machine, "packages": {NASTY: NASTY}, "revision": NASTY})
    folder = project.submissions / FIRST[1].name
    source = folder / "sources" / "token_smear.py"
    source.write_text(f"# {NASTY.splitlines()[0]}\n{source.read_text()}")
    (folder / "sources" / "x\x1b[2J`|<b>[bold].py").write_text(NASTY)
    return project


def test_a_submissions_text_holds_no_markup_of_its_runs(strange: Project) -> None:
    for folder in sorted(strange.submissions.iterdir()):
        submission = load_submission(folder)
        text = harmless(submission_markdown(submission, *Claim(folder, submission).finished.values()))
        page = MarkdownIt("commonmark").enable("table").render(text)
        assert "&lt;script&gt;" in page
        assert not Tags(page.replace("<details>", "").replace("<summary>", "")).found & {"script", "b"}
        assert "https://x.test" not in re.sub(r"<code>.*?</code>", "", page)


def test_what_verify_finds_in_strange_files_is_harmless(strange: Project) -> None:
    checked = check_board(strange)
    problems = {name: one.problems for name, one in checked.items()}
    flags = {name: one.flags for name, one in checked.items()}
    assert any(problems.values())
    harmless("\n".join(map(one_line, check_lines(problems, flags, {}))))
    page = MarkdownIt("commonmark").enable("table").render(harmless(check_markdown(problems, flags, {})))
    assert Tags(page).found <= {"table", "thead", "tbody", "tr", "th", "td", "p", "code", "strong", "ul", "li"}


def test_the_site_shows_a_strangers_text_as_letters(strange: Project) -> None:
    files = render_site(strange)
    pages = [harmless(text) for path, text in files.items() if path.endswith(".html")]
    assert any("&lt;script&gt;alert(1)" in page for page in pages)
    assert not any("<script>alert(1)" in page for page in pages)


@pytest.mark.parametrize("name", ["base+[bold]", "base+a|b", "base+../../x", "base+a\n", "x", "base+<b>"])
def test_a_name_that_is_more_than_a_name_is_refused_before_it_is_shown(tmp_path: Path, name: str) -> None:
    project = copy_board(tmp_path, 2)
    path = project.submissions / FIRST[1].name / "submission.json"
    text = path.read_text()
    candidate = json.loads(text)["candidate"]
    for change in (
        {"candidate": candidate | {"recipe": name}},
        {"candidate": candidate | {"sources": {name.removeprefix("base+") + "/": "0" * 64}}},
        {"track": f"{name} "},
    ):
        edit(path, **change)
        with pytest.raises(LlmbenchError, match="pattern"):
            load_submission(path.parent)
        path.write_text(text)
    rebuild(project)


# --- variants, through the command line --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A checkout with a docstring full of markup, a file with a strange name, and a track with a strange summary."""
    sandbox = make_sandbox(tmp_path_factory.mktemp("odd") / "llmbench")
    variants = sandbox.root / "models" / "variants"
    body = "from dataclasses import replace\n\n\ndef apply(parts):\n    return replace(parts)\n"
    docstring = NASTY.replace("\x00", "").encode("unicode_escape").decode()
    (variants / "marked.py").write_text(f'"""Attention over [/past] keys (me, 2026) {docstring}"""\n{body}')
    shutil.copy(variants / "placebo.py", variants / "[bold]x\x1b[2J.py")
    track = sandbox.root / "tracks" / "smoke.toml"
    track.write_text(re.sub(r"(?m)^summary = .*$", r'summary = "[/past] \\u001b[2J <b>"', track.read_text()))
    return sandbox


@pytest.mark.parametrize(
    "command",
    ["variants", "variants marked", "tracks", "tracks smoke", "explain", "explain [/x]\x1b", "variants [/x]\x1b",
     "leaderboard", "verify", "verify --markdown", "verify [/x]\x1b", "run candidate --variant [bold]x\x1b[2J"],
)  # fmt: skip
def test_every_command_that_lists_prints_letters_alone(odd: Sandbox, command: str) -> None:
    done = odd(*command.split(" "))
    assert done.returncode in (0, 2, 3), done.stderr
    harmless(done.stdout + done.stderr)
    if command in ("variants", "variants marked"):
        assert "[/past]" in done.stdout
