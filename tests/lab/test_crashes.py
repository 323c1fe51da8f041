"""Crashes, full disks and company: nothing is lost, nothing is half written, and the result is the same to the bit."""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.board.submission import load_submission
from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.project import Project
from harness.core.runs import Training
from tests import kills
from tests.damage import closed_to_us
from tests.make import verify_board
from tests.sandbox import FiledContest, Sandbox, mounted, refusal

SEED_0 = ("run", "baseline", "--pairs", "1", "--track", "smoke")


def wait_for(what: Callable[[], Any], process: subprocess.Popen[Any], patience_s: float = 120) -> None:
    """Until `what` comes true while the process lives."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert process.poll() is None, "the process ended before its time"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(
    sandbox: Sandbox, filed: FiledContest, tmp_path: Path
) -> None:
    root, choose = sandbox.copy(tmp_path / "llmbench").root, random.Random(0)

    def checkpoints() -> list[Path]:
        return list(root.glob("runs/smoke/base/*/seed-0/checkpoint"))

    def start(event: str, step: int = 0) -> subprocess.Popen[bytes]:
        process = kills.start(root, "smoke", ("base",), every_s=0.05, stop_at=(event, step))
        wait_for(lambda: kills.state(process.pid) == psutil.STATUS_STOPPED, process)
        return process

    first = start("step", 10)
    kills.outlive(kills.kill(first, "tree", choose), patience_s=30)
    half = checkpoints()[0].with_name(".checkpoint.half")
    half.write_bytes(b"half a checkpoint")

    second = start("step", 20)
    assert kills.progress(root, first=True) != {"base": "step 0"}, "it began anew"
    kills.kill(second, "player", choose)
    assert json.loads(checkpoints()[0].with_name("run.json").read_text())["status"] == "interrupted"

    third = start("evaluating")
    orphans = kills.kill(third, "parent", choose)
    assert orphans
    kills.outlive(orphans, patience_s=60)

    kills.finish(root, "smoke", ("base",))
    assert kills.progress(root, first=True) == {"base": "evaluating"}, "the finished training was done again"
    assert kills.results(root)["base"] == kills.results(filed.sandbox.root)["base"]
    assert not half.exists()
    assert not checkpoints()


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """Writes beyond `num_bytes` fail, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_up_while_training_loses_nothing(train_tiny: Callable[..., Training], tmp_path: Path) -> None:
    questions = iter([False, False, False, True])
    with pytest.raises(InterruptedRunError):
        train_tiny(folder="torn", should_stop=lambda: next(questions))
    checkpoint = tmp_path / "torn" / "checkpoint"
    before = checkpoint.read_bytes()
    for num_bytes in (0, 1000, len(before) // 8):  # less than the weights take
        with no_file_beyond(num_bytes), pytest.raises(LlmbenchError, match="; free space or fix"):
            train_tiny(folder="torn")
        assert checkpoint.read_bytes() == before
        assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]
    assert train_tiny(folder="torn").weights_sha256 == train_tiny(folder="whole").weights_sha256


PROGRAM = (sys.executable, "-m", "harness.cli")
FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.mark.parametrize(("options", "words"), [("size=100k", FULL), ("ro", READ_ONLY)])
def test_a_full_or_read_only_disk_ends_a_run_in_a_sentence(
    sandbox: Sandbox, tmp_path: Path, options: str, words: str
) -> None:
    own = sandbox.copy(tmp_path / "llmbench")
    (own.root / "runs").mkdir()
    done = mounted("runs", options, *PROGRAM, *SEED_0, cwd=own.root)
    assert words in refusal(done)
    left = [Path(name).name for name in done.stdout.splitlines()[-1].split()]
    assert [name for name in left if not name.endswith((".log", ".lock"))] == []


@pytest.mark.parametrize(("options", "words"), [("size=8k", FULL), ("ro", READ_ONLY)])
def test_a_full_or_read_only_disk_leaves_no_half_submission(
    filed: FiledContest, tmp_path: Path, options: str, words: str
) -> None:
    own = filed.without_the_record(tmp_path / "llmbench")
    shutil.rmtree(own.root / "submissions" / "0001-smoke-baseline")
    (own.root / "leaderboard.csv").write_text("")
    done = mounted("submissions", options, *PROGRAM, "submit", "--baseline", "--track", "smoke", cwd=own.root)
    assert words in refusal(done)
    assert done.stdout.split() == []
    assert (own.root / "leaderboard.csv").read_text() == ""


def test_two_runs_of_one_contest_at_once_train_it_once(sandbox: Sandbox, tmp_path: Path) -> None:
    own = sandbox.copy(tmp_path / "llmbench")
    one, other = own.twice(*SEED_0, "--json")
    assert (one.returncode, other.returncode) == (0, 0), one.stderr + other.stderr
    assert one.stdout == other.stdout  # times and all
    assert (one.stderr + other.stderr).count("another llmbench trains this run; waiting for it") == 1


def test_two_submits_at_once_file_one_record(filed: FiledContest, tmp_path: Path) -> None:
    own = filed.without_the_record(tmp_path / "llmbench")
    one, other = sorted(own.twice("submit", "--variant", "token_smear", "--track", "smoke"), key=lambda d: d.returncode)
    assert one.returncode == 0, one.stderr
    assert other.returncode in (2, 3), other.stderr
    assert "Traceback" not in other.stderr
    folders = sorted(path.name for path in (own.root / "submissions").iterdir())
    assert folders == ["0001-smoke-baseline", "0002-smoke-token_smear"]
    assert not any(verify_board(Project(own.root)).values())


def test_a_submit_that_was_killed_leaves_nothing_that_counts(filed: FiledContest, tmp_path: Path) -> None:
    own = filed.without_the_record(tmp_path / "llmbench")
    torn = own.root / "submissions" / ".new-killed" / "0002-smoke-token_smear"
    torn.mkdir(parents=True)
    (torn / "submission.json").write_text("{")
    assert own("submit", "--variant", "token_smear", "--track", "smoke").returncode == 0
    assert not any(verify_board(Project(own.root)).values())
    assert load_submission(own.root / "submissions" / "0002-smoke-token_smear").number == 2
    assert not torn.parent.exists()


@pytest.mark.parametrize("folder", ["submissions", "runs", "runs/smoke", "tracks", "models/variants"])
def test_a_folder_that_is_closed_ends_a_command_in_a_sentence(filed: FiledContest, tmp_path: Path, folder: str) -> None:
    """None of them may pass for an empty one."""
    own = filed.sandbox.copy(tmp_path / "llmbench")
    closed = own.root / folder
    mode = closed.stat().st_mode
    closed.chmod(0)
    try:
        with closed_to_us():
            own.refuses("submit", "--variant", "qk_norm", "--track", "smoke")
    finally:
        closed.chmod(mode)
