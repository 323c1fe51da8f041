"""A track that compiles: the same learning, as confined as any, and one compilation a recipe."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.core.errors import LlmbenchError
from harness.player.compiler import compile_forward, forbid_compiling
from harness.player.device import Device
from harness.player.loss import RuleBrokenError
from harness.player.train import warm_up
from models.parts import Output
from tests.sandbox import make_sandbox

ONE_LAYER = ("--set", "model.num_layers=1", "--set", "budget.tokens=8192", "--set", "budget.dev_evaluations=2")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_learns_what_an_eager_one_learns(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path / "llmbench")
    curves, confinements = {}, {}
    for name, option in {"eager": (), "compiled": ("--set", "compile=true")}.items():
        done = sandbox("run", "baseline", "--pairs", "1", "--track", "smoke", *ONE_LAYER, *option)
        assert done.returncode == 0, done.stderr
        (path,) = sandbox.root.glob("runs/exploratory-smoke/base/*/seed-0/run.json")
        run = json.loads(path.read_text())
        curves[name] = [point["dev_loss_nats"] for point in run["training"]["curve"]]
        confinements[name] = run["training"]["confinement"]
        assert (path.parent.parent / "compiled").exists() == (name == "compiled")
        path.unlink()
        path.parent.rename(path.parent.with_name(f"{name}-seed"))
    assert curves["compiled"] == pytest.approx(curves["eager"], abs=2e-4)
    assert confinements["compiled"] == confinements["eager"]


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
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, "")
    with torch._dynamo.config.patch(error_on_recompile=False):
        yield
    torch._dynamo.reset()


TOKENS_BT1 = torch.randint(8, (4, 9))


def steps(model: Model, folder: Path) -> list[Tensor]:
    """What three training steps see once the model is compiled."""
    compile_forward(model, folder)
    warm_up(model, Device("cpu"), TOKENS_BT1.numpy(), 8)
    forbid_compiling(())
    return [model(TOKENS_BT1[:, :-1]).logits_BTV for _ in range(3)]


def test_a_machine_without_a_compiler_is_told_to_install_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(LlmbenchError, match=r"there is no (g|clang)"):
        compile_forward(Model(lambda model, x: x), tmp_path)


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
    with pytest.raises(RuleBrokenError, match=r"^compile: .* keep what changes from step to step in tensors"):
        steps(Model(scale), tmp_path)
