"""Evaluation: the score is the mean over every token, and a model that breaks a rule gets none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.core.track import Track
from harness.data.batches import eval_batches
from harness.player.serve import ProbeFailedError, Session
from harness.referee.evaluate import MAX_DEV_SHIFT, Probe, evaluate, score
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


class OnlyThere:
    """Leaks the next token at one position of every row."""

    def __init__(self, position: int) -> None:
        self.position = position

    def __call__(self, logits_BTV: Tensor, tokens_BT: Tensor) -> Tensor:
        leak = torch.zeros_like(logits_BTV)
        if self.position + 1 < tokens_BT.size(1):
            leak[:, self.position] = nn.functional.one_hot(tokens_BT[:, self.position + 1], VOCAB)
        return logits_BTV + leak


class InProcess(Session):
    """A session without a process: what the scorer asks, a module answers."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.confinement = model, ()

    def ask(self, tokens_BT: Any) -> Any:
        with torch.no_grad():
            return self.model(torch.from_numpy(np.ascontiguousarray(tokens_BT)))[0].numpy()

    def close(self) -> None:
        pass


TOKENS_N = (np.arange(500) ** 2 * 7 % VOCAB).astype("<u2")


def test_the_score_is_the_mean_over_every_token_but_the_first(smoke: Track) -> None:
    model = Bigram()
    tokens = torch.from_numpy(TOKENS_N.astype(np.int64))
    expected = nn.functional.cross_entropy(model.table(tokens[:-1]).double(), tokens[1:], reduction="sum").item()
    for shape in ((10, 4), (33, 1), (499, 2)):
        batches = eval_batches(TOKENS_N, *shape)
        found = evaluate(smoke, batches, batches, expected / 499, iter([InProcess(model)] * 4))
        assert found.tokens == 499
        assert found.nats == pytest.approx(expected, rel=1e-6)
        assert found.correct == int((model.table(tokens[:-1]).argmax(-1) == tokens[1:]).sum())
        assert found.bits_per_byte == pytest.approx(expected / np.log(2) / smoke.data.val.bytes, rel=1e-6)


def test_weights_that_do_not_score_what_training_ended_with_get_no_score(smoke: Track) -> None:
    batches, model = eval_batches(TOKENS_N, 10, 4), Bigram()
    loss = float(np.concatenate([nats_BT.ravel() for nats_BT, _ in score(InProcess(model), batches)]).mean())
    evaluate(smoke, batches, batches, loss + MAX_DEV_SHIFT / 2, iter([InProcess(model)] * 4))
    with pytest.raises(ProbeFailedError, match=r"^weights: "):
        evaluate(smoke, batches, batches, loss + 2 * MAX_DEV_SHIFT, iter([InProcess(model)] * 4))


def run_probe(model: nn.Module, seq_len: int = 12, sequences: int = 4) -> None:
    """Both passes over one module."""
    batches = eval_batches(TOKENS_N, seq_len, sequences)
    Probe(InProcess(model), batches, [nats_BT for nats_BT, _ in score(InProcess(model), batches)]).run()


@pytest.mark.parametrize(("seq_len", "sequences"), [(12, 4), (30, 8), (2, 8), (1, 4), (499, 1), (7, 100)])
def test_an_honest_model_passes_the_probe_whatever_the_shape(seq_len: int, sequences: int) -> None:
    run_probe(Bigram(), seq_len, sequences)


@pytest.mark.parametrize("break_rule", [next_token, later_mean, *map(OnlyThere, range(11))])
def test_a_model_that_sees_the_future_is_named_wherever_it_looks(break_rule: Any) -> None:
    with pytest.raises(ProbeFailedError, match=r"^causality: .* sees the future"):
        run_probe(Cheat(break_rule))
