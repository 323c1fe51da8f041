"""The static site: whole, safe, small, the same each time, and never broken by what interrupts its writing."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

import pytest

from harness.board.leaderboard import make_rows
from harness.board.rows import format_csv
from harness.board.submission import Claim, load_submission
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import load_track, track_names
from harness.rule.reasons import explain
from harness.show import site as site_module
from harness.show.site import MANIFEST, render_pages, render_site, write_site
from harness.show.site.content import read_submissions, read_tracks
from tests.make import NEGATIVE, RECORD, ROOT, copy_board, edit, make_board
from tests.sandbox import FiledContest

Files = dict[str, str]
VOID = ("meta", "link", "img", "input", "path", "circle", "br", "wbr")
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;' {{ 7 * 7 }} </pre></title>"


class Page(HTMLParser):
    """What one page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def pages(files: Files) -> Iterator[tuple[str, Page]]:
    for path, text in files.items():
        if path.endswith(".html"):
            yield path, Page(text)


def written(project: Project) -> Files:
    """The pages alone."""
    submissions = read_submissions(project)
    return render_pages(submissions, read_tracks(project, submissions))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def files(board: Project) -> Files:
    return render_site(board)


def test_every_link_and_picture_leads_to_a_file_and_a_place_in_it(files: Files) -> None:
    ids = {path: page.values("id") for path, page in pages(files)}
    linked = 0
    for path, page in pages(files):
        assert len(set(ids[path])) == len(ids[path]), f"{path}: an id comes twice"
        for target in [*page.values("href"), *page.values("src")]:
            if target == "data:,":
                continue
            file, _, anchor = target.partition("#")
            file = normpath(join(dirname(path), file)) if file else path
            assert file in files, f"{path} leads to {target}"
            assert not anchor or anchor in ids[file], f"{path} leads to {target}"
            linked += 1
    assert linked > 100


def test_every_submission_has_a_line_and_a_page_with_its_numbers(board: Project, files: Files) -> None:
    index = Page(files["index.html"])
    for row in make_rows(board):
        assert f"s{row.number}" in index.values("id")
        page = Page(files[f"submissions/{row.folder}.html"])
        folder = board.submissions / row.folder
        claim = Claim(folder, load_submission(folder))
        for run in claim.finished["candidate"]:
            assert str(run.seed) in page.text
            assert f"{run.evaluation.val_loss:.4f}" in page.text
        verdict = claim.verdict
        for code in verdict.reasons if verdict else ():
            assert explain(code) in page.text
        assert f"llmbench verify submissions/{row.folder} --rerun" in page.text
    assert files["leaderboard.csv"] == format_csv(make_rows(board))


def test_every_source_stands_on_one_page_and_is_linked_from_the_others(files: Files) -> None:
    text = (RECORD / "sources" / "token_smear.py").read_text()
    home = f"submissions/{RECORD.name}.html"
    assert [path for path, page in pages(files) if text in page.text] == [home]
    assert f"../{home}#source-token_smear" in Page(files[f"submissions/{NEGATIVE.name}.html"]).values("href")


def test_every_track_has_a_page_with_its_rule_and_what_others_report(project: Project, files: Files) -> None:
    for name in track_names(project):
        track, page = load_track(project, name), Page(files[f"tracks/{name}.html"])
        assert f"{track.rule.loss_per_statement:g} nats for each statement" in page.text
        assert track.digest in page.text
        for row in track.reported:
            assert row.what in page.text
            assert row.source in page.text


def test_a_stored_verdict_is_not_believed(tmp_path: Path) -> None:
    project = copy_board(tmp_path, 4)
    path = project.submissions / NEGATIVE.name / "submission.json"
    verdict = json.loads(path.read_text())["verdict"]
    edit(path, verdict=verdict | {"decision": "accepted", "gain": 0.777, "reasons": ["gain_shown"]})
    page = Page(written(project)[f"submissions/{NEGATIVE.name}.html"])
    assert "Rejected." in page.text
    assert "0.777" not in page.text


def test_a_record_that_challenges_retract_says_so_and_holds_no_more(tmp_path: Path) -> None:
    project = copy_board(tmp_path, 4)
    old = project.submissions / "0004-challenge-0002"
    for number in (4, 5):
        folder = project.submissions / f"{number:04d}-challenge-0002"
        if folder != old:
            shutil.copytree(old, folder)
        edit(
            folder / "submission.json", number=number, challenge={"number": 2, "outcome": "refuted", "merged": "a" * 40}
        )
        files = written(project)
        page = Page(files[f"submissions/{RECORD.name}.html"])
        assert f"submission {number}: refuted" in " ".join(page.text.split())
        assert ("Disputed:" in page.text, "Retracted:" in page.text) == (number == 4, number == 5)
    index = Page(files["index.html"])
    assert "retracted" in index.values("data-result")
    assert "The record is base with a val loss of" in " ".join(index.text.split())


def test_words_of_strangers_stay_words(tmp_path: Path) -> None:
    project = copy_board(tmp_path, 4)
    tame = dict(pages(written(project)))
    folder = project.submissions / NEGATIVE.name
    source = folder / "sources" / "qk_norm.py"
    source.write_text(f"'''{HOSTILE.replace(chr(39), '')}'''\n" + source.read_text())
    for path in (folder / "runs").glob("*.json"):
        run = json.loads(path.read_text())
        run["provenance"]["machine"]["cpu"] = run["provenance"]["packages"]["torch"] = HOSTILE
        run["provenance"]["revision"] = HOSTILE
        path.write_text(json.dumps(run))
    for track in (*project.tracks.glob("*.toml"), folder / "track.toml"):
        text = track.read_text()
        summary = next(line for line in text.splitlines() if line.startswith("summary"))
        track.write_text(
            text.replace(summary, f"summary = {json.dumps(HOSTILE)}").replace("1x RTX", json.dumps(HOSTILE)[1:-1])
        )
    challenge = project.submissions / "0004-challenge-0002"
    path = next((challenge / "runs").glob("candidate-*"))
    run = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("training", "evaluation")}
    path.write_text(json.dumps(run | {"status": "error", "reason": HOSTILE}))

    files = written(project)
    seen = 0
    for path, page in pages(files):
        assert page.tags["script"] <= 1
        assert not [name for name in (name for _, name, _ in page.attributes) if name.startswith("on")], path
        own = ("style.css", "board.js", "../", "submissions/", "tracks/")
        assert all(value.startswith(own) for value in page.values("src"))
        assert page.tags["img"] == tame[path].tags["img"]
        seen += HOSTILE in page.text
    assert seen > 10, "the test reaches the pages"
    for path, text in files.items():
        assert "<script>" not in text, path
    assert HOSTILE in Page(files[f"submissions/{NEGATIVE.name}.html"]).text
    assert HOSTILE in Page(files["submissions/0004-challenge-0002.html"]).text


def test_a_name_of_a_variant_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    project = copy_board(tmp_path, 4)
    folder = project.submissions / NEGATIVE.name
    outside = "../../../secret"
    (tmp_path / "secret.py").write_text("password = 1\n")
    claim = json.loads((folder / "submission.json").read_text())
    claim["candidate"]["sources"] = {outside: "0" * 64}
    edit(folder / "submission.json", candidate=claim["candidate"])
    with pytest.raises(LlmbenchError, match="should match pattern"):
        written(project)


def test_the_same_board_gives_the_same_bytes_and_nothing_of_this_machine(
    board: Project, files: Files, tmp_path: Path
) -> None:
    shutil.copytree(board.root, tmp_path / "elsewhere")
    assert render_site(Project(tmp_path / "elsewhere")) == files
    assert not [path for path, text in files.items() if str(board.root) in text or ("://" in text and ".html" in path)]


def test_a_hundred_submissions_stay_under_a_megabyte(files: Files, tmp_path: Path) -> None:
    """Measured on three and nine: the page that a submission adds, and what it adds to the others."""

    def measure(files: Files) -> tuple[int, int]:
        sizes = {path: len(text.encode()) for path, text in files.items()}
        own = sum(size for path, size in sizes.items() if path.startswith("submissions/"))
        return own, sum(sizes.values()) - own

    (_, few), (own, many) = measure(render_site(copy_board(tmp_path, 3))), measure(files)
    assert 100 * own / 9 + few + 97 * (many - few) / 6 < 1_000_000


def test_an_empty_board_is_a_site_too(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.tracks, tmp_path / "tracks")
    files = render_site(Project(tmp_path))
    assert "The board is empty" in files["index.html"]
    assert "tracks/pocket.html" in files


def snapshot(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_an_installed_llmbench_has_what_the_site_is_made_of() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {
        path for pattern in settings["package-data"]["harness.show.site"] for path in site_module.HERE.glob(pattern)
    }
    there = {path for path in site_module.HERE.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert packed == there


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, files: Files) -> dict[str, Any]:
    """Rendering that takes no time, for tests of the writing; its value under `files` may be replaced."""
    state: dict[str, Any] = {"files": files}
    monkeypatch.setattr(site_module, "render_site", lambda project: state["files"])
    return state


def test_the_site_is_written_again_over_itself_and_what_is_gone_goes(
    project: Project, quick: dict[str, Any], files: Files, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    write_site(project, folder)
    (folder / "CNAME").write_text("board.example\n")
    quick["files"] = {path: text + "\n" for path, text in files.items() if "0009" not in path}
    write_site(project, folder)
    left = snapshot(folder)
    assert left.pop("CNAME") == "board.example\n"
    assert sorted(left.pop(MANIFEST).splitlines()[1:]) == sorted(quick["files"])
    assert left == quick["files"]


def test_an_interrupted_writing_leaves_only_whole_pages_whose_links_resolve(
    project: Project, quick: dict[str, Any], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    quick["files"] = {path: text for path, text in files.items() if "0009" not in path}
    quick["files"]["index.html"] = "old"
    write_site(project, folder)
    quick["files"] = files
    write = site_module.write_atomic

    def press_after(count: int) -> None:
        left = iter(range(count))

        def write_one(path: Path, text: str) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(path, text)

        monkeypatch.setattr(site_module, "write_atomic", write_one)

    for count in range(0, len(files) + 2, 3):
        press_after(count)
        with pytest.raises(KeyboardInterrupt):
            write_site(project, folder)
        there = snapshot(folder)
        assert there["index.html"] in ("old", files["index.html"])
        if there["index.html"] != "old":
            assert {*files} <= {*there}
    press_after(1000)
    write_site(project, folder)
    assert {path: text for path, text in snapshot(folder).items() if path != MANIFEST} == files


def test_a_folder_that_cannot_be_written_is_named(project: Project, quick: dict[str, Any], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    for folder in (blocked, blocked / "site"):
        with pytest.raises(LlmbenchError, match=str(blocked)):
            write_site(project, folder)
    assert blocked.read_text() == "mine"


@pytest.mark.parametrize("content", ["notes.txt", "index.html", MANIFEST])
def test_a_folder_that_is_no_site_of_ours_is_not_touched(
    project: Project, quick: dict[str, Any], tmp_path: Path, content: str
) -> None:
    for text in ("mine\n../../outside\n", ""):
        (tmp_path / content).write_text(text)
        with pytest.raises(LlmbenchError, match="do not belong to a web site of llmbench; name a new or empty folder"):
            write_site(project, tmp_path)
        assert snapshot(tmp_path) == {content: text}


def test_a_manifest_cannot_name_files_outside_its_folder(
    project: Project, quick: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    write_site(project, folder)
    manifest, outside = folder / MANIFEST, tmp_path / "precious"
    manifest.write_text(manifest.read_text() + "../precious\n")
    outside.write_text("kept")
    with pytest.raises(LlmbenchError, match="do not belong to a web site of llmbench"):
        write_site(project, folder)
    assert outside.read_text() == "kept"


def test_the_command_writes_a_board_that_was_just_filed(filed: FiledContest, tmp_path: Path) -> None:
    done = filed.sandbox("leaderboard", "--html", str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert "2 submissions" in done.stderr
    index = (tmp_path / "site" / "index.html").read_text()
    assert "submissions/0002-smoke-token_smear.html" in index
    assert len(filed.sandbox.refuses("leaderboard", "--html", str(filed.sandbox.root)).splitlines()) == 1
