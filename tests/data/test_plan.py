"""The batches of a run: the track's tokens and no more, from text that no batch before had, whatever a variant asks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import BatchShape
from harness.core.track import load_track
from harness.data.batches import Batches
from harness.data.plan import Plan, make_plan, plan_of
from tests.make import ROOT

SMOKE = load_track(Project(ROOT), "smoke")
BUDGET = SMOKE.budget


def lengths(number: int) -> list[int]:
    return [length for length in range(1, number + 1) if number % length == 0]


@st.composite
def shape_functions(draw: st.DrawFn) -> Callable[[float, int, int], tuple[int, int]]:
    """A schedule of a few stages whose batches are neither too small nor too large."""
    own = BUDGET.batch_tokens
    stages = []
    for start in sorted(draw(st.lists(st.floats(0, 1), max_size=3))):
        length = draw(st.sampled_from(lengths(BUDGET.seq_len)))
        least, most = max(1, -(-own // (16 * length))), 16 * own // length
        stages.append((start, (draw(st.integers(least, min(most, 4 * least + 8))), length)))
    return lambda progress, *own: next((shape for start, shape in reversed(stages) if progress >= start), own)


@given(shape_functions())
def test_any_schedule_hands_out_the_budget_and_the_referee_agrees(shape_of: Any) -> None:
    shapes = make_plan(SMOKE, shape_of)
    plan = plan_of(SMOKE, shapes)
    assert BUDGET.tokens - plan.shapes[-1].length < plan.tokens <= BUDGET.tokens
    steps = sorted(plan.dev_steps(BUDGET.dev_evaluations))
    assert 1 <= steps[0] <= steps[-1] == plan.num_steps


@given(shape_functions(), st.integers(0, 3))
def test_no_token_is_predicted_twice_in_an_epoch(shape_of: Any, seed: int) -> None:
    plan, size = plan_of(SMOKE, make_plan(SMOKE, shape_of)), 2 * BUDGET.tokens
    batches = Batches(np.arange(size + 1, dtype=np.uint32), BUDGET.seq_len, BUDGET.batch_sequences, seed)
    places = {0, plan.num_steps // 2, plan.num_steps - 1, *range(min(plan.num_steps, 50))}
    targets = np.concatenate([batches.rows(*plan.place(step))[:, 1:].ravel() for step in sorted(places)])
    assert len(np.unique(targets)) == len(targets)


def test_the_tracks_own_shape_is_no_change() -> None:
    assert make_plan(SMOKE, lambda progress, sequences, length: (sequences, length)) is None
    plan = plan_of(SMOKE, None)
    assert (plan.num_steps, plan.tokens) == (BUDGET.num_steps, BUDGET.tokens)
    assert plan.place(3) == (3 * BUDGET.batch_tokens, BUDGET.batch_sequences, BUDGET.seq_len)


def test_longer_sequences_begin_where_the_next_window_does() -> None:
    short, whole = (BatchShape(steps=1, sequences=3, length=length) for length in (16, 64))
    assert [Plan((short, whole), 64).place(step)[0] for step in range(2)] == [0, 64]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("many", "must return two numbers"),
        ((1, 2, 3), "must return two numbers"),
        ((0, BUDGET.seq_len), "whole numbers above 0"),
        ((1.5, BUDGET.seq_len), "whole numbers above 0"),
        ((4, BUDGET.seq_len - 1), "must be a multiple of it"),
        ((4, 2 * BUDGET.seq_len), "must be a multiple of it"),
        ((1, 1), "must lie between 1/16 and 16 times"),
        ((17 * BUDGET.batch_sequences, BUDGET.seq_len), "must lie between 1/16 and 16 times"),
    ],
)
def test_an_impossible_shape_is_named(shape: Any, words: str) -> None:
    with pytest.raises(LlmbenchError, match=words):
        make_plan(SMOKE, lambda *_: shape)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 2 * BUDGET.num_steps}, "more than the track's budget"),
        ({"steps": BUDGET.num_steps - 1}, "fewer than the track's budget"),
        ({"length": BUDGET.seq_len - 1}, "must be a multiple of it"),
        ({"sequences": 1, "length": 1, "steps": BUDGET.tokens - 1}, "fewer than the track's budget"),
    ],
)
def test_the_referee_believes_no_plan_that_breaks_the_budget(change: dict[str, int], words: str) -> None:
    own = plan_of(SMOKE, None).shapes[0]
    with pytest.raises(LlmbenchError, match=re.escape(words)):
        plan_of(SMOKE, [own.model_copy(update=change)])


def test_a_schedule_of_too_many_stages_is_refused() -> None:
    long = SMOKE.model_copy(update={"budget": BUDGET.model_copy(update={"tokens": 6_000 * BUDGET.batch_tokens})})
    steps = iter(range(10_000))
    with pytest.raises(LlmbenchError, match="more than 5,000 times"):
        make_plan(long, lambda progress, sequences, length: (sequences - next(steps) % 2, length))


def test_only_the_last_batch_may_be_tiny() -> None:
    own = plan_of(SMOKE, None).shapes[0]
    tiny = BatchShape(steps=own.batch_tokens, sequences=1, length=1)
    rest = own.model_copy(update={"steps": own.steps - 1})
    with pytest.raises(LlmbenchError, match="must lie between 1/16 and 16 times"):
        plan_of(SMOKE, [tiny, rest])
