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

from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.events import RunEvent, Step
from harness.core.runs import RunFailedError, Training
from harness.core.track import Track
from harness.player.device import Device
from harness.referee.checkpoint import load_checkpoint
from harness.referee.job import Job
from harness.variants.recipe import Recipe, canonical_name, draw_parameters
from tests.damage import REFUSED, damaged, fuzz, outcome
from tests.make import OWN_VARIANTS

Build = Callable[[str, Track], Recipe]
TrainTiny = Callable[..., Training]


def fingerprint(training: Training) -> tuple[Any, ...]:
    """Everything of a training but its times."""
    losses = tuple((point.step, point.train_loss_nats, point.dev_loss_nats) for point in training.curve)
    return training.weights_sha256, losses, training.tokens


def test_the_same_seed_twice_gives_the_same_bits(train_tiny: TrainTiny) -> None:
    first = train_tiny("base", "a")
    torch.manual_seed(123)  # what ran before in the process must not matter
    again = train_tiny("base", "b")
    other = train_tiny("base", "c", seed=1)
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first)[0] != fingerprint(other)[0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_equals_an_uninterrupted_one(train_tiny: TrainTiny, tiny: Track, dropout: float) -> None:
    track = tiny.model_copy(update={"model": replace(tiny.model, dropout=dropout)})
    whole = train_tiny("base", "whole", track=track)
    for interrupted_after in (1, 3, 7):
        folder = f"torn-{interrupted_after}"
        questions = iter([False] * (interrupted_after - 1) + [True])
        with pytest.raises(InterruptedRunError):
            train_tiny("base", folder, track=track, should_stop=lambda q=questions: next(q))
        torch.manual_seed(99)
        assert fingerprint(train_tiny("base", folder, track=track)) == fingerprint(whole)


def test_a_resumed_run_whose_batches_have_other_shapes_is_invalid(
    train_tiny: TrainTiny, build_recipe: Build, tiny: Track
) -> None:
    """Else it could train on small batches, be interrupted, and get the budget's tokens once more."""
    recipe = build_recipe("base", tiny)

    def with_batches_of(sequences: int) -> Recipe:
        parts = replace(recipe.parts, batch_shape=lambda progress, rows, length: (sequences, length))
        return replace(recipe, parts=parts)

    questions = iter([False, False, False, True])
    with pytest.raises(InterruptedRunError):
        train_tiny(with_batches_of(1), "torn", should_stop=lambda: next(questions))
    with pytest.raises(
        RunFailedError, match="budget: the batches have other shapes than before the run was interrupted"
    ):
        train_tiny(with_batches_of(2 * tiny.budget.batch_sequences), "torn")
    assert train_tiny(with_batches_of(1), "torn").tokens == tiny.budget.tokens


def test_a_damaged_checkpoint_is_named_and_never_taken_up(train_tiny: TrainTiny, job: Job) -> None:
    questions = iter([False, True])
    with pytest.raises(InterruptedRunError):
        train_tiny(should_stop=lambda: next(questions))
    original = job.checkpoint.read_bytes()

    @fuzz(40)
    @given(content=damaged(original))
    def check(content: bytes) -> None:
        job.checkpoint.write_bytes(content)
        assert (outcome(lambda: load_checkpoint(job)) is REFUSED) == (content != original)

    check()
    for content in (b"PK\x03\x04 half a file", b"garbage", b""):
        job.checkpoint.write_bytes(content)
        with pytest.raises(LlmbenchError, match=r"checkpoint cannot be read; delete it"):
            train_tiny()


def test_a_resumed_run_keeps_a_models_buffers(train_tiny: TrainTiny, build_recipe: Build, tiny: Track) -> None:
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
    whole = train_tiny(recipe, "whole")
    questions = iter([False, False, True])
    with pytest.raises(InterruptedRunError):
        train_tiny(recipe, "torn", should_stop=lambda: next(questions))
    assert fingerprint(train_tiny(recipe, "torn")) == fingerprint(whole)


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


def test_a_variant_sees_the_same_batches(train_tiny: TrainTiny, build_recipe: Build, tiny: Track) -> None:
    seen: dict[str, list[list[int]]] = {}
    for recipe in ("base", "base+token_smear", "base+qk_norm+token_smear"):
        built, tokens = build_recipe(recipe, tiny), seen.setdefault(recipe, [])
        inner = built.parts.embedding

        def spy(parts: Any, inner: Any = inner, tokens: list[list[int]] = tokens) -> nn.Module:
            module = inner(parts)
            module.register_forward_pre_hook(lambda _, args: tokens.append(args[0].tolist()))
            return module

        spied = replace(built, parts=replace(built.parts, embedding=spy))
        train_tiny(spied, recipe)
    assert len(seen["base"]) > tiny.budget.num_steps
    assert seen["base"] == seen["base+token_smear"] == seen["base+qk_norm+token_smear"]


def test_training_learns_and_spends_exactly_the_budget(train_tiny: TrainTiny, tiny: Track) -> None:
    training = train_tiny("base+qk_norm+token_smear")
    assert training.tokens == tiny.budget.tokens
    assert training.steps == tiny.budget.num_steps == training.curve[-1].step
    assert len(training.curve) == tiny.budget.dev_evaluations
    assert training.curve[-1].dev_loss_nats < math.log(tiny.model.vocab_size) - 0.05
    assert 0 < training.train_s <= training.wall_s


@pytest.mark.parametrize("variants", ["", "+zero_compute_expert", "+qk_norm+token_smear+zero_compute_expert"])
def test_a_mixture_trains_and_tells_how_its_routers_spread_the_tokens(
    train_tiny: TrainTiny, tiny_mixture: Track, variants: str
) -> None:
    training = train_tiny(f"base{variants}", track=tiny_mixture)
    assert training.curve[-1].dev_loss_nats < math.log(tiny_mixture.model.vocab_size) - 0.05
    assert training.experts is not None
    assert len(training.experts) == tiny_mixture.model.num_layers
    for layer in training.experts:
        assert len(layer.load) == tiny_mixture.model.num_experts + (4 if "zero" in variants else 0)
        assert sum(layer.load) == pytest.approx(1, abs=1e-6)
        assert layer.balance == pytest.approx(1, abs=0.5)  # far from 4, where one expert gets everything


def test_bfloat16_products_train_with_float32_weights_and_evaluation(
    train_tiny: TrainTiny, tiny_mixture: Track, tmp_path: Path
) -> None:
    """What a GPU does, as far as a CPU can show it: autocast, and a loop that looks up at some steps only."""
    device, recipe = Device("cpu", bf16=True), "base+zero_compute_expert"
    exact = train_tiny(recipe, "exact", track=tiny_mixture)
    rounded = train_tiny(recipe, "rounded", track=tiny_mixture, device=device)
    seldom = train_tiny(recipe, "seldom", track=tiny_mixture, device=replace(device, steps_between_waits=3))
    assert fingerprint(rounded) == fingerprint(seldom)
    assert rounded.weights_sha256 != exact.weights_sha256
    assert rounded.curve[-1].dev_loss_nats == pytest.approx(exact.curve[-1].dev_loss_nats, abs=0.05)
    weights = load_file(tmp_path / "rounded" / "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_module_that_the_harness_cannot_draw_is_refused() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(LlmbenchError, match=r"Silent contains the parameters scale but has no reset_parameters"):
        draw_parameters(Silent(), seed=0)


def test_two_parameters_never_share_a_stream() -> None:
    class Wrapper(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.inner = nn.Linear(2, 2)

    with pytest.raises(LlmbenchError, match="drawn with the key weight"):
        draw_parameters(Wrapper(), seed=0)


def test_each_step_is_told(train_tiny: TrainTiny, tiny: Track) -> None:
    events: list[RunEvent] = []
    train_tiny(watch=events.append)
    assert [event.step for event in events if isinstance(event, Step)] == list(range(1, tiny.budget.num_steps + 1))
