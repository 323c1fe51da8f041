"""No file can crash the referee: whatever bytes a file holds, it is read, or refused in one sentence.

Every reader is the function that the command line calls. A damaged claim or board is never accepted; of a file that a
user may write freely, what was read is a whole record that its schema allows.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from harness.board.check_board import check_folder, readable_board
from harness.board.leaderboard import make_rows, read_board
from harness.board.rows import BOARD_END, BOARD_START
from harness.core.project import Project
from harness.core.track import load_track
from harness.lab.arms import Entry, recall_entry, remember_entry
from harness.lab.history import attempt_number
from harness.lab.store import RUN_FILE, RunStore
from harness.lab.studies.noise import kept_study, study_folder
from harness.rule.files.read import judge_file
from harness.variants.canonical import tree_digest
from harness.variants.source import read_variant
from tests.damage import REFUSED, STRANGE, closed_to_us, damaged, fuzz, is_sentence, outcome, retyped
from tests.make import ROOT, copy_board, verify_board
from tests.sandbox import Sandbox

# How many cases of each; what verifies a whole board costs more than the others.
CASES = {
    **dict.fromkeys(("track", "variant", "run", "board", "ledger", "entry", "noise study"), 100),
    **dict.fromkeys(("numbers.json", "numbers.csv"), 150),
    **dict.fromkeys(("submission.json", "track.toml", "README.md", "curves.png", "source", "record's run"), 60),
    **dict.fromkeys(("leaderboard.csv", "readme"), 40),
}
# Files that need not be there, so that a link into nowhere is the same as none.
OPTIONAL = ("run", "ledger", "entry", "noise study", "readme")


@dataclass(frozen=True)
class Subject:
    """One file, the command's function that reads it, and what may come of it."""

    path: Path
    read: Callable[[], Any]
    sound: Callable[[Any, bytes], bool]
    """Whether what was read may have been taken from a file of these bytes."""

    def check(self, content: bytes) -> None:
        self.path.write_bytes(content)
        found = outcome(self.read)
        assert found is REFUSED or self.sound(found, content), content[:500]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small checkout with a file of every kind that is read."""
    root = tmp_path_factory.mktemp("fuzz")
    project = copy_board(root, 2)
    shutil.copytree(ROOT / "harness", root / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    study = study_folder(project, load_track(project, "pocket"))
    study.mkdir(parents=True)
    for path in (ROOT / "benchmarks" / "noise" / "pocket").glob("*-seed-[0-3].json"):
        shutil.copy(path, study)
    (root / "numbers.json").write_text('{"candidate": [3.27, 3.28, 3.275, 3.276], "record": [3.29, 3.285, 3.28, 3.3]}')
    (root / "numbers.csv").write_text(
        "arm,seed,value\n"
        + "".join(f"{arm},{seed},3.{seed}{len(arm)}\n" for arm in ("record", "candidate") for seed in range(4))
    )
    return project


@pytest.fixture(scope="module")
def subjects(checkout: Project) -> dict[str, Subject]:
    """Every file that is read, but for those of torch; each test leaves them as they were."""
    project = checkout
    smoke, pocket = load_track(project, "smoke"), load_track(project, "pocket")
    claim = sorted(project.submissions.iterdir())[1]
    board = read_board(project)
    store = RunStore(project, smoke, jobs=1)
    identity = store.identify("base", 0)
    run = store.folder(identity) / RUN_FILE
    if not run.exists():
        content = json.loads(sorted(study_folder(project, pocket).glob("record-*"))[0].read_text())
        run.parent.mkdir(parents=True)
        run.write_text(json.dumps({**content, **identity.model_dump(mode="json")}))
        remember_entry(project, smoke, Entry(added=("token_smear",), jobs=2))
        attempt = {"date": "2026-11-22", "track_digest": pocket.digest, "holder": 2, "recipe": "base+x", "pairs": 3}
        more = {"sources": {"x": "0" * 64}, "decision": "rejected", "reasons": ["hopeless"], "gain": -0.5}
        more["met"] = {"stage": "screen", "record": "base", "record_sources": {}, "entry": {"added": ["x"]}}
        ledger = project.runs / "pocket" / "attempts.jsonl"
        ledger.parent.mkdir(parents=True)
        ledger.write_text(3 * (json.dumps(attempt | more) + "\n"))

    def always(found: Any, content: bytes) -> bool:
        return True

    def claim_problems() -> Any:
        found = check_folder(project, claim, readable_board(project)).problems
        assert all(is_sentence(problem) for problem in found), found
        return REFUSED if found else "accepted"

    def board_problems() -> Any:
        found = [problem for problems in verify_board(project).values() for problem in problems]
        assert all(is_sentence(problem) for problem in found), found
        if found or not project.readme.exists():
            return REFUSED if found else ""
        return project.readme.read_text().split(BOARD_START)[1].split(BOARD_END)[0]

    def guarded(file: str) -> Subject:
        original = (claim / file).read_bytes()
        return Subject(claim / file, claim_problems, lambda found, content: content == original)

    source = tree_digest((claim / "sources" / "token_smear.py").read_text())

    def same_tree(content: bytes) -> bool:
        """Comments and layout are no part of a claim."""
        return tree_digest(content.decode()) == source

    table = board_problems()
    csv = project.leaderboard.read_bytes()
    numbers = {kind: project.root / f"numbers.{kind}" for kind in ("json", "csv")}
    return {
        "track": Subject(project.tracks / "smoke.toml", lambda: load_track(project, "smoke"), always),
        "variant": Subject(
            project.variants / "token_smear.py",
            lambda: (read_variant(project, "token_smear"), read_variant(project, "token_smear").cost),
            lambda found, content: found[0].digest == tree_digest(content.decode()),
        ),
        "run": Subject(run, lambda: store.find(identity), lambda found, content: found.seed == 0),
        "submission.json": guarded("submission.json"),
        "track.toml": guarded("track.toml"),
        "README.md": guarded("README.md"),
        "curves.png": guarded("curves.png"),
        "source": Subject(
            claim / "sources" / "token_smear.py", claim_problems, lambda found, content: same_tree(content)
        ),
        "record's run": guarded(f"runs/{next((claim / 'runs').glob('record-*')).name}"),
        "board": Subject(claim / "submission.json", lambda: make_rows(project), always),
        "leaderboard.csv": Subject(project.leaderboard, board_problems, lambda found, content: content == csv),
        "readme": Subject(project.readme, board_problems, lambda found, content: found == table),
        "ledger": Subject(
            project.runs / "pocket" / "attempts.jsonl",
            lambda: attempt_number(project, board, pocket, {"y": "0" * 64}),
            lambda found, content: found >= 1,
        ),
        "entry": Subject(project.runs / "smoke" / "last-entry.json", lambda: recall_entry(project, smoke), always),
        "numbers.json": Subject(numbers["json"], lambda: judge_file(numbers["json"]), always),
        "numbers.csv": Subject(numbers["csv"], lambda: judge_file(numbers["csv"]), always),
        "noise study": Subject(
            study_folder(project, pocket) / "record-seed-1.json", lambda: kept_study(project, pocket), always
        ),
    }


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_refused_in_a_sentence_or_its_damage_does_not_show(
    subjects: dict[str, Subject], name: str
) -> None:
    subject = subjects[name]
    original = subject.path.read_bytes()
    assert outcome(subject.read) is not REFUSED
    contents = damaged(original)
    if original.startswith(b"{"):
        contents |= retyped(original.splitlines()[0] if name == "ledger" else original)

    @fuzz(CASES[name])
    @given(content=contents)
    def check(content: bytes) -> None:
        subject.check(content)

    try:
        check()
        for content in STRANGE:
            subject.check(content)
    finally:
        subject.path.write_bytes(original)


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "link": lambda path: path.symlink_to("nowhere"),
    "secret": lambda path: path.touch(mode=0),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", CASES)
def test_what_is_no_readable_file_is_refused(
    checkout: Project, subjects: dict[str, Subject], name: str, kind: str
) -> None:
    subject = subjects[name]
    kept = checkout.root / "kept"
    subject.path.rename(kept)
    try:
        NO_FILES[kind](subject.path)
        with closed_to_us():
            found = outcome(subject.read)
        assert found is REFUSED or (name in OPTIONAL and kind in ("loop", "link", "nothing"))
    finally:
        if subject.path.is_dir():
            subject.path.rmdir()
        else:
            subject.path.unlink(missing_ok=True)
        kept.rename(subject.path)


@pytest.mark.parametrize("name", ["run", "numbers.json", "submission.json", "noise study"])
def test_a_key_that_stands_twice_is_refused(subjects: dict[str, Subject], name: str) -> None:
    """Readers of JSON disagree on which of the two counts; so might a reviewer and the program."""
    subject = subjects[name]
    original = subject.path.read_bytes()
    try:
        for key in dict.fromkeys(json.loads(original)):
            text = json.dumps(json.loads(original))
            value = json.dumps(json.loads(original)[key])
            subject.path.write_text(text.replace("{", f'{{"{key}": {value}, ', 1))
            assert outcome(subject.read) is REFUSED, key
    finally:
        subject.path.write_bytes(original)


def test_a_link_in_a_submission_is_refused_wherever_it_leads(checkout: Project) -> None:
    claim = sorted(checkout.submissions.iterdir())[1]
    for path in (claim / "README.md", claim / "runs", claim):
        moved = checkout.root / "moved"
        path.rename(moved)
        path.symlink_to(moved)
        problems = check_folder(checkout, claim, readable_board(checkout)).problems
        assert any("is a link" in problem for problem in problems), problems
        path.unlink()
        moved.rename(path)


def test_names_and_keys_of_a_stranger_start_no_line_of_the_log(sandbox: Sandbox, tmp_path: Path) -> None:
    """`::error` at the start of a line is a command to the CI, an escape sequence one to the terminal."""
    own = sandbox.copy(tmp_path / "llmbench")
    folder = own.root / "submissions" / "0001-smoke-x"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps({"\n::error::x\x1b[2J\ud800": 1}))
    os.close(os.open(os.fsencode(own.root / "submissions") + b"/\xff\n::warning::y", os.O_CREAT | os.O_WRONLY))
    for arguments in (("verify",), ("verify", "--json"), ("leaderboard",)):
        done = own(*arguments)
        assert done.returncode in (2, 3), done.stderr
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert "\n::" not in said
        assert "\x1b" not in said
