"""Several players train one run: the same batches, the same start and, but for the order of sums, the same losses."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.events import RunEvent
from harness.core.project import Project
from harness.core.runs import NETWORK_OPEN, RunFailedError, Training
from harness.core.track import Track, load_track, parse_track
from harness.data.batches import Batches
from harness.lab.doctor import _remarks
from harness.lab.executor import LocalExecutor
from harness.lab.provenance import available_cores
from harness.lab.ray.cluster import resources
from harness.player.device import require_device, start_device
from harness.player.ranks import Ranks
from harness.referee.session import Session
from harness.referee.train import hear_all, train
from tests.make import ROOT, make_job
from tests.players import OpenCasting

TrainTogether = Callable[..., Training]

PARTING = """
import torch
from dataclasses import replace
from torch import distributed

class Own(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1e-6 * distributed.get_rank())

def apply(parts):
    return replace(parts, optimizer=lambda model, config: [Own(model.parameters(), lr=0.01)])
"""
SPARE = """
class Spare(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.spare = inner, nn.Parameter(torch.empty(SIZE))

    def reset_parameters(self):
        nn.init.ones_(self.spare)

    def forward(self, x_BTD):
        return self.inner(x_BTD)
"""
"""A parameter that no token meets."""
DRAWING = """
import torch
from dataclasses import replace
from torch import nn

class Drawing(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                if parameter.grad is not None:
                    parameter.add_(torch.randn_like(parameter), alpha=1e-3)

"""
DRAWING += SPARE.replace("SIZE", "3")
DRAWING += """

def apply(parts):
    head = parts.head
    return replace(
        parts,
        head=lambda final: Spare(head(final)),
        optimizer=lambda model, config: [Drawing(model.parameters(), lr=0.01)],
    )
"""
RAISING = """
import torch
from dataclasses import replace
from torch import distributed

class Raising(torch.optim.SGD):
    done = 0

    def step(self, closure=None):
        super().step()
        self.done += 1
        if self.done == 3 and distributed.get_rank() == 1:
            raise IndexError("the cause")

def apply(parts):
    return replace(parts, optimizer=lambda model, config: [Raising(model.parameters(), lr=0.01)])
"""
ANY_SIZE = """
import secrets
import torch
from dataclasses import replace
from torch import nn

"""
ANY_SIZE += SPARE.replace("SIZE", "1 + secrets.randbelow(50_000)")
ANY_SIZE += """

def apply(parts):
    head = parts.head
    return replace(parts, head=lambda final: Spare(head(final)))
"""

Handed = tuple[int, int, NDArray[np.int64]]
"""Step, rank and rows."""


@dataclass(frozen=True)
class Spied(OpenCasting):
    """Keeps what each rank is handed, and the ranks themselves."""

    handed: list[Handed] = field(default_factory=list)
    ranks: list[Session] = field(default_factory=list)

    def start(self, *arguments: Any, **options: Any) -> Session:
        session = super().start(*arguments, **options)
        if session.assignment.trains:
            self.ranks.append(session)
            tell_step = session.tell_step

            def spy(tokens_BT1: NDArray[np.int64], step: int) -> None:
                self.handed.append((step, session.assignment.rank, tokens_BT1.copy()))
                tell_step(tokens_BT1, step)

            session.tell_step = spy  # type: ignore[method-assign]
        return session


@pytest.fixture(scope="module")
def together(tiny: Track, tiny_tokens: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainTogether:
    """Trains with as many players as the track has, in a folder of `home`; `interrupt` is called in the third step."""
    home = tmp_path_factory.mktemp("together")

    def run(
        folder: str,
        track: Track | None = None,
        text: str = "",
        *,
        interrupt: Callable[[Spied, threading.Event], None] | None = None,
        **options: Any,
    ) -> Training:
        track = track or tiny.model_copy(update={"processes": 2})
        (home / folder).mkdir(exist_ok=True)
        job = make_job(track, home / folder).model_copy(update={"checkpoint_every_s": 0.0})
        stop, told = threading.Event(), list[RunEvent]()
        texts = (("own", text),) if text else ()
        casting = Spied(track, job, texts=texts, should_stop=stop.is_set, **options)

        def watch(event: RunEvent) -> None:
            told.append(event)
            if len(told) == 3 and interrupt is not None:
                interrupt(casting, stop)

        return train(casting, tiny_tokens, watch)

    run.home = home  # type: ignore[attr-defined]
    return run


@pytest.fixture(scope="module")
def whole(together: TrainTogether) -> tuple[Training, list[Handed]]:
    """An uninterrupted run of two, and what its ranks were handed."""
    handed: list[Handed] = []
    return together("whole", handed=handed), handed


def losses(training: Training) -> list[list[float]]:
    return [[point.train_loss_nats, point.dev_loss_nats] for point in training.curve]


def weights(together: Any, folder: str) -> dict[str, torch.Tensor]:
    return load_file(together.home / folder / "weights.safetensors")


def test_two_processes_see_and_train_what_one_does(
    together: TrainTogether, whole: tuple[Training, list[Handed]], tiny: Track, tiny_tokens: dict[str, Any]
) -> None:
    (both, handed), one = whole, together("one", tiny)
    batches = Batches(tiny_tokens["train"], tiny.budget.seq_len, tiny.budget.batch_sequences, seed=0)
    assert [(step, rank) for step, rank, _ in handed] == [(s, r) for s in range(both.steps) for r in (0, 1)]
    for step in range(both.steps):
        shares = [rows for at, _, rows in handed if at == step]
        assert {len(rows) for rows in shares} == {tiny.budget.batch_sequences // 2}
        assert np.array_equal(np.concatenate(shares), batches.batch(step))
    assert np.allclose(losses(both), losses(one), rtol=0, atol=1e-4)
    assert (both.steps, both.tokens, both.num_params) == (one.steps, one.tokens, one.num_params)
    assert both.cpu_s > 0
    ours, alone = weights(together, "whole"), weights(together, "one")
    for name, tensor in ours.items():
        assert torch.allclose(tensor, alone[name], rtol=0, atol=1e-3), name
    is_open = "bubblewrap" not in both.confinement
    assert {*both.confinement} - {*one.confinement} == ({NETWORK_OPEN} if is_open else set())


def test_each_process_draws_its_own_dropout_and_the_first_that_of_a_single_one() -> None:
    assert len({Ranks(rank, 4).key for rank in range(4)}) == 4
    assert Ranks(0, 4).key == Ranks().key


def test_each_process_builds_on_a_gpu_of_its_own(tiny: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("harness.player.device.require_device", lambda track: None)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("torch.zeros", lambda *_, **__: None)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    for rank in (0, 1):
        start_device(tiny.model_copy(update={"device": "cuda", "processes": 2}), rank)
    assert chosen == [0, 1]


def test_a_run_of_two_survives_a_killed_process_and_a_stop(
    together: TrainTogether, whole: tuple[Training, list[Handed]]
) -> None:
    """The second rank is killed, then the run is stopped, then it comes to its end: that of an uninterrupted one."""

    def kill(casting: Spied, stop: threading.Event) -> None:
        os.kill(casting.ranks[1].player.pid, signal.SIGKILL)

    with pytest.raises(RunFailedError, match="killed by signal 9 from outside") as killed:
        together("torn", interrupt=kill)
    assert killed.value.status == "interrupted"
    with pytest.raises(InterruptedRunError):
        together("torn", interrupt=lambda casting, stop: stop.set())
    torn, uninterrupted = together("torn"), whole[0]
    assert torn.weights_sha256 == uninterrupted.weights_sha256
    assert losses(torn) == losses(uninterrupted)
    assert (torn.tokens, torn.resumed, uninterrupted.resumed) == (uninterrupted.tokens, True, None)


def test_what_is_drawn_at_random_does_not_part_the_processes(together: TrainTogether, tiny: Track) -> None:
    """Dropout, experts, an optimizer that draws, and a parameter that nobody uses, which stays where it is."""
    model = replace(tiny.model, dropout=0.1, num_experts=4, top_k=2)
    training = together("drawing", tiny.model_copy(update={"model": model, "processes": 2}), DRAWING)
    assert training.experts is not None
    assert weights(together, "drawing")["head.spare"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (PARTING, "invalid", r"^processes: the run's processes have different weights"),
        (ANY_SIZE, "invalid", r"^processes: the run's processes built different models"),
        (RAISING, "error", r"^IndexError: the cause \(full log: .*train-1\.log\)$"),
    ],
    ids=["parting", "different", "raising"],
)
def test_a_run_that_fails_ends_all_processes_for_its_first_cause(
    together: TrainTogether, text: str, status: str, reason: str
) -> None:
    ranks: list[Session] = []
    with pytest.raises(RunFailedError, match=reason) as failed:
        together(f"fails-{status}", text=text, ranks=ranks)
    assert failed.value.status == status
    assert all(session.player._process.exitcode is not None for session in ranks)


def test_the_rank_that_failed_is_named_and_not_those_that_lost_it() -> None:
    lost = RunFailedError("error", "RuntimeError: [gloo/transport/tcp/pair.cc:544] Connection closed by peer")
    for own in (
        RunFailedError("interrupted", "killed by signal 9 from outside"),
        RunFailedError("invalid", "budget: the model processed 8 tokens"),
        RunFailedError("error", "ValueError: Connection of blocks 3 and 4"),
    ):

        class Rank:
            player: Any = type("", (), {"close": lambda self: None})()

            def __init__(self, error: RunFailedError) -> None:
                self.error = error

        def hear(rank: Any) -> None:
            raise rank.error

        for errors in ((lost, own), (own, lost)):
            with pytest.raises(RunFailedError) as raised:
                hear_all([Rank(error) for error in errors], hear)  # type: ignore[misc]
            assert raised.value is own


def test_processes_are_part_of_the_contest_and_one_is_none(project: Project, smoke: Track) -> None:
    text = (ROOT / "tracks" / "smoke.toml").read_text()
    path = ROOT / "tracks" / "smoke.toml"
    one, two = (parse_track(path, text=f"processes = {count}\n{text}") for count in (1, 2))
    assert one.digest == smoke.digest
    assert two.digest != smoke.digest
    assert two.training_digest != smoke.training_digest
    assert (smoke.num_processes, one.num_processes, two.num_processes) == (1, 1, 2)
    with pytest.raises(LlmbenchError, match=r"batch_sequences \(8\) must be a multiple of processes \(3\)"):
        load_track(project, "smoke", ["processes=3"])
    with pytest.raises(LlmbenchError, match="compile and processes cannot be combined yet"):
        load_track(project, "smoke", ["processes=2", "compile=true"])


def test_a_run_of_several_processes_is_lent_as_many_gpus_and_cores(smoke: Track, monkeypatch: Any) -> None:
    track = smoke.model_copy(update={"processes": 2})
    assert LocalExecutor.room(track) == max(1, available_cores() // 2)
    many = smoke.model_copy(update={"processes": 8 * available_cores()})
    assert f"threads, which share {available_cores()} core(s)" in " ".join(_remarks(many))
    assert resources(track) == {"num_cpus": 2, "num_gpus": 0}
    on_gpus = track.model_copy(update={"device": "cuda"})
    assert resources(on_gpus) == {"num_cpus": 2, "num_gpus": 2}
    monkeypatch.setattr("harness.lab.executor.alike_gpus", lambda: ["4", "5", "6", "7", "8"])
    assert LocalExecutor.room(on_gpus) == 2
    executor = LocalExecutor(on_gpus, 3)
    with executor.device() as one, executor.device() as other, executor.device() as third:
        lent = [environment["CUDA_VISIBLE_DEVICES"] for environment in (one, other, third)]
    assert lent == ["4,5", "6,7", "4,5"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(LlmbenchError, match=r"needs 2 GPUs, one for each process, but torch finds 1 here"):
        require_device(on_gpus)
