"""What a machine without a GPU can know of one.

The GPU tracks' models run on tensors that have a GPU's types and no numbers: what autocast and the kernels would refuse
is refused, and so is a value that the host would have to wait for, as it is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.core.errors import LlmbenchError
from harness.core.project import CHECKOUT, Project
from harness.core.track import Track, load_track
from harness.player.process import Player
from harness.player.protocol import Verb
from harness.variants.recipe import apply_recipe
from models.kernels import squared_relu
from tests.make import make_job
from tests.players import OpenCasting


def index(tensor: Tensor, key: Any) -> Tensor:
    """`tensor[key]` without the guard that a build for CPUs lacks."""
    place = 0
    for part in key if isinstance(key, tuple) else (key,):
        if part is None:
            tensor = tensor.unsqueeze(place)
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, place, part.start, part.stop)
        elif isinstance(part, int):
            tensor = tensor.select(place, part)
            continue
        else:
            tensor = torch.ops.aten.index.Tensor(tensor, [None] * place + [part])
        place += 1
    return tensor


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    original = Tensor.__getitem__
    monkeypatch.setattr(
        Tensor, "__getitem__", lambda self, key: index(self, key) if self.is_cuda else original(self, key)
    )
    with FakeTensorMode(), torch.no_grad():
        yield


def on_the_gpu(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda") for name, tensor in named}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["blueberry-8m", "moe-24gb"])
def test_a_gpu_tracks_types_fit_and_nothing_waits_for_a_value(fake_gpu: None, name: str, *, training: bool) -> None:
    track = load_track(Project(CHECKOUT), name)
    with torch.device("meta"):
        model = apply_recipe({}, track.model, track.optim).build().train(training)
    tokens_BT = torch.empty(2, track.budget.seq_len, dtype=torch.int64, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=training):
        logits_BTV = torch.func.functional_call(model, on_the_gpu(model), tokens_BT)[0]
    assert logits_BTV.device.type == "cuda"
    assert logits_BTV.dtype == (torch.bfloat16 if training else torch.float32)


def test_a_square_stays_in_bfloat16(fake_gpu: None) -> None:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert squared_relu(torch.empty(2, 3, dtype=torch.bfloat16, device="cuda")).dtype == torch.bfloat16


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="confined, and refused a GPU")
def test_a_player_confines_itself_with_one_thread_and_asks_for_a_gpu_only_then(tiny: Track, tmp_path: Path) -> None:
    track = tiny.model_copy(update={"device": "cuda"})
    casting = OpenCasting(track, make_job(track, tmp_path))
    assignment = casting.assignment(start="empty")
    with Player(casting.cell(assignment), casting.job.log("train")) as player:
        status = Path(f"/proc/{player.pid}/status").read_text()
        assert "Threads:\t1\n" in status
        assert "Seccomp:\t2\n" in status
        assert "seccomp" in player.confinement
        with pytest.raises(LlmbenchError, match=r"needs a CUDA GPU, and torch .* finds none here"):
            player.ask(Verb.BUILD, assignment.model_dump_json().encode())
