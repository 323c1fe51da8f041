"""A board that grows: what one check reads, and the order of five-digit numbers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.board.check_board import check_board, check_folder, readable_board
from harness.board.leaderboard import make_rows, read_board, rebuild, rebuild_texts
from harness.board.rows import format_csv, stored_rows
from harness.board.submission import load_submission
from harness.core.git import read_all_at
from harness.core.project import Project
from harness.core.runs import dump_json
from tests.make import copy_board, edit, newest
from tests.sandbox import git


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the committed board; for tests that leave no trace in it."""
    return copy_board(tmp_path_factory.mktemp("grown") / "llmbench")


@pytest.fixture
def opened(grown: Project) -> Any:
    """Counts the files under submissions/ that this process opens."""
    seen: Counter[str] = Counter()
    watching = [True]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).startswith(str(grown.submissions)):
            seen[str(Path(arguments[0]).relative_to(grown.submissions))] += 1

    sys.addaudithook(watch)  # for good, so it only can be told to look away
    yield seen
    watching.clear()


def test_a_check_of_one_submission_reads_no_run_of_the_others_and_nothing_that_came_later(
    grown: Project, opened: Counter[str]
) -> None:
    board = read_board(grown)
    claim = board.submissions[2]
    folder = grown.submissions / claim.folder_name
    opened.clear()
    assert check_folder(grown, folder, readable_board(grown, until=folder)).problems == []
    others = {path: count for path, count in opened.items() if not path.startswith(claim.folder_name)}
    earlier = {f"{s.folder_name}/submission.json" for s in board.before(claim.number).submissions}
    assert others == dict.fromkeys(earlier, 1)


def test_a_check_of_all_reads_the_runs_of_each_a_fixed_number_of_times(grown: Project, opened: Counter[str]) -> None:
    """A board in which everything is read for everything else grows with its square."""
    opened.clear()
    check_board(grown)
    submissions = Counter(path.split("/")[0] for path in opened)
    assert len(submissions) == len(list(grown.submissions.iterdir())) > 5
    times = {
        part: max(count for path, count in opened.items() if part in path) for part in ("submission.json", "/runs/")
    }
    assert times == {"submission.json": 3, "/runs/": 3}  # a record's runs: for itself twice, and for its challenge


def test_the_board_is_shown_from_the_csv_unless_it_is_about_other_folders(grown: Project, tmp_path: Path) -> None:
    rows = make_rows(grown)
    assert stored_rows(grown) == rows
    text = grown.leaderboard.read_text()
    try:
        for other in (text.rsplit("\n", 2)[0] + "\n", text.replace("0002-", "0003-"), "", "number\n1\n"):
            grown.leaderboard.write_text(other)
            assert stored_rows(grown) is None
        grown.leaderboard.write_text(text.replace(rows[0].date, "2001-01-01", 1))
        assert [row.date for row in stored_rows(grown) or ()][:2] == ["2001-01-01", rows[1].date]
        assert check_board(grown)["leaderboard.csv"].problems
    finally:
        rebuild(grown)
    assert grown.leaderboard.read_text() == text == format_csv(rows)


def test_a_rebuild_restores_every_text_and_touches_no_file_that_says_it_already(grown: Project) -> None:
    texts = [grown.leaderboard, *grown.submissions.glob("*/README.md")]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in texts}
    broken = [grown.leaderboard, *texts[3:5]]
    for path in broken:
        path.write_text("another wording")
    texts[5].unlink()
    rows = rebuild_texts(grown)
    assert {path: path.read_bytes() for path in texts} == {path: text for path, (text, _) in before.items()}
    same = {path for path, (_, time) in before.items() if path.stat().st_mtime_ns == time}
    assert set(texts) - same == {*broken, texts[5]}
    assert rows == make_rows(grown) == stored_rows(grown)


def test_a_verdict_that_the_runs_do_not_give_reaches_the_rows_and_no_further(grown: Project) -> None:
    """A rebuild believes the verdict that a submission states, and so must be proved by `verify`."""
    name = next(row.folder for row in make_rows(grown) if row.kind == "negative")
    path = grown.submissions / name / "submission.json"
    text = path.read_text()
    submission = load_submission(path.parent)
    assert submission.verdict is not None
    forged = submission.model_copy(update={"verdict": submission.verdict.model_copy(update={"gain": 0.5})})
    try:
        path.write_text(dump_json(forged))
        assert [row.gain for row in rebuild_texts(grown) if row.folder == name] == [0.5]
        found = {name: checked.problems for name, checked in check_board(grown).items() if checked.problems}
        assert set(found) == {name}
        assert "verdict.gain is 0.5, but the runs give" in found[name][0]
    finally:
        path.write_text(text)
        rebuild_texts(grown)


def test_a_board_of_the_past_is_read_by_a_fixed_number_of_processes(
    grown: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (("init", "--quiet"), ("add", "submissions"), ("commit", "--quiet", "--message", "board")):
        git(grown.root, *words)
    started: list[object] = []
    start = subprocess.Popen.__init__
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *a, **k: started.append(a) or start(*a, **k))
    found = read_all_at(grown.root, "HEAD", "submissions", "submission.json")
    assert len(started) == 2
    files = {path.relative_to(grown.root).as_posix(): path for path in grown.submissions.glob("*/submission.json")}
    assert found == {name: path.read_bytes() for name, path in files.items()}
    monkeypatch.undo()
    shutil.rmtree(grown.root / ".git")


def test_numbers_of_five_digits_come_after_those_of_four(tmp_path: Path) -> None:
    project = copy_board(tmp_path / "llmbench", 3)
    for number in (9_999, 10_000, 10_001):
        folder = shutil.copytree(newest(project, "negative"), project.submissions / f"{number:04}-pocket-qk_norm")
        edit(folder / "submission.json", number=number)
    rebuild(project)
    assert [submission.number for submission in read_board(project).submissions][3:] == [9_999, 10_000, 10_001]
    assert [row.number for row in stored_rows(project) or ()][3:] == [9_999, 10_000, 10_001]
