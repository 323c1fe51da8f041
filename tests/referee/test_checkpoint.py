"""Going on: a resumed run ends as an uninterrupted one, or is trained again from its start."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.core.errors import InterruptedRunError
from harness.core.events import Lost, RunEvent, Step
from harness.core.track import Track
from harness.referee.checkpoint import resumes_exactly
from harness.referee.job import Job
from harness.referee.train import train
from tests.make import OWN_VARIANTS, ROOT
from tests.players import ThreadCasting

WRAPPED = """
from dataclasses import replace

import torch
from torch import nn
from torch.optim import Optimizer


class Around(Optimizer):
    def __init__(self, inner):
        super().__init__(inner.param_groups, {{}})
        self.inner, self.calls, self.kept = inner, 0, {{}}

    @torch.no_grad()
    def step(self, closure=None):
        self.calls += 1
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
{body}


def apply(parts):
    return replace(parts, optimizer=lambda model, config: [Around(one) for one in parts.optimizer(model, config)])
"""
# What an optimizer keeps in its own attributes, which its state_dict does not hold.
HALF_STEPS = """
        if self.calls % 2:
            self.kept = {place: parameter.grad.clone() for place, parameter in enumerate(parameters)}
            return
        for place, parameter in enumerate(parameters):
            parameter.grad.add_(self.kept[place])
        self.inner.step()
"""
LATE_AVERAGE = """
        self.inner.step()
        for place, parameter in enumerate(parameters):
            self.kept[place] = self.kept.get(place, 0) + parameter
            if self.calls == NUM_STEPS:
                parameter.copy_(self.kept[place] / self.calls)
"""
COUNTING = """
from dataclasses import replace

from torch import nn


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x_BTD):
        self.calls += self.training
        return self.inner(x_BTD) * (1 + 0.01 * (self.training and self.calls % 3 == 0))


def apply(parts):
    return replace(parts, head=lambda final: Counting(parts.head(final)))
"""
LOSE_THEIR_STATE = {
    "an optimizer that adds up two gradients": WRAPPED.format(body=HALF_STEPS),
    "an average that is used at the very end": WRAPPED.format(body=LATE_AVERAGE.replace("NUM_STEPS", "12")),
    "a module that counts its calls": COUNTING,
}


def casting(track: Track, job: Job, text: str, **options: Any) -> ThreadCasting:
    return ThreadCasting(track, job, texts=(("idea", text),), **options)


@pytest.mark.parametrize("kind", LOSE_THEIR_STATE)
def test_state_that_a_checkpoint_does_not_hold_is_found(kind: str, tiny: Track, job: Job) -> None:
    assert not resumes_exactly(casting(tiny, job, LOSE_THEIR_STATE[kind]))


@pytest.mark.parametrize("path", [*(f"models/variants/{name}.py" for name in OWN_VARIANTS), "tests/honest/lion.py"])
def test_an_idea_that_keeps_its_state_where_it_belongs_goes_on(path: str, tiny_mixture: Track, job: Job) -> None:
    assert resumes_exactly(casting(tiny_mixture, job, (ROOT / path).read_text()))


def test_an_interrupted_run_that_cannot_go_on_is_trained_from_its_start_and_says_so(
    tiny: Track, job: Job, tiny_tokens: dict[str, Any], tmp_path: Any
) -> None:
    text = LOSE_THEIR_STATE["an optimizer that adds up two gradients"]
    (tmp_path / "whole").mkdir()
    whole = train(casting(tiny, job.model_copy(update={"folder": str(tmp_path / "whole")}), text), tiny_tokens)
    questions = iter([False, False, False, True])
    with pytest.raises(InterruptedRunError):
        train(casting(tiny, job, text, should_stop=lambda: next(questions)), tiny_tokens)
    events: list[RunEvent] = []
    again = train(casting(tiny, job, text), tiny_tokens, events.append)
    assert isinstance(events[0], Lost)
    assert "cannot be saved" in events[0].reason
    assert next(event.step for event in events if isinstance(event, Step)) == 1
    assert again.weights_sha256 == whole.weights_sha256
    assert again.resumed is None


def test_a_resumed_run_says_that_it_was(tiny: Track, job: Job, tiny_tokens: dict[str, Any]) -> None:
    own = ThreadCasting(tiny, job)
    questions = iter([False, False, True])
    with pytest.raises(InterruptedRunError):
        train(dataclasses.replace(own, should_stop=lambda: next(questions)), tiny_tokens)
    assert train(own, tiny_tokens).resumed is True
