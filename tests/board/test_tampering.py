"""Every value of a claim is guarded: one leaf, key, row or cell changed by hand, and `verify` says so.

The mutations run on the committed board, one submission of each kind, through the functions that `llmbench verify`
calls. What remains possible is the lie that hangs together: see test_forgery.py.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.board.check_board import Checked, check_folder, readable_board
from harness.board.leaderboard import Board
from harness.board.rows import BOARD_END, BOARD_START
from harness.board.submission import load_submission, run_file
from harness.core.project import Project
from tests.make import RECORD, copy_board, newest, verify_board, written

SEED = load_submission(RECORD).candidate.seeds[0]
KINDS = ("opening", "record", "negative")
# Other values that the schema itself would take: the rule has to refuse them.
WORDS = {
    "kind": KINDS,
    "lane": ("loss", "speed", "simplicity"),
    "decision": ("accepted", "rejected", "undecided"),
    "design": ("paired", "stored"),
    "stage": ("screen", "confirmation"),
    "quantity": ("loss", "time"),
    "status": ("finished", "diverged"),
    "date": ("2099-01-01",),
}
# The day of the claim is the contributor's own word; the board shows it, so there the CSV guards it.
FREE_WITHIN_THE_FOLDER = {("date",)}
# The seconds that an audit took are its maker's word, too; the README shows them, and nothing depends on them.
SHOWN_IN_WHOLE_SECONDS = {("audit", "audit_s")}

Place = tuple[Any, ...]
Mutation = tuple[Place, Any, str]


def mutations(key: Any, value: Any) -> Iterator[Any]:
    """Other values that one node may be changed to by hand; some fit the schema, some do not."""
    if isinstance(value, dict):
        yield from ({}, {**value, "x": 1}, dict(reversed(value.items())))
        for name in value:
            yield {other: one for other, one in value.items() if other != name}
            yield {f"{other}x" if other == name else other: one for other, one in value.items()}
    elif isinstance(value, list):
        yield from ([], value[1:], value[:-1], [*value, *value[-1:]], value[::-1]) if value else [["x"]]
    elif isinstance(value, bool):
        yield from (not value, int(value), None)
    elif isinstance(value, int):
        yield from (value + 1, value - 1, 1000 * value + 1, -value - 1, float(value), str(value), None)
    elif isinstance(value, float):
        step = 1e-6 * abs(value) + 1e-11  # above what `verify` grants to rounding
        yield from (value + step, value - step, 1000 * value + 1, -value - 1, str(value), None)
    elif isinstance(value, str):
        other_digit = value[:-1] + ("1" if value[-1:] == "0" else "0")
        yield from (f"{value}x", value[1:], "", None, 0, other_digit, *WORDS.get(key, ()))
    else:
        yield from (0, 0.5, "x", False, {})


def nodes(value: Any, path: Place = ()) -> list[Place]:
    """Paths of all leaves, lists and objects."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inner for found in nodes(one, (*path, key)))]


def tampered(text: str) -> Iterator[Mutation]:
    """Each single change of a JSON text: the place, the new value there, the new text."""
    content = {"": json.loads(text)}
    assert written(content[""]) == text
    for node in nodes(content[""]):
        holder, (*above, key) = content, ("", *node)
        for name in above:
            holder = holder[name]
        original = holder[key]
        for change in mutations(key, original):
            if json.dumps(change) != json.dumps(original):
                holder[key] = change
                yield node, change, written(content[""])
        holder[key] = original


def accepted_changes(project: Project, path: Path, mutated: Iterator[Mutation]) -> set[tuple[Place, str]]:
    """Those changes of one file of a submission that `verify` does not refuse; the file is left as it was."""
    original, accepted, board = path.read_text(), set(), readable_board(project)
    folder = next(parent for parent in path.parents if parent.parent == project.submissions)
    for place, change, text in mutated:
        path.write_text(text)
        if path.name == "submission.json":  # the board is read from these files
            board = readable_board(project)
        if not check_folder(project, folder, board).problems:
            accepted.add((place, str(change)))
    path.write_text(original)
    assert check_folder(project, folder, readable_board(project)).problems == []
    return accepted


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the committed board; every test leaves it as it was."""
    project = copy_board(tmp_path_factory.mktemp("board"))
    assert not any(verify_board(project).values())
    return project


@pytest.fixture
def checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder is checked once: what the test changes lies beside them all."""
    known: dict[Path, Checked] = {}

    def check(project: Project, folder: Path, board: Board) -> Checked:
        if folder not in known:
            known[folder] = check_folder(project, folder, board)
        return known[folder]

    monkeypatch.setattr("harness.board.check_board.check_folder", check)


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_a_claim_is_guarded(board: Project, kind: str) -> None:
    path = newest(board, kind) / "submission.json"
    accepted = accepted_changes(board, path, tampered(path.read_text()))
    accepted = {change for change in accepted if change[0] not in SHOWN_IN_WHOLE_SECONDS}
    assert {place for place, _ in accepted} == FREE_WITHIN_THE_FOLDER, accepted
    original = path.read_text()
    for _, text in accepted:
        path.write_text(original.replace(json.loads(original)["date"], text))
        assert any(verify_board(board).values()), text
    path.write_text(original)


@pytest.mark.parametrize("arm", ["record", "candidate"])
def test_every_value_of_a_run_is_guarded(board: Project, arm: str) -> None:
    path = sorted((newest(board, "record") / "runs").glob(f"{arm}-*.json"))[0]
    assert accepted_changes(board, path, tampered(path.read_text())) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_of_a_claim_is_guarded(board: Project, kind: str) -> None:
    """The changes are dealt out over the files: each file gets some, each leaf is changed in some file."""
    paths = sorted((newest(board, kind) / "runs").glob("*.json"))
    for place, path in enumerate(paths):
        leaves = {node: text for node, _, text in tampered(path.read_text())}  # the last change of each place
        dealt = [(node, "", text) for node, text in list(leaves.items())[place :: len(paths)]]
        assert accepted_changes(board, path, iter(dealt)) == set()


def test_a_file_that_does_not_belong_to_a_submission_is_named(board: Project) -> None:
    path = newest(board, "record") / "notes.txt"
    path.write_text("hello")
    found = check_folder(board, path.parent, readable_board(board)).problems
    path.unlink()
    assert found == [f"{path.parent.name}/notes.txt is not part of the submission; remove it"]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("leaderboard.csv", "base", "bass", "leaderboard.csv does not match"),
        ("submissions/0002-pocket-token_smear/README.md", "val loss", "loss", "README.md does not match the runs"),
        ("submissions/0002-pocket-token_smear/sources/token_smear.py", "zeros_", "ones_", "does not have the digest"),
        ("submissions/0002-pocket-token_smear/track.toml", "tokens = ", "tokens = 1", "does not have the track_digest"),
        (f"submissions/{RECORD.name}/{run_file('record', SEED)}", "{", "", "is not valid JSON"),
        ("submissions/0001-pocket-baseline/submission.json", '"runs', '"rums', "submission.json"),
        ("tracks/pocket.toml", "alpha = 0.01", "alpha = 0.02", "has changed since its baseline was submitted"),
        ("models/variants/token_smear.py", "zeros_", "ones_", "has changed since"),
    ],
)
def test_a_hand_edit_is_named(board: Project, file: str, old: str, new: str, words: str) -> None:
    path = board.root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found = [problem for problems in verify_board(board).values() for problem in problems]
    path.write_text(text)
    assert any(words in problem for problem in found), found


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    project = copy_board(tmp_path)
    (project.variants / "token_smear.py").unlink()
    assert "there is no variant" in verify_board(project)["tracks/pocket.toml"][0]
    shutil.rmtree(project.submissions / "0001-pocket-baseline")
    assert "1 is missing" in verify_board(project)["submissions"][0]


def other_texts(text: str) -> Iterator[str]:
    """Byte-level edits that no parser would mind."""
    yield from (text + "\n", " " + text, text.replace("\n", "\r\n"), "\ufeff" + text, text.rstrip("\n"))
    yield (
        text.replace('"seed": ', '"seed": 7, "seed": ') if '"seed": ' in text else text.replace("{", '{"number": 1,', 1)
    )


@pytest.mark.parametrize("file", ["submission.json", run_file("candidate", SEED)])
def test_a_file_has_one_form_to_the_byte(board: Project, file: str) -> None:
    path = newest(board, "record") / file
    assert accepted_changes(board, path, (((), text[:20], text) for text in other_texts(path.read_text()))) == set()


def csv_text(rows: list[list[str]]) -> str:
    """Rows as `leaderboard.csv` writes them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def csv_mutations(rows: list[list[str]]) -> Iterator[str]:
    """Each cell changed, each row removed, doubled and swapped with the next, each column removed."""
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            try:
                change = repr(float(cell) * (1 + 1e-6))
            except ValueError:
                change = f"{cell}x" if cell else "0"
            yield csv_text([*rows[:r], [*row[:c], change, *row[c + 1 :]], *rows[r + 1 :]])
        yield csv_text(rows[:r] + rows[r + 1 :])
        yield csv_text([*rows[: r + 1], *rows[r:]])
        yield csv_text([*rows[:r], *rows[r : r + 2][::-1], *rows[r + 2 :]]) if r + 1 < len(rows) else ""
    for c in range(len(rows[0])):
        yield csv_text([row[:c] + row[c + 1 :] for row in rows])


@pytest.mark.usefixtures("checked_once")
def test_every_cell_and_row_of_the_csv_is_guarded(board: Project) -> None:
    path = board.leaderboard
    original = path.read_text()
    for text in {*csv_mutations(list(csv.reader(io.StringIO(original)))), *other_texts(original)} - {original}:
        path.write_text(text)
        assert verify_board(board)["leaderboard.csv"], text
    path.write_text(original)
    assert not any(verify_board(board).values())


@pytest.mark.usefixtures("checked_once")
def test_every_line_of_the_board_in_the_readme_is_guarded(board: Project) -> None:
    path = board.readme
    original = path.read_text()
    before, table, after = original[: original.index(BOARD_START)], *original.split(BOARD_START)[1].split(BOARD_END)
    lines = table.splitlines(keepends=True)
    for place, line in enumerate(lines):
        for change in ("", line + line, line.replace("5", "4", 1), f"x{line}"):
            if change != line:
                edited = "".join([*lines[:place], change, *lines[place + 1 :]])
                path.write_text(f"{before}{BOARD_START}{edited}{BOARD_END}{after}")
                assert verify_board(board)["leaderboard.csv"], change
    path.write_text(original)
    assert not any(verify_board(board).values())
