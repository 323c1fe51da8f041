"""Worker processes: each begins in clean memory, says what it has to say, and none outlives whoever started it."""

from __future__ import annotations

import json
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import LlmbenchError
from harness.core.events import Failed, Step
from harness.player.job import Job
from harness.player.process import Worker
from tests import kills
from tests.sandbox import FiledContest, Sandbox, python

Start = Callable[..., Worker]


@pytest.fixture
def start(job: Job, tmp_path: Path) -> Start:
    def make(work: str, **variables: str) -> Worker:
        (tmp_path / "log").write_text("")
        return Worker(f"tests.player.workers:{work}", job, tmp_path / "log", variables)

    return make


def found(worker: Worker) -> Any:
    with worker:
        (answer,) = worker.events()
        assert isinstance(answer, Failed)
        assert worker.wait() == 0
    return json.loads(answer.reason)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are fresh interpreters")
def test_each_worker_begins_in_the_same_clean_memory(start: Start, tmp_path: Path) -> None:
    one, other = found(start("tell", VARIABLE="set")), found(start("tell"))
    assert one["process"] != other["process"]
    assert [one["variable"], other["variable"]] == ["set", None]
    for each in (one, other):
        assert each["preloaded"]
        assert not each["marked"]
        assert each["descriptors"] == 1, "it holds more than the pipe of its events"
        assert each["session"], "Ctrl-C would reach it"
    assert (tmp_path / "log").read_text() == "printed\n"


def test_a_fresh_interpreter_does_the_same(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_START", "spawn")
    said = found(start("tell", VARIABLE="set"))
    assert said["variable"] == "set"
    assert not said["marked"]
    assert (tmp_path / "log").read_text() == "printed\n"


def test_a_way_to_start_that_does_not_exist_is_one_sentence(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_START", "fork")
    with pytest.raises(LlmbenchError, match="LLMBENCH_START is 'fork'; set it to forkserver or spawn"):
        start("tell")


def test_a_stop_ends_a_worker_in_its_own_way(start: Start) -> None:
    with start("wait") as worker:
        events = worker.events()
        next(events)
        worker.stop()
        assert list(events) == []
        assert worker.wait() == 5


def test_an_error_leaves_no_worker_behind(start: Start) -> None:
    with suppress(KeyError), start("wait") as worker:
        first = next(worker.events())
        raise KeyError
    assert isinstance(first, Step)
    kills.outlive({first.step}, patience_s=10)


@pytest.mark.parametrize("work", ["gibberish", "endless"])
def test_what_is_no_event_is_a_failure_and_ends_the_worker(start: Start, work: str) -> None:
    with start(work) as worker:
        (answer,) = worker.events()
    assert answer == Failed(status="error", reason="its process sent something that is no event")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a worker with its parent on Linux alone")
def test_a_killed_server_takes_its_workers_along_and_another_one_is_started(start: Start) -> None:
    with start("wait") as worker:
        events = worker.events()
        first = next(events)
        assert isinstance(first, Step)
        os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert list(events) == []
        assert worker.wait() == -signal.SIGKILL
        kills.outlive({first.step}, patience_s=10)
    assert found(start("tell"))["preloaded"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a worker with its parent on Linux alone")
@pytest.mark.parametrize("way", ["forkserver", "spawn"])
def test_no_worker_outlives_a_command_that_was_killed(job: Job, tmp_path: Path, way: str) -> None:
    (tmp_path / "log").write_text("")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from harness.player.job import Job; from harness.player.process import Worker\n"
        "job = Job.model_validate_json(sys.argv[1])\n"
        "worker = Worker('tests.player.workers:wait', job, Path(sys.argv[2]), {})\n"
        "print(next(worker.events()).step, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = python("-c", code, job.model_dump_json(), str(tmp_path / "log"), LLMBENCH_START=way)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kills.outlive({int(killed.stdout)}, patience_s=10)


def test_ctrl_c_reaches_the_command_alone_and_changes_no_result(
    sandbox: Sandbox, filed: FiledContest, tmp_path: Path
) -> None:
    """A terminal sends it to every process of the command: while the fork server starts, and while a run trains."""
    own = sandbox.copy(tmp_path / "llmbench")
    words = ("run", "baseline", "--track", "smoke", "--pairs", "1")
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True}
    for word in ("on smoke", "training"):
        command = [sys.executable, "-m", "harness.cli", *words]
        with subprocess.Popen(command, cwd=own.root, start_new_session=True, **pipes) as process:
            next(line for line in process.stderr if word in line)
            os.killpg(process.pid, signal.SIGINT)
            said = process.stderr.read()
        assert process.returncode == 130, said
        assert said.count("\n") <= 1  # none where no run has begun
    assert "run the same command again to go on" in said
    assert own(*words).returncode == 0
    assert kills.results(own.root)["base"] == kills.results(filed.sandbox.root)["base"]


def test_a_run_without_fork_ends_in_the_same_bits(filed: FiledContest, tmp_path: Path) -> None:
    """The whole way of a run, as it is where no process can be forked."""
    own = filed.sandbox.copy(tmp_path / "llmbench")
    (kept,) = own.root.glob("runs/smoke/base+token_smear/*/seed-0/run.json")
    before = json.loads(kept.read_text())
    kept.unlink()
    done = own("run", "baseline", "--track", "smoke", "--pairs", "1", environment={"LLMBENCH_START": "spawn"})
    assert done.returncode == 0, done.stderr
    after = json.loads(kept.read_text())
    assert after["training"]["weights_sha256"] == before["training"]["weights_sha256"]
    assert after["evaluation"]["nats"] == before["evaluation"]["nats"]
    assert after["training"]["confinement"] == before["training"]["confinement"]
