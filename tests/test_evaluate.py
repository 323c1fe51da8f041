"""Evaluation: the score is the mean over every token, and a model that breaks a rule gets none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.catalog import Recipe
from harness.data import eval_batches
from harness.evaluate import ProbeFailedError, evaluate, fresh_model, run_probes
from harness.track import Track
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


def only_last(logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
    leak = torch.zeros_like(logits_BTV)
    leak[:, -2] = nn.functional.one_hot(tokens_BT[:, -1], VOCAB)
    return logits_BTV + leak


TOKENS_N = (np.arange(500) * 7 % VOCAB).astype("<u2")


def test_the_score_is_the_mean_over_every_token_but_the_first() -> None:
    model = Bigram()
    tokens = torch.from_numpy(TOKENS_N.astype(np.int64))
    expected = nn.functional.cross_entropy(model.table(tokens[:-1]).double(), tokens[1:], reduction="sum").item()
    scores = [evaluate(model, eval_batches(TOKENS_N, *shape), VOCAB, num_bytes=900) for shape in ((10, 4), (33, 1))]
    for score in scores:
        assert score.tokens == 499
        assert score.nats == pytest.approx(expected, rel=1e-6)
        assert score.bits_per_byte == pytest.approx(expected / np.log(2) / 900, rel=1e-6)
    assert scores[0].correct == int((model.table(tokens[:-1]).argmax(-1) == tokens[1:]).sum())


def test_an_honest_model_passes_the_probes(smoke: Track, build_recipe: Callable[[str, Track], Recipe]) -> None:
    run_probes(Bigram(), torch.arange(60).view(2, 30) % VOCAB, VOCAB)
    tokens_BT = torch.arange(128).view(2, 64)
    for recipe in ("base", "base+token_smear+qk_norm"):
        run_probes(fresh_model(build_recipe(recipe, smoke)), tokens_BT, smoke.model.vocab_size)


@pytest.mark.parametrize("break_rule", [next_token, later_mean, only_last])
def test_a_model_that_sees_the_future_is_named(break_rule: Any) -> None:
    with pytest.raises(ProbeFailedError, match=r"^causality: .* sees the future"):
        run_probes(Cheat(break_rule), torch.arange(60).view(2, 30) % VOCAB, VOCAB)


@pytest.mark.parametrize(
    ("break_rule", "words"),
    [
        (lambda logits_BTV, _: logits_BTV[..., :-1], "^shape"),
        (lambda logits_BTV, _: logits_BTV[:, -1:], "^shape"),
        (lambda logits_BTV, _: logits_BTV * float("nan"), "^finiteness"),
        (lambda logits_BTV, _: logits_BTV.index_fill(2, torch.tensor([3]), float("-inf")), "^finiteness"),
    ],
)
def test_logits_that_are_no_distribution_get_no_score(break_rule: Any, words: str) -> None:
    with pytest.raises(ProbeFailedError, match=words):
        evaluate(Cheat(break_rule), eval_batches(TOKENS_N, 10, 4), VOCAB, num_bytes=900)
