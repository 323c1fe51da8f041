"""Confinement: a confined process computes, reads what it was given, and everything else is refused."""

from __future__ import annotations

import json
import platform
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.core.project import Project
from harness.core.track import load_track
from harness.player.confine import carve, player_environment
from harness.referee.job import Job
from tests.make import TEXTS, smoke_with, write_text
from tests.sandbox import make_sandbox, python

linux = pytest.mark.skipif(platform.system() != "Linux", reason="confinement is Linux's")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # else importing numpy starts threads


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What tests/player/confined.py found: names in force, capabilities, then each attempt's error."""
    folder = tmp_path_factory.mktemp("confined")
    for name in ("given", "other"):
        (folder / name).write_text("text")
    (folder / "own").mkdir()
    done = python("-m", "tests.player.confined", str(folder), **ONE_THREAD)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@linux
def test_a_confined_process_computes_with_several_threads_and_reads_what_it_was_given(tried: Any) -> None:
    allowed = tried[2]
    assert {name: error for name, error in allowed.items() if error is not None} == {}


@linux
def test_files_and_folders_that_were_not_given_cannot_be_opened_or_listed(tried: Any) -> None:
    in_force, files = tried[0], tried[3]
    if "landlock" not in in_force:
        pytest.skip("this kernel has no Landlock")
    assert {name: error for name, error in files.items() if error != "EACCES"} == {}


@linux
def test_calls_that_are_not_listed_are_refused(tried: Any) -> None:
    in_force, calls = tried[0], tried[4]
    if "seccomp" not in in_force:
        pytest.skip("this kernel has no seccomp")
    unknown = {name for name, error in calls.items() if error == "ENOSYS"}
    assert unknown == {"clone3", "newer than the table"}
    assert {name: error for name, error in calls.items() if error not in ("EPERM", "ENOSYS")} == {}


@linux
def test_a_confined_process_holds_no_capability(tried: Any) -> None:
    assert "capabilities" in tried[0]
    assert tried[1] == [0, 0, 0, 0]


@linux
def test_memory_descriptors_and_files_are_limited(tried: Any) -> None:
    assert tried[5] == {"memory": "ENOMEM", "a large file": "EFBIG", "descriptors": "EMFILE"}


@linux
def test_a_process_with_two_threads_is_not_confined_but_told() -> None:
    code = (
        "import threading; from harness.player.confine import confine\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "confine([])"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert "this process has 2 threads and only one would be confined" in done.stderr


@linux
def test_abort_and_a_segmentation_fault_end_a_confined_process_by_their_own_signals() -> None:
    for signal, crash in ((6, "os.abort()"), (11, "ctypes.string_at(0)")):
        code = "import ctypes, os; from harness.player.confine import confine, interpreter_paths\n"
        done = python("-c", code + f"confine(interpreter_paths([]))\n{crash}")
        assert done.returncode == -signal, done.stderr


# As a process that compiles.
COMPILER = """
import json, subprocess, sys
from pathlib import Path
from harness.player.confine import confine, interpreter_paths
folder = Path(sys.argv[1])
own = folder / "own"
in_force = confine([*interpreter_paths([]), folder / "given"], [own], programs=True)
found = []

def attempt(*command):
    try:
        done = subprocess.run(command, capture_output=True)
        found.append(done.returncode == 0)
    except OSError:
        found.append(False)

(own / "main.cpp").write_text("#include <vector>\\nint main() { return std::vector<int>(0).size(); }")
attempt("mkdir", own / "new")
attempt("cat", folder / "given")
attempt("g++", own / "main.cpp", "-o", own / "main")
attempt("cat", folder / "other")
attempt(own / "main")
attempt(sys.executable, "-c", "import socket; socket.socket()")
attempt(sys.executable, "-c", "import os; os.kill(os.getppid(), 0)")
attempt("unshare", "--user", "true")
print(json.dumps([in_force, found]))
"""


@linux
def test_what_compiles_may_start_programs_that_are_confined_too_but_none_that_it_wrote(tmp_path: Path) -> None:
    for name in ("given", "other"):
        (tmp_path / name).write_text("text")
    (tmp_path / "own").mkdir()
    done = python("-c", COMPILER, str(tmp_path), TMPDIR=str(tmp_path / "own"))
    assert done.returncode == 0, done.stderr
    in_force, found = json.loads(done.stdout.splitlines()[-1])
    if not {"landlock", "seccomp"} <= set(in_force):
        pytest.skip("this kernel confines no process")
    assert found == [True] * 3 + [False] * 5


# Two ranks of one run, each confined before it connects.
RANK = """
import os, sys
import torch
from torch import distributed
from harness.player.confine import confine, interpreter_paths
print(*confine(interpreter_paths([]), network=True))
store = distributed.TCPStore("127.0.0.1", int(sys.argv[2]), 2, is_master=sys.argv[1] == "0")
distributed.init_process_group("gloo", store=store, rank=int(sys.argv[1]), world_size=2)
ones = torch.ones(1)
distributed.all_reduce(ones)
try:
    open(sys.argv[3])
except PermissionError:
    print(int(ones))
"""


@linux
def test_confined_ranks_of_a_run_reach_each_other_over_gloo(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("text")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with ThreadPoolExecutor() as pool:
        arguments = [("-c", RANK, rank, port, str(tmp_path / "other")) for rank in "01"]
        done = list(pool.map(lambda each: python(*each, **ONE_THREAD), arguments))
    assert [one.stdout.splitlines()[-1] for one in done] == ["2", "2"], done


def test_a_player_gets_settings_of_its_libraries_and_no_name_or_secret() -> None:
    kept = {"OMP_NUM_THREADS": "2", "LANG": "C", "CUDA_VISIBLE_DEVICES": "0"}
    environ = {**kept, "HOME": "/home/someone", "USER": "someone", "HF_TOKEN": "secret", "PATH": "/bin", "CXX": "g++"}
    found = player_environment(environ)
    assert found.items() >= kept.items()
    assert not {"HOME", "USER", "HF_TOKEN", "PATH", "CXX"} & set(found)
    assert "someone" not in found.values()
    assert player_environment(environ, compiles=True) == {**found, "PATH": "/bin", "CXX": "g++"}


def test_carving_covers_everything_but_what_is_denied(tmp_path: Path) -> None:
    for name in ("a/x/1", "a/x/2", "a/y/1", "b/1", "1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    names = [path.relative_to(tmp_path).as_posix() for path in carve(tmp_path, [tmp_path / "a/x/1", tmp_path / "b"])]
    assert sorted(names) == ["1", "a/x/2", "a/y"]
    assert carve(tmp_path, [tmp_path.parent / "elsewhere"]) == [tmp_path]
    assert carve(tmp_path, [tmp_path]) == []


# What a run's player reaches of a corpus that lies where models' code does.
PLAYER = """
import json, sys
from pathlib import Path
from harness.player.confine import confine
from harness.referee.casting import Casting
from harness.referee.job import Job
job = Job.model_validate_json(sys.argv[1])
casting = Casting(job.load_track(), job)
cell = casting.cell(casting.assignment(trains=True, start="drawn"))
in_force = confine(map(Path, cell.readable), map(Path, cell.writable))
refused = []
for name in sys.argv[2:]:
    try:
        Path(name).read_bytes()
    except OSError:
        refused.append(Path(name).name)
print(json.dumps([in_force, refused]))
"""


@linux
def test_a_player_reads_the_models_but_no_token_corpus_or_cache_of_the_hub(tmp_path: Path) -> None:
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
    names = ["models/gpt.py", "harness/data/cache.py", "models/corpus/0000.txt", "models/hub/blob"]
    names += [str(cache / name) for name in ("train.bin", "dev.bin", "val.bin", "manifest.json")]
    private = [Path(name).name for name in names[2:]]
    done = python("-c", PLAYER, job.model_dump_json(), *names, cwd=root, **environment, **ONE_THREAD)
    assert done.returncode == 0, done.stderr
    in_force, refused = json.loads(done.stdout)
    assert refused == (private if "landlock" in in_force else [])
