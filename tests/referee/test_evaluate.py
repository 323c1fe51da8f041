"""Evaluation: the score is the mean over every token, and a model that breaks a rule gets none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.core.runs import Evaluation
from harness.core.track import Track
from harness.referee.evaluate import MAX_DEV_SHIFT, evaluate, exam_of
from harness.referee.probes import random_for, score
from harness.referee.session import ProbeFailedError
from models.parts import Output

VOCAB = 23


class Bigram(nn.Module):
    """Logits from the current token alone; honest."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, VOCAB)

    def forward(self, tokens_BT: Tensor) -> Output:
        return Output(self.table(tokens_BT), None)


class Cheat(Bigram):
    """A bigram whose logits pass through something that they must not."""

    def __init__(self, break_rule: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.break_rule = break_rule

    def forward(self, tokens_BT: Tensor) -> Output:
        return Output(self.break_rule(self.table(tokens_BT), tokens_BT), None)


def next_token(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    return logits_BTV + 9 * nn.functional.one_hot(tokens_BT.roll(-1, dims=1), VOCAB)


def later_mean(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    return logits_BTV - 0.01 * logits_BTV.mean(1, keepdim=True)


class InProcess:
    """A session without a process: what the scorer asks, a module answers."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.confinement = model, ()
        self.wall_s = self.cpu_s = 0.0

    def ask(self, tokens_BT: Any) -> Any:
        with torch.no_grad():
            return self.model(torch.from_numpy(np.ascontiguousarray(tokens_BT)))[0].numpy()

    def close(self) -> None:
        pass


TOKENS_N = (np.arange(500) ** 2 * 7 % VOCAB).astype("<u2")


def examine(
    smoke: Track, model: nn.Module, shape: tuple[int, int] = (10, 4), dev_loss: float | None = None
) -> Evaluation:
    """Evaluate one module on windows of `shape`: positions, and rows of a batch."""
    budget = smoke.budget.model_copy(update={"seq_len": shape[0], "eval_sequences": shape[1]})
    track = smoke.model_copy(update={"budget": budget})
    return evaluate(track, TOKENS_N, TOKENS_N[:101], dev_loss, iter([InProcess(model) for _ in range(4)]), seed=0)


def test_the_score_is_the_mean_over_every_token_but_the_first(smoke: Track) -> None:
    model = Bigram()
    tokens = torch.from_numpy(TOKENS_N.astype(np.int64))
    expected = nn.functional.cross_entropy(model.table(tokens[:-1]).double(), tokens[1:], reduction="sum").item()
    for shape in ((10, 4), (33, 1), (499, 2)):
        found = examine(smoke, model, shape)
        assert found.tokens == 499
        assert found.nats == pytest.approx(expected, rel=1e-6)
        assert found.correct == int((model.table(tokens[:-1]).argmax(-1) == tokens[1:]).sum())
        assert found.bits_per_byte == pytest.approx(expected / np.log(2) / smoke.data.val.bytes, rel=1e-6)


def test_weights_that_do_not_score_what_training_ended_with_get_no_score(smoke: Track) -> None:
    model, dev = Bigram(), torch.from_numpy(TOKENS_N[:101].astype(np.int64))
    loss = nn.functional.cross_entropy(model.table(dev[:-1]).double(), dev[1:]).item()
    examine(smoke, model, dev_loss=loss + MAX_DEV_SHIFT / 2)
    with pytest.raises(ProbeFailedError, match=r"^weights: "):
        examine(smoke, model, dev_loss=loss + 2 * MAX_DEV_SHIFT)


def test_a_player_cannot_tell_dev_from_val(smoke: Track) -> None:
    """Both are asked in one session, in batches that hold both, in an order that follows from the seed."""
    budget = smoke.budget.model_copy(update={"seq_len": 10, "eval_sequences": 4})
    exam, val, dev = exam_of(smoke.model_copy(update={"budget": budget}), TOKENS_N, TOKENS_N[:101])
    scores = score(InProcess(Bigram()), exam, [*val, *dev], random_for(0, "score"))
    mixed = [{row in val for row in question.rows} for question in scores.questions.values()]
    assert {True, False} in mixed
    assert {len(question.tokens_BT) for question in scores.questions.values()} == {4, 1}


@pytest.mark.parametrize("break_rule", [next_token, later_mean])
def test_a_model_that_sees_the_future_gets_no_score(smoke: Track, break_rule: Any) -> None:
    with pytest.raises(ProbeFailedError, match=r"^causality: .* sees the future"):
        examine(smoke, Cheat(break_rule))
