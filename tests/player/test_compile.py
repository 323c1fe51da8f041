"""A track that compiles: the same learning, as confined but for the bubble, and one player a recipe that compiles."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
import torch
from torch import Tensor, nn

from harness.core.errors import LlmbenchError
from harness.core.track import Track
from harness.player import compiler
from harness.player.compiler import compile_forward, forbid_compiling, keep_answers
from harness.player.device import Device
from harness.player.protocol import Assignment, RuleBrokenError
from harness.player.start import Cell
from harness.player.train import warm_up
from harness.referee.session import Session
from harness.referee.train import start_ranks, train
from models.parts import Output
from tests.make import make_job
from tests.players import OpenCasting

# Three kernels: compiling one takes seconds, those of a layer take a minute.
BARE = """
from dataclasses import replace
from models.gpt import Linear


def apply(parts):
    return replace(
        parts,
        model=replace(parts.model, num_layers=1),
        block=lambda final, layer: Linear(final.model.dim, final.model.dim),
        head=lambda final: Linear(final.model.dim, final.model.vocab_size, zero=True),
    )
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_learns_what_an_eager_one_learns(
    tiny: Track, tiny_tokens: dict[str, Any], tmp_path: Path
) -> None:
    """With real players: one compiles, and another trains with what it made."""
    found = {}
    for name, compiles in {"eager": None, "compiled": True}.items():
        track = tiny.model_copy(update={"compile": compiles})
        folder = tmp_path / name / "seed-0"
        folder.mkdir(parents=True)
        found[name] = train(OpenCasting(track, make_job(track, folder), texts=(("bare", BARE),)), tiny_tokens)
        assert (tmp_path / name / "compiled").exists() == (name == "compiled")
    eager, compiled = found["eager"], found["compiled"]
    curves = [[point.dev_loss_nats for point in training.curve] for training in (eager, compiled)]
    assert curves[1] == pytest.approx(curves[0], abs=2e-4)
    assert {*compiled.confinement} == {*eager.confinement} - {"bubblewrap"}


@pytest.mark.filterwarnings("ignore")  # what torch itself does
@pytest.mark.parametrize("kind", ["tiny", "tiny_mixture"])
def test_the_base_is_traced_as_one_graph(kind: str, request: pytest.FixtureRequest, build_recipe: Any) -> None:
    track: Track = request.getfixturevalue(kind)
    model = build_recipe("base", track).build()
    torch.compile(model, backend="eager", fullgraph=True)(TOKENS_BT1[:, :-1])


def test_one_player_compiles_and_sees_no_batch_and_those_that_train_only_read(tiny: Track, tmp_path: Path) -> None:
    track = tiny.model_copy(update={"compile": True})
    (tmp_path / "seed-0").mkdir()
    asked: list[tuple[Assignment, Cell]] = []

    class TrainsError(Exception):
        """As far as this test goes."""

    class Casting(OpenCasting):
        def start(self, log: str, assignment: Assignment) -> Session:
            asked.append((assignment, self.cell(assignment)))
            if not assignment.compiles:
                raise TrainsError
            return Mock(spec=Session, player=Mock())

    casting = Casting(track, make_job(track, tmp_path / "seed-0"))
    for _ in range(2):
        with pytest.raises(TrainsError), ExitStack() as stack:
            start_ranks(casting, stack)
    folder = str(tmp_path / "compiled")
    assert [assignment.compiles for assignment, _ in asked] == [True, False, False], "once a recipe"
    for assignment, cell in asked:
        assert assignment.compiled == folder
        assert (cell.writable, cell.programs) == (((folder,), True) if assignment.compiles else ((), False))
        assert (folder in cell.readable) != assignment.compiles
    plain = casting.cell(casting.assignment(start="empty"))
    assert not any(Path(folder).is_relative_to(path) for path in plain.readable)


class Model(nn.Module):
    """Logits from a table, scaled by what `scale` says."""

    def __init__(self, scale: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.scale, self.calls = nn.Embedding(8, 8), scale, 0

    def forward(self, tokens_BT: Tensor) -> Output:
        return Output(self.scale(self, self.table(tokens_BT)), None)


@pytest.fixture
def tracing_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The compiler traces and guards as ever, but leaves the making of kernels out: that takes half a minute."""
    import torch._dynamo

    real = torch.compile
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend="eager", **options))
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    monkeypatch.setattr(subprocess, "run", subprocess.run)
    for name in (
        "TMPDIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_COMPILE_THREADS",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS",
    ):
        monkeypatch.setenv(name, "")
    with torch._dynamo.config.patch(error_on_recompile=False):
        yield
    torch._dynamo.reset()


TOKENS_BT1 = torch.randint(8, (4, 9))


def steps(model: Model, folder: Path) -> list[Tensor]:
    """What three training steps see once the model is compiled."""
    compile_forward(model, folder, compiles=True)
    warm_up(model, Device("cpu"), (4, 9), 8)
    forbid_compiling()
    return [model(TOKENS_BT1[:, :-1]).logits_BTV for _ in range(3)]


def test_a_machine_without_a_compiler_is_told_to_install_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(LlmbenchError, match=r"(g\+\+|clang\+\+) is not installed"):
        compile_forward(Model(lambda model, x: x), tmp_path, compiles=True)


def test_what_programs_said_is_said_again_where_none_may_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, commands = subprocess.run, {1: [sys.executable, "-c", "print('me'); exit(3)"], 2: ["/bin/echo", "you"]}
    monkeypatch.setattr("torch.utils._filelock.FileLock", None)

    def answers(compiles: bool) -> tuple[Any, ...]:
        monkeypatch.setattr(subprocess, "run", real if compiles else Mock(side_effect=AssertionError("started")))
        monkeypatch.setattr(compiler, "_said", {})
        compiler._answer_for_programs(tmp_path, compiles)
        code = subprocess.run(commands[1], stdout=subprocess.PIPE).returncode
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.check_output(commands[1])
        return code, subprocess.check_output(commands[2]), subprocess.check_output(commands[2], text=True)

    found = answers(compiles=True)
    keep_answers(tmp_path)
    assert answers(compiles=False) == found == (3, b"you\n", "you\n")
    with pytest.raises(PermissionError, match="did not run it when this model was compiled"):
        subprocess.check_output(["/bin/echo", "others"])


STAYS = """
import os
import subprocess
import sys

def apply(parts):
    subprocess.Popen([sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"])
    try:
        os.setsid()
    except OSError as error:
        print(error, flush=True)
    return parts
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is confined")
def test_a_program_that_a_compiling_player_started_ends_with_it(tiny: Track, tmp_path: Path) -> None:
    (tmp_path / "seed-0").mkdir()
    job = make_job(tiny, tmp_path / "seed-0")
    casting = OpenCasting(tiny, job, texts=(("own", STAYS),))
    folder = str(tmp_path / "compiled")
    with casting.start("train", casting.assignment(start="drawn", compiled=folder, compiles=True)) as session:
        group = session.player.pid
        while "here" not in job.log("train").read_text():
            time.sleep(0.05)
        assert len([one for one in psutil.process_iter() if group_of(one.pid) == group]) == 2
    assert "not permitted" in job.log("train").read_text()
    deadline = time.monotonic() + 10
    while any(group_of(one.pid) == group for one in psutil.process_iter()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def group_of(pid: int) -> int | None:
    """The process's group; None where it has ended, be it not yet looked after."""
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getpgid(pid)
    except (psutil.Error, ProcessLookupError):
        return None


@pytest.mark.usefixtures("tracing_alone")
def test_a_model_that_stays_as_it_is_compiles_once(tmp_path: Path) -> None:
    model = Model(lambda model, x: 2 * x)
    for logits_BTV in steps(model, tmp_path):
        assert torch.equal(logits_BTV, 2 * model.table(TOKENS_BT1[:, :-1]))


def counted(model: Model, x: Tensor) -> Tensor:
    model.calls += 1
    return x * model.calls


@pytest.mark.usefixtures("tracing_alone")
@pytest.mark.parametrize(
    "scale",
    [counted, lambda model, x: x @ x[:, :3]],
    ids=["another number in each step", "shapes that do not fit"],
)
def test_a_model_that_does_not_compile_once_and_for_all_breaks_a_rule(
    tmp_path: Path, scale: Callable[[Model, Tensor], Tensor]
) -> None:
    with pytest.raises(RuleBrokenError, match=r"^compile: .* keep what changes .* in tensors"):
        steps(Model(scale), tmp_path)
