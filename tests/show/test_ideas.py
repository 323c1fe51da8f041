"""The page of ideas: what it says is what the submissions and the variants' files say, and it is up to date."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.board.leaderboard import make_rows, read_board
from harness.core.project import Project
from harness.show.ideas import MOST_SHOWN, PAGE, draw_ideas, ideas_files, linked, read_ideas
from harness.show.site.content import read_submissions
from tests.make import ROOT, copy_board, make_board


def page_lines(text: str) -> dict[str, list[str]]:
    """Number of a submission -> the cells of its line."""
    lines = re.findall(r"(?m)^\| (\S+ ?\S* \| .*) \| \[(\d+)\]\(\.\./submissions/\S+\) \|$", text)
    return {number: line.split(" | ") for line, number in lines}


def words_of(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_committed_page_and_its_pictures_are_those_of_the_board(project: Project) -> None:
    """Of the board at the submission up to which it was made: whoever files one need not make it again."""
    page = (ROOT / PAGE).read_text()
    last = int(re.findall(r"from the submissions up to (\d+)\.", page)[0])
    files = ideas_files(project, read_board(project).before(last + 1))
    assert files.pop(PAGE) == page, "run `llmbench leaderboard --ideas`"
    for path, svg in files.items():  # other versions of matplotlib place the same words elsewhere
        assert words_of((ROOT / path).read_text()) == words_of(svg), f"{path}: run `llmbench leaderboard --ideas`"


def test_every_judged_idea_has_a_line_with_the_boards_numbers_and_the_largest_gain_comes_first(tmp_path: Path) -> None:
    project = make_board(tmp_path)
    page = ideas_files(project, read_board(project))[PAGE]
    rows = {str(row.number): row for row in make_rows(project) if row.kind in ("record", "negative")}
    lines = page_lines(page)
    assert lines.keys() == rows.keys()
    gains = [rows[number].gain or 0.0 for number in lines]
    assert gains == sorted(gains, reverse=True)
    for number, cells in lines.items():
        row = rows[number]
        assert f"{row.gain:+.4f}" in cells
        assert f"{row.num_params:,} (x{row.params_ratio:.2f})" in cells  # type: ignore[attr-defined]
        assert str(row.pairs) in cells
        assert cells[-1].startswith("record" if row.kind == "record" else ("confirmation: ", "screen: "))
        if row.ci_low is not None:
            assert f"{row.ci_low:+.4f} to {row.ci_high:+.4f}" in cells


def test_a_picture_of_many_ideas_shows_the_best(tmp_path: Path) -> None:
    project = copy_board(tmp_path)
    judged = [(page.claim, page.row) for page in read_submissions(project)]
    smear, norm = read_ideas(project, read_board(project), judged)["pocket"]
    many = [replace(norm, row=norm.row.model_copy(update={"gain": -place / 1000})) for place in range(90)]
    labels = draw_ideas([smear, *many]).axes[0].get_yticklabels()
    assert len(labels) == MOST_SHOWN
    assert labels[0].get_text() == "+token_smear"


def test_a_screen_says_what_chance_gives_and_a_confirmation_its_interval(tmp_path: Path) -> None:
    project = copy_board(tmp_path)
    (smear, norm), (expert,) = (
        ideas
        for ideas in read_ideas(
            project, read_board(project), [(page.claim, page.row) for page in read_submissions(project)]
        ).values()
    )
    assert smear.chance is None
    assert smear.cells[3] == f"{smear.row.ci_low:+.4f} to {smear.row.ci_high:+.4f}"
    assert norm.cells[3] == "±0.0053"  # one run, so the track's own unit
    assert expert.cells[3] == "±0.0085"
    assert [idea.against for idea in (smear, norm, expert)] == [1, 2, 5]
    assert smear.verdict == "record, confirmed by 4"
    assert norm.verdict == "screen: screened out"
    assert smear.price == pytest.approx(17 * 1e-4)


def test_what_a_variants_present_docstring_says_counts_while_its_code_is_the_one_that_was_judged(
    tmp_path: Path,
) -> None:
    project = copy_board(tmp_path)
    path = project.variants / "qk_norm.py"
    code = path.read_text().split('"""', 2)[2]
    for text, is_shown in (
        (f'"""An idea.\n\nClaimed: 7 % less\n"""{code}', True),
        ('"""X.\n\nClaimed: 7 % less\n"""', False),
    ):
        path.write_text(text + "\ndef apply(parts):\n    return parts\n" * (not is_shown))
        page = ideas_files(project, read_board(project))[PAGE]
        assert ("7 % less" in page) is is_shown
    path.unlink()
    assert "+qk_norm" in ideas_files(project, read_board(project))[PAGE]


def test_sources_become_links_with_short_names_and_strangers_words_stay_text() -> None:
    github = "https://github.com/owner/repo/blob/master/records/2025_Smear/README.md"
    assert linked(github) == f"[repo 2025_Smear]({github})"
    assert linked("arXiv:2010.04245, figure 5") == "[arXiv:2010.04245](https://arxiv.org/abs/2010.04245), figure 5"
    both = linked(f"{github} (2026-01-17); arXiv:2510.12402")
    assert both == f"[repo 2025_Smear]({github}) (2026-01-17); [arXiv:2510.12402](https://arxiv.org/abs/2510.12402)"
    assert linked("https://example.org/a|b") == "[example.org](https://example.org/a)` |b `".replace("|", "\\|")
    assert linked("<script>") == "` <script> `"
    assert linked("[x](javascript:alert(1))") == "` [x](javascript:alert(1)) `"
