"""Players' processes: each begins in clean memory, says what it has to say, and none outlives whoever started it."""

from __future__ import annotations

import json
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import torch

import harness.player.process
from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.runs import RunFailedError
from harness.core.track import Track
from harness.player.process import Player
from harness.player.protocol import LONGEST_REASON
from harness.player.start import LONGEST_LOG, PRELOADED, Cell
from harness.referee.job import Job
from harness.referee.session import Session
from harness.variants.check import MODULES
from tests import kills
from tests.players import OpenCasting
from tests.sandbox import FiledContest, Sandbox, python

Play = Callable[..., Session]

TELL = """
import json, os, sys
found = {
    "process": os.getpid(),
    "preloaded": "harness.player.play" in sys.modules,
    "marked": hasattr(json, "mark"),
    "pipes": sum(os.path.exists(f"/proc/self/fd/{number}") for number in range(3, 64)),
    "secrets": [name for name in ("SECRET_TOKEN", "HOME", "USER") if name in os.environ],
}
json.mark = True
print("printed", flush=True)
raise RuntimeError(json.dumps(found))
"""
MAP_FILES = """
import mmap, torch
with open(torch.__path__[0] + "/lib/libtorch_cpu.so", "rb") as file:
    kept = [mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) for _ in range(6)]
for each in kept:
    each[::4096]
"""
SLEEP = "\nimport time\ntime.sleep(60)\n"
DEAF = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    pass
"""


@pytest.fixture
def play(job: Job, tiny: Track) -> Play:
    """Starts a player whose variant does something as it is applied, and has it build."""

    def start(body: str, **options: Any) -> Session:
        text = f"def apply(parts):\n{indent(dedent(body), '    ')}\n    return parts\n"
        casting = OpenCasting(tiny, job, texts=(("idea", text),), **options)
        return casting.start("train", casting.assignment(start="drawn", trains=True))

    return start


def found(play: Play) -> Any:
    with pytest.raises(LlmbenchError) as caught:
        play(TELL)
    assert "RuntimeError: " in str(caught.value), caught.value
    return json.JSONDecoder().raw_decode(str(caught.value).partition("RuntimeError: ")[2])[0]


def failure(play: Play, body: str, **options: Any) -> str:
    with pytest.raises(RunFailedError) as caught:
        play(body, **options)
    assert caught.value.status == "error"
    return str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere players are fresh interpreters")
def test_each_player_begins_in_the_same_clean_memory(play: Play, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    one, other = found(play), found(play)
    assert one["process"] != other["process"]
    for each in (one, other):
        assert each["preloaded"]
        assert not each["marked"]
        assert each["pipes"] == 2, "it holds more than its conversation"
        assert not each["secrets"]
    assert "printed" in job.log("train").read_text()
    with play("") as session:
        assert os.getsid(session.player.pid) == session.player.pid, "Ctrl-C would reach it"


def test_a_fresh_interpreter_does_the_same(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_START", "spawn")
    said = found(play)
    assert not said["marked"]
    assert not said["secrets"]


def test_a_way_to_start_that_does_not_exist_is_one_sentence(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_START", "fork")
    with pytest.raises(LlmbenchError, match="LLMBENCH_START is 'fork'; set it to forkserver or spawn"):
        play("")


def test_a_stop_ends_a_player_within_two_seconds_whatever_it_does(play: Play) -> None:
    begun = time.monotonic()
    with pytest.raises(InterruptedRunError):
        play(DEAF, should_stop=lambda: time.monotonic() - begun > 0.5)
    assert time.monotonic() - begun < 2.5


def test_a_player_that_says_nothing_is_ended_by_name(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.player.process, "PREPARE_S", 1.0)
    assert failure(play, DEAF) == "silence: the run's process gave no answer for 1 s"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux limits memory")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("kept = [bytearray(1 << 24) for _ in range(64)]", "MemoryError"),
        ("import mmap\nkept = mmap.mmap(-1, 1 << 30)", "Operation not permitted"),  # shared, so no limit counts it
        (MAP_FILES + SLEEP, "memory: "),
    ],
)
def test_a_player_that_takes_too_much_memory_is_ended_by_name(play: Play, body: str, words: str) -> None:
    with pytest.raises((RunFailedError, LlmbenchError), match=words):
        play(body, memory_bytes=600 << 20 if torch.version.cuda is None else 1200 << 20)  # with CUDA torch takes more


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", "the run's process crashed: SIGSEGV"),
        ("import os; os.abort()", "the run's process crashed: SIGABRT"),
        ("import os; os._exit(3)", "the run's process ended with code 3"),
    ],
)
def test_a_crash_is_the_candidates_failure_and_named(play: Play, body: str, words: str) -> None:
    assert words in failure(play, body)


SAY = """
import os, pickle, struct
pipe = max(number for number in range(3, 64) if os.path.exists(f"/proc/self/fd/{number}"))
done = struct.pack("!i", 1) + bytes(1)
"""


@pytest.mark.parametrize(
    "message",
    [
        'struct.pack("!i", 1) + bytes([7])',  # neither done nor failed
        'struct.pack("!iQ", -1, 1 << 60)',  # a header that says that it is an exabyte
        'struct.pack("!i", 1 << 30)',
        'struct.pack("!i", -5)',
        'done + struct.pack("!i", 9) + b"[NaN, {}]"',  # a model that is none
        'done + struct.pack("!i", len(pickle.dumps(print))) + pickle.dumps(print)',
        'done + struct.pack("!i", 2) + b"[["',
    ],
)
def test_what_is_no_answer_ends_the_player_and_nothing_else(play: Play, message: str) -> None:
    assert failure(play, f"{SAY}os.write(pipe, {message})\n{SLEEP}") in (
        "the run's process sent an invalid answer",
        "the run's process sent an answer that is too long",
        "the run's process sent an answer of the wrong size",
    )


def test_a_flood_of_words_is_cut(play: Play, job: Job) -> None:
    with pytest.raises(LlmbenchError) as caught:
        play("raise ValueError('x' * (30 << 20))")
    assert len(str(caught.value)) < 2 * LONGEST_REASON
    with pytest.raises((RunFailedError, LlmbenchError)):
        play("print('y' * (100 << 20), flush=True)")
    assert job.log("train").stat().st_size <= LONGEST_LOG


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a player with its parent on Linux alone")
def test_a_killed_server_takes_its_players_along_and_another_one_is_started(play: Play) -> None:
    session = play("")
    os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
    kills.outlive({session.player.pid}, patience_s=10)
    with session, pytest.raises(RunFailedError, match="killed by signal 9") as caught:
        session.snapshot()
    assert caught.value.status == "interrupted"
    assert found(play)["preloaded"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a player with its parent on Linux alone")
@pytest.mark.parametrize("way", ["forkserver", "spawn"])
def test_no_player_outlives_a_command_that_was_killed(tmp_path: Path, way: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys; from pathlib import Path\n"
        "from harness.player.process import Player\n"
        "from harness.player.start import Cell\n"
        "if __name__ == '__main__':\n"
        "    player = Player(Cell(), Path(sys.argv[1]))\n"
        "    print(player.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = python(str(script), str(tmp_path / "log"), LLMBENCH_START=way, PYTHONPATH=os.getcwd())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kills.outlive({int(killed.stdout)}, patience_s=10)


def test_an_error_leaves_no_player_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Player(Cell(), tmp_path / "log") as player:
        raise KeyError
    kills.outlive({player.pid}, patience_s=10)


def test_the_clock_of_a_player_is_read_from_outside_and_stands_while_it_is_frozen(play: Play) -> None:
    busy = "import threading\ndef work():\n    while True: pass\nthreading.Thread(target=work, daemon=True).start()"
    with play(busy) as session:
        player = session.player
        before = player.cpu_s()
        time.sleep(0.3)
        assert player.cpu_s() > before
        player.freeze()
        time.sleep(0.05)
        frozen = player.cpu_s()
        time.sleep(0.3)
        assert player.cpu_s() == pytest.approx(frozen, abs=0.01)
        player.thaw()
        session.snapshot()


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
    around = [name for name in before["training"]["confinement"] if name != "bubblewrap"]  # around the fork server
    assert after["training"]["confinement"] == around


def test_all_that_a_variant_may_import_is_imported_before_confinement() -> None:
    """A player cannot list `models/`: a module that it has not imported is not found once that folder changes."""
    done = python("-c", f"import sys\nfor name in {PRELOADED}: __import__(name)\nprint(*sys.modules)")
    assert {name for name in MODULES if name.startswith("models.")} <= {*done.stdout.split()}
