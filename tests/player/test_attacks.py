"""Attempts of somebody who wants a record and may run any Python: each ends by name, or in the honest run's numbers.

Nobody checks these sources. An attempt patches the player's own program, which is in its memory: there it may lie about
all that it says, and what it says is data to the referee.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

import harness.player.process
from harness.core.errors import LlmbenchError
from harness.core.runs import Evaluation, FailedRun, RunFailedError, Training
from harness.core.track import Track
from harness.referee.job import Job
from harness.referee.session import Session
from tests.make import make_job
from tests.players import OpenCasting, ending, run_through

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux confines")
Cast = Callable[..., OpenCasting]
Start = Callable[..., Session]


@pytest.fixture
def cast(job: Job, tiny: Track) -> Cast:
    """The players of a run whose variant does something as it is applied."""

    def make(body: str, **options: Any) -> OpenCasting:
        text = f"def apply(parts):\n{indent(dedent(body), '    ')}\n    return parts\n"
        return OpenCasting(tiny, job, texts=(("idea", text),), **options)

    return make


@pytest.fixture
def start(cast: Cast) -> Start:
    """A player that trains, once it is built."""

    def begin(body: str, **options: Any) -> Session:
        casting = cast(body, **options)
        return casting.start("train", casting.assignment(start="drawn", trains=True))

    return begin


@pytest.fixture(scope="module")
def splits(tiny_tokens: dict[str, Any]) -> dict[str, Any]:
    return {**tiny_tokens, "val": tiny_tokens["train"][:1500]}


@pytest.fixture(scope="module")
def honest(
    tiny: Track, splits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Training, Evaluation]:
    return run_through(OpenCasting(tiny, make_job(tiny, tmp_path_factory.mktemp("honest"))), splits)


# Calls of the kernel, by their numbers on x86-64 and aarch64, that no test of the confinement itself makes.
CALLS = {
    "setpgid": (109, 154), "splice": (275, 76), "tee": (276, 77), "vmsplice": (278, 75), "sendfile": (40, 71),
    "copy_file_range": (326, 285), "fallocate": (285, 47), "personality": (135, 92), "name_to_handle_at": (303, 264),
    "landlock_create_ruleset": (444, 444), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "ioprio_set": (251, 30), "sched_setattr": (314, 274),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_getfd": (438, 438), "fsopen": (430, 430),
    "open_tree": (428, 428), "fanotify_init": (300, 262), "signalfd4": (289, 74), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130), "syslog": (103, 116), "sysinfo": (99, 179),
    "kcmp": (312, 272), "mlockall": (151, 230), "memfd_secret": (447, 447), "quotactl": (179, 60), "acct": (163, 89),
    "swapoff": (168, 225), "sync": (162, 81), "mknodat": (259, 33), "symlinkat": (266, 36), "getpriority": (140, 141),
}  # fmt: skip
TRY_CALLS = """
import ctypes, errno, platform
libc, column = ctypes.CDLL(None, use_errno=True), int(platform.machine() == "aarch64")
got = []
for name, numbers in {calls}.items():
    done = libc.syscall(numbers[column], 0, 0, 0, 0, 0, 0)
    if done >= 0 or ctypes.get_errno() != errno.EPERM:
        got.append(name)
for name, flags in {{"shared": 0x21, "that grows": 0x122, "of huge pages": 0x40022}}.items():
    libc.mmap.restype = ctypes.c_void_p
    if libc.mmap(None, 1 << 21, 3, flags, -1, 0) != ctypes.c_void_p(-1).value or ctypes.get_errno() != errno.EPERM:
        got.append("memory " + name)
raise RuntimeError("got " + repr(got))
"""


@linux
def test_calls_that_reach_past_the_process_are_refused(start: Start) -> None:
    """Moving bytes in the kernel, others' memory and signals, priorities, counters, and memory that no limit counts."""
    with pytest.raises(LlmbenchError, match=r"got \[\]"):
        start(TRY_CALLS.format(calls=CALLS))


TRY_FILES = """
import os
got = []
for name in {names}:
    name = name.replace("PARENT", str(os.getppid()))
    try:
        if os.path.isdir(name):
            os.listdir(name)
        else:
            open(name, "rb").read(1)
        got.append(name)
    except OSError:
        pass
for name in {written}:
    try:
        open(name, "ab").write(b"0")
        got.append(name)
    except OSError:
        pass
raise RuntimeError("got " + repr(got))
"""


@linux
@pytest.mark.parametrize("way", ["forkserver", "spawn"], ids=["in a bubble", "without"])
def test_neither_the_referee_nor_what_all_players_share_can_be_read_or_written(
    start: Start, job: Job, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Memory and words of the referee, its log and folder, the fork server's sockets, and counters of the machine."""
    monkeypatch.setenv("LLMBENCH_START", way)
    referee = [
        f"/proc/{os.getpid()}/{name}" for name in ("cmdline", "status", "stat", "environ", "mem", "fd", "maps", "task")
    ]
    server = [f"/proc/PARENT/{name}" for name in ("cmdline", "stat", "environ", "fd")]
    counters = [f"/proc/{name}" for name in ("meminfo", "stat", "loadavg", "vmstat", "uptime", "net/dev", "interrupts")]
    counters += ["/sys/devices/system/node/node0/meminfo", "/sys/devices/system/node/node0/vmstat"]
    counters += ["/sys/devices/system/cpu/cpu0/cpuidle/state0/usage", "/sys/kernel/mm/transparent_hugepage/khugepaged"]
    others = [job.folder, "/tmp", "/dev/shm", "/run", "/proc", "/proc/self/fd/1", "/proc/self/environ", "/dev/tty"]
    written = ["/tmp/left", "/dev/shm/left", f"{job.folder}/left", "/proc/self/oom_score_adj", "/proc/self/comm"]
    written += ["/proc/self/coredump_filter", "/proc/self/timens_offsets", "/dev/kmsg", "/dev/ptmx", "/dev/full"]
    with pytest.raises(LlmbenchError, match=r"got \[\]"):
        start(TRY_FILES.format(names=[*referee, *server, *counters, *others], written=written))


@linux
def test_players_that_were_forked_from_one_server_share_no_memory(start: Start) -> None:
    with start("") as session:
        mapped = Path(f"/proc/{session.player.pid}/maps").read_text().splitlines()
    assert mapped
    assert [line for line in mapped if line.split()[1] in ("rw-s", "-w-s", "rwxs")] == []


@linux
def test_a_player_that_ends_with_its_last_answer_keeps_the_time_that_it_took(start: Start) -> None:
    leaves = """
    import os, threading, time
    import harness.player.play as play
    weights = play.Program._weights
    def leave(self):
        began = time.process_time()
        while time.process_time() - began < 0.5:
            pass
        threading.Timer(0.05, os._exit, [0]).start()
        return weights(self)
    play.Program._weights = leave
    """
    with start(leaves) as session:
        player, built_s = session.player, session.player.cpu_s()
        session.snapshot()
        with pytest.raises(RunFailedError, match="ended with code 0"):
            session.snapshot()
        assert player.cpu_s() > built_s + 0.2


FORGED = """
import json, sys
import harness.player.play as play
real = play.Built
class Forged:
    def __init__(self, **fields):
        self.real = real(**fields)
    def model_dump_json(self):
        sys.set_int_max_str_digits(0)
        built = json.loads(self.real.model_dump_json())
        first = built["tensors"][0]
        {change}
        return json.dumps(built)
play.Built = Forged
"""
NO_ANSWER = "the run's process sent an invalid answer"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("first['shape'] = [10**400]", NO_ANSWER),  # no floating-point number is so large
        ("first['shape'] = [10**5000]", NO_ANSWER),  # nor does Python print it
        ("first['shape'] = [2**62]", NO_ANSWER),
        ("first['shape'] = [-1]", NO_ANSWER),
        ("first['shape'] = [1] * 9", NO_ANSWER),
        ("first['shape'] = [2**30]", "memory: the weights take 4.0 GiB"),  # the referee would hold them too
        ("first['shape'] = [2**40] * 8", "memory: the weights take"),
        ("first['dtype'] = 'complex64'", "a tensor has type complex64"),
        (r"first['name'] = '\x1b[31m'", NO_ANSWER),
        (r"first['name'] = '\ud800'", NO_ANSWER),
        ("first['name'] = 'x' * 301", NO_ANSWER),
        ("first['name'] = ''", NO_ANSWER),
        (
            "first['name'] = '__metadata__'",
            "a tensor is called __metadata__, a reserved name",
        ),  # a safetensors file's own key
        ("first['name'] = built['tensors'][1]['name']", "two tensors have the same name"),
        ("built['tensors'] *= 4000", "the run's process sent an answer that is too long"),
        ("built['tensors'] = [{**first, 'name': str(n), 'shape': []} for n in range(12000)]; first = 0", ""),
        ("built['score'] = 0", NO_ANSWER),
        ("return '[' * 500_000", NO_ANSWER),
    ],
)
def test_what_a_player_claims_to_have_built_is_checked_before_a_byte_of_it(
    start: Start, change: str, words: str
) -> None:
    with pytest.raises(RunFailedError) as caught:
        start(FORGED.format(change=change), memory_bytes=2 << 30).snapshot()
    assert words in str(caught.value)


PIPE = "import os, struct, time\npipe = max(n for n in range(3, 64) if os.path.exists(f'/proc/self/fd/{n}'))\n"
LEADER = """
import ctypes, threading
threading.Thread(target=time.sleep, args=(60,)).start()
os.close(pipe)
ctypes.CDLL(None).pthread_exit(None)
"""


@linux
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os._exit(255)", "the run's process ended with code 255"),  # what a lost fork server would say
        ("os._exit(-9)", "the run's process ended with code 247"),
        ("os.close(pipe)\ntime.sleep(60)", "the run's process closed its pipe and did not exit"),
        (LEADER, "the run's process closed its pipe and did not exit"),
        (
            "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(60)",
            "the run's process crashed: SIGALRM",
        ),
        ("os.write(pipe, struct.pack('!i', 1))\ntime.sleep(60)", "silence: "),  # half a message
        ("for _ in range(600):\n    os.write(pipe, bytes(1))\n    time.sleep(0.1)", "an answer of the wrong size"),
        (
            "os.write(pipe, struct.pack('!i', 1 << 19))\nwhile True: os.write(pipe, bytes(9)); time.sleep(0.1)",
            "an answer that is too long",
        ),
    ],
)
def test_no_player_can_end_as_if_it_was_killed_from_outside(
    start: Start, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    """What is killed from outside is made again: it could draw until it is lucky."""
    monkeypatch.setattr(harness.player.process, "PREPARE_S", 2.0)
    monkeypatch.setattr(harness.player.process, "PATIENCE_S", 0.5)
    with pytest.raises(RunFailedError, match=words) as caught:
        start(PIPE + body)
    assert caught.value.status == "error"


@linux
def test_a_kill_for_want_of_memory_is_no_interruption(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with start("") as session:
        assert Path(f"/proc/{session.player.pid}/oom_score_adj").read_text() == "1000\n", "the referee would go first"
        before = harness.player.process.ended_for_memory()
        monkeypatch.setattr(harness.player.process, "ended_for_memory", lambda: before + 1)
        os.kill(session.player.pid, signal.SIGKILL)
        with pytest.raises(RunFailedError, match="because no memory was left") as caught:
            session.snapshot()
    assert caught.value.status == "error"


@linux
def test_a_flood_of_threads_ends_by_name(start: Start) -> None:
    flood = """
    import threading, time
    threading.stack_size(1 << 16)
    for _ in range(20_000):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(60)
    """
    with pytest.raises(RunFailedError, match="threads: the run's process started more than 1000"):
        start(flood)


@linux
def test_a_fresh_interpreter_reaches_nothing_that_removes_names(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """multiprocessing's tracker, which is not confined, unlinks whatever name is written to its pipe."""
    monkeypatch.setenv("LLMBENCH_START", "spawn")
    write = "import os\nfrom multiprocessing import resource_tracker as tracker\n"
    write += "os.write(tracker._resource_tracker._fd, b'x')"
    with pytest.raises(LlmbenchError, match="Bad file descriptor"):
        start(write)


def test_what_a_failure_says_is_printable_and_refuses_nothing_once_a_model_stands(start: Start, job: Job) -> None:
    with pytest.raises(LlmbenchError) as refused:
        start(r"raise ValueError('\x1b]0;title\x07\x1b[2J<script>' + '\u202e')")
    assert str(refused.value).isprintable()
    forge = """
    import harness.player.play as play
    from harness.core.errors import LlmbenchError
    def refuse(self):
        raise LlmbenchError("\\x1b[2J" + "x" * 10_000)
    play.Program._weights = refuse
    """
    with start(forge) as session, pytest.raises(RunFailedError) as failed:
        session.snapshot()
    assert failed.value.status == "error"
    reason: Any = FailedRun.__pydantic_fields__["reason"].metadata[0].func(str(failed.value))
    assert reason.isprintable()
    assert len(reason) < 500


OTHER_STATE = """
import harness.player.train as train
train.Training.save = lambda self: {state}
"""


def test_a_saved_state_is_capped_and_opens_in_a_player_alone(start: Start) -> None:
    large = start(OTHER_STATE.format(state="bytes(100 << 20)"))
    with large, pytest.raises(RunFailedError, match="an answer that is too long"):
        large.save()
    bomb = pickle.dumps(print)
    with start(OTHER_STATE.format(state=repr(bomb))) as session:
        assert session.save() == bomb
        with pytest.raises(RunFailedError, match="the checkpoint does not fit the model"):
            session.resume(bomb)


PATCH = """
import os, struct, time
import harness.player.play as play
import harness.player.train as train
step, weights, load, score = train.Training.step, play.Program._weights, play.Program._load, play.Program._score
"""
LOSSES = PATCH + "train.Training.step = lambda self, *asked: (step(self, *asked), {losses})[1]"
TWICE = """
def twice(self, *asked):
    answer = step(self, *asked)
    for part in (bytes(1), answer):
        os.write(pipe, struct.pack("!i", len(part)) + part)
    return answer
train.Training.step = twice
"""
SPREAD = """
import numpy as np
def far_apart(self, tokens):
    logits = np.frombuffer(score(self, tokens), "<f4").reshape(*tokens.shape, -1).copy()
    logits[..., :] = -3e38
    logits[..., 7] = 3e38
    return memoryview(logits).cast("B")
play.Program._score = far_apart
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (LOSSES.format(losses="b''"), "the run's process reported too many or too few losses"),
        (LOSSES.format(losses="struct.pack('<d', -5.0)"), "the run's process reported too many or too few losses"),
        (LOSSES.format(losses="bytes(24)"), "the run's process reported too many or too few losses"),
        (LOSSES.format(losses="bytes(7)"), NO_ANSWER),
        (LOSSES.format(losses="struct.pack('<d', float('nan'))"), "diverged: "),
        (LOSSES.format(losses="struct.pack('<d', 1e308)"), "diverged: "),
        (LOSSES.format(losses="bytes(1 << 20)"), "an answer that is too long"),
        (PATCH + PIPE + TWICE, "error: the run's process"),
        (PATCH + "play.Program._weights = lambda self: weights(self)[:-1]", "an answer of the wrong size"),
        (PATCH + "play.Program._weights = lambda self: weights(self) + bytes(1)", "an answer that is too long"),
        (PATCH + "play.Program._weights = lambda self: bytes([255]) * len(weights(self))", "finiteness: "),
        (PATCH + 'play.Program._report = lambda self: b\'{"peak_memory_mib": null, "experts": 1e400}\'', NO_ANSWER),
        (PATCH + "play.Program._report = lambda self: b'[' * (1 << 19)", NO_ANSWER),
        (PATCH + SPREAD, "finiteness: a loss of the model is NaN or infinite"),
    ],
)
def test_what_a_player_answers_is_checked_and_crashes_nothing(
    cast: Cast, splits: dict[str, Any], body: str, words: str
) -> None:
    assert words in ending(cast(body), splits)


# Each of these finishes; what it did is counted, or came to nothing.
LATER = """
kept = []
def note(self, *asked):
    kept.append(asked)
    return struct.pack("<d", 1.0)
def train_now(self):
    for asked in kept:
        step(self.training, *asked)
    kept.clear()
    return weights(self)
train.Training.step, play.Program._weights = note, train_now
"""
HIDDEN = """
import threading
def spin():
    began = time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
def busy(self, *asked):
    thread = threading.Thread(target=spin)
    thread.start()
    thread.join()
    return step(self, *asked)
train.Training.step = busy
"""
THINKS = """
def think(self, body):
    began = time.process_time()
    while time.process_time() - began < 0.4:
        pass
    return load(self, body)
play.Program._load = think
"""
IN_BETWEEN = """
import threading
def spin():
    while time.thread_time() < 0.2:
        pass
def think(self, body):
    threading.Thread(target=spin, daemon=True).start()
    return load(self, body)
play.Program._load = think
"""
EARLY = """
import select
pipes = [n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{n}")]
def peek(self, *asked):
    if select.select([pipes[0]], [], [], 0.02)[0]:
        raise RuntimeError("a later batch is there")
    return step(self, *asked)
train.Training.step = peek
"""
LISTENS = """
if os.fstat(1).st_size:
    raise RuntimeError("another player wrote here")
print("x" * 4999, flush=True)
def listen(self, *asked):
    if os.fstat(1).st_size != 5000:
        raise RuntimeError("another player wrote here")
    return step(self, *asked)
def speak(self, body):
    print("x" * 5000, flush=True)
    return load(self, body)
train.Training.step, play.Program._load = listen, speak
"""
LIES = """
import json
def report(self):
    return json.dumps({"peak_memory_mib": 10**400, "experts": [{"load": [0.5] * 9, "balance": 1e308}]}).encode()
play.Program._report = report
"""
FINISHES = {
    "trains once all batches are there": LATER,
    "computes in threads that have ended": HIDDEN,
    "thinks as it loads": THINKS,
    "thinks between questions": IN_BETWEEN,
    "looks for later batches": EARLY,
    "speaks through the length of a log": LISTENS,
    "lies about its losses": LOSSES.removeprefix(PATCH).format(losses="struct.pack('<d', 0.0)"),
    "lies about itself": LIES,
}


@linux
@pytest.mark.parametrize("name", FINISHES)
def test_what_finishes_has_the_honest_numbers_and_is_measured_whole(
    cast: Cast, splits: dict[str, Any], honest: tuple[Training, Evaluation], name: str
) -> None:
    training, evaluation = run_through(cast(PATCH + FINISHES[name]), splits)
    assert training.tokens == honest[0].tokens
    assert training.weights_sha256 == honest[0].weights_sha256
    assert evaluation.nats == honest[1].nats
    assert evaluation.eval_cpu_s is not None
    if "computes" in name:
        assert training.cpu_s > 0.05 * training.steps
    if "thinks" in name:
        assert evaluation.eval_cpu_s > 0.1
    if "loads" in name:
        assert evaluation.eval_s > 0.2
