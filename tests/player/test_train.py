"""Training: bit for bit repeatable, whatever happens around it, and a variant moves only what it changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file
from torch import nn

from harness.core.errors import LlmbenchError
from harness.core.events import WORKER_EVENT, Step, WorkerEvent
from harness.core.runs import Training
from harness.core.track import Track
from harness.player.device import Device
from harness.player.job import Job
from harness.player.train import DivergedError, StopRequestedError, build_optimizers, train
from harness.variants.recipe import Recipe, canonical_name, draw_parameters
from tests.damage import REFUSED, damaged, fuzz, outcome
from tests.make import OWN_VARIANTS

Build = Callable[[str, Track], Recipe]


def run(recipe: Recipe, track: Track, tokens: dict[str, Any], job: Job, **options: Any) -> Training:
    return train(track, recipe, tokens, job, lambda event: None, **options)


def fingerprint(training: Training) -> tuple[Any, ...]:
    """Everything of a training but its times."""
    losses = tuple((point.step, point.train_loss_nats, point.dev_loss_nats) for point in training.curve)
    return training.weights_sha256, losses, training.tokens


def in_folder(job: Job, folder: Path, **changes: Any) -> Job:
    folder.mkdir(exist_ok=True)
    return job.model_copy(update={"folder": str(folder), **changes})


def test_the_same_seed_twice_gives_the_same_bits(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    first = run(build_recipe("base", tiny), tiny, tiny_tokens, in_folder(job, tmp_path / "a"))
    torch.manual_seed(123)  # what ran before in the process must not matter
    again = run(build_recipe("base", tiny), tiny, tiny_tokens, in_folder(job, tmp_path / "b"))
    other = run(build_recipe("base", tiny), tiny, tiny_tokens, in_folder(job, tmp_path / "c", seed=1))
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first)[0] != fingerprint(other)[0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job, tmp_path: Path, dropout: float
) -> None:
    track = tiny.model_copy(update={"model": replace(tiny.model, dropout=dropout)})
    whole = run(build_recipe("base", track), track, tiny_tokens, in_folder(job, tmp_path / "whole"))
    for interrupted_after in (1, 3, 7):
        torn = in_folder(job, tmp_path / f"torn-{interrupted_after}")
        questions = iter([False] * (interrupted_after - 1) + [True])
        with pytest.raises(StopRequestedError):
            run(build_recipe("base", track), track, tiny_tokens, torn, should_stop=lambda q=questions: next(q))
        torch.manual_seed(99)
        resumed = run(build_recipe("base", track), track, tiny_tokens, torn)
        assert fingerprint(resumed) == fingerprint(whole)


def test_a_broken_checkpoint_is_named(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    for content in (b"PK\x03\x04 half a file", b"garbage", b""):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(LlmbenchError, match=r"checkpoint\.pt is broken; delete it"):
            run(build_recipe("base", tiny), tiny, tiny_tokens, job)


def test_a_damaged_checkpoint_is_never_taken_up(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    recipe, path = build_recipe("base", tiny), tmp_path / "checkpoint.pt"

    def one_step() -> None:
        with pytest.raises(StopRequestedError):
            run(recipe, tiny, tiny_tokens, job, should_stop=lambda: True)

    one_step()
    original = path.read_bytes()

    @fuzz(40)
    @given(content=damaged(original))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        assert (outcome(one_step) is REFUSED) == (content != original)

    check()


def test_a_resumed_run_keeps_a_models_buffers(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    """A buffer that moves with every forward pass: neither warm-up nor resuming may move it."""
    built = build_recipe("base", tiny)

    class Counter(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.passes += 1
            return self.inner(x_BTD) * (1 + 0.01 * self.passes)

    head = built.parts.head
    counting = replace(built.parts, head=lambda final: Counter(head(final)))
    recipe = replace(built, parts=counting, renew=lambda: replace(built, parts=counting))
    whole = run(recipe, tiny, tiny_tokens, in_folder(job, tmp_path / "whole"))
    torn = in_folder(job, tmp_path / "torn")
    questions = iter([False, False, True])
    with pytest.raises(StopRequestedError):
        run(recipe, tiny, tiny_tokens, torn, should_stop=lambda: next(questions))
    assert fingerprint(run(recipe, tiny, tiny_tokens, torn)) == fingerprint(whole)


def starts(recipe: Recipe, seed: int = 0) -> dict[str, torch.Tensor]:
    model = recipe.build()
    draw_parameters(model, seed)
    return {canonical_name(name): parameter.detach() for name, parameter in model.named_parameters()}


def test_a_variant_moves_no_other_parameters_start(build_recipe: Build, tiny_mixture: Track) -> None:
    base = starts(build_recipe("base", tiny_mixture))
    for name in {*OWN_VARIANTS} - {"placebo", "requery"}:  # which are made to
        changed = starts(build_recipe(f"base+{name}", tiny_mixture))
        for key, value in base.items():
            assert torch.equal(changed[key], value), f"{name} moves the start of {key}"


def test_placebo_redraws_one_matrix_and_nothing_else(build_recipe: Build, tiny: Track) -> None:
    base, placebo = starts(build_recipe("base", tiny)), starts(build_recipe("base+placebo", tiny))
    moved = [key for key, value in base.items() if key not in placebo or not torch.equal(placebo[key], value)]
    assert len(moved) == 1
    assert len(base) == len(placebo)
    assert base[moved[0]].ndim == 2
    redrawn = next(value for key, value in placebo.items() if key not in base)
    assert redrawn.std().item() == pytest.approx(base[moved[0]].std().item(), rel=0.05)


def test_a_variant_sees_the_same_batches(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    seen: dict[str, list[list[int]]] = {}
    for recipe in ("base", "base+token_smear", "base+qk_norm+token_smear"):
        built, tokens = build_recipe(recipe, tiny), seen.setdefault(recipe, [])
        inner = built.parts.embedding

        def spy(parts: Any, inner: Any = inner, tokens: list[list[int]] = tokens) -> nn.Module:
            module = inner(parts)
            module.register_forward_pre_hook(lambda _, args: tokens.append(args[0].tolist()))
            return module

        spied = replace(built, parts=replace(built.parts, embedding=spy))
        run(spied, tiny, tiny_tokens, in_folder(job, tmp_path / recipe))
    assert len(seen["base"]) > tiny.budget.num_steps
    assert seen["base"] == seen["base+token_smear"] == seen["base+qk_norm+token_smear"]


def test_training_learns_and_spends_exactly_the_budget(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job
) -> None:
    training = run(build_recipe("base+qk_norm+token_smear", tiny), tiny, tiny_tokens, job)
    assert training.tokens == tiny.budget.tokens
    assert training.steps == tiny.budget.num_steps == training.curve[-1].step
    assert len(training.curve) == tiny.budget.dev_evaluations
    assert training.curve[-1].dev_loss_nats < math.log(tiny.model.vocab_size) - 0.05
    assert 0 < training.train_s <= training.wall_s


@pytest.mark.parametrize("variants", ["", "+zero_compute_expert", "+qk_norm+token_smear+zero_compute_expert"])
def test_a_mixture_trains_and_tells_how_its_routers_spread_the_tokens(
    build_recipe: Build, tiny_mixture: Track, tiny_tokens: dict[str, Any], job: Job, variants: str
) -> None:
    training = run(build_recipe(f"base{variants}", tiny_mixture), tiny_mixture, tiny_tokens, job)
    assert training.curve[-1].dev_loss_nats < math.log(tiny_mixture.model.vocab_size) - 0.05
    assert training.experts is not None
    assert len(training.experts) == tiny_mixture.model.num_layers
    for layer in training.experts:
        assert len(layer.load) == tiny_mixture.model.num_experts + (4 if "zero" in variants else 0)
        assert sum(layer.load) == pytest.approx(1, abs=1e-6)
        assert layer.balance == pytest.approx(1, abs=0.5)  # far from 4, where one expert gets everything


def test_bfloat16_products_train_with_float32_weights_and_evaluation(
    build_recipe: Build, tiny_mixture: Track, tiny_tokens: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    """What a GPU does, as far as a CPU can show it: autocast, and a loop that looks up at some steps only."""
    recipe, device = build_recipe("base+zero_compute_expert", tiny_mixture), Device("cpu", bf16=True)
    exact = run(recipe, tiny_mixture, tiny_tokens, in_folder(job, tmp_path / "exact"))
    rounded = run(recipe, tiny_mixture, tiny_tokens, in_folder(job, tmp_path / "rounded"), device=device)
    seldom = replace(device, steps_between_waits=3)
    assert fingerprint(rounded) == fingerprint(
        run(recipe, tiny_mixture, tiny_tokens, in_folder(job, tmp_path / "seldom"), device=seldom)
    )
    assert rounded.weights_sha256 != exact.weights_sha256
    assert rounded.curve[-1].dev_loss_nats == pytest.approx(exact.curve[-1].dev_loss_nats, abs=0.05)
    weights = load_file(tmp_path / "rounded" / "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_loss_that_is_not_finite_diverges(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job
) -> None:
    track = tiny.model_copy(update={"optim": replace(tiny.optim, head_lr=1e38)})
    with pytest.raises(DivergedError, match="not finite at step"):
        run(build_recipe("base", track), track, tiny_tokens, job)


def test_an_optimizer_that_forgets_a_parameter_is_refused(build_recipe: Build, tiny: Track) -> None:
    recipe = build_recipe("base", tiny)
    forgetful = replace(recipe.parts, optimizer=lambda model, config: [torch.optim.SGD(model.head.parameters())])
    with pytest.raises(LlmbenchError, match="every parameter exactly once"):
        build_optimizers(replace(recipe, parts=forgetful), recipe.build())


def test_a_module_that_the_harness_cannot_draw_is_refused() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(LlmbenchError, match=r"Silent owns scale but has no reset_parameters"):
        draw_parameters(Silent(), seed=0)


def test_two_parameters_never_share_a_stream() -> None:
    class Wrapper(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.inner = nn.Linear(2, 2)

    with pytest.raises(LlmbenchError, match="share the random stream weight"):
        draw_parameters(Wrapper(), seed=0)


def test_each_step_is_told_and_survives_the_way_to_another_process(
    build_recipe: Build, tiny: Track, tiny_tokens: dict[str, Any], job: Job
) -> None:
    events: list[WorkerEvent] = []
    train(tiny, build_recipe("base", tiny), tiny_tokens, job, events.append)
    assert [WORKER_EVENT.validate_json(event.model_dump_json()) for event in events] == events
    assert [event.step for event in events if isinstance(event, Step)] == list(range(1, tiny.budget.num_steps + 1))
