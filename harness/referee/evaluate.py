"""The scorer: the only process that opens val. It computes the loss itself and never runs a variant's code.

The model answers from processes of its own, see `serve`. All of val is scored in one session, and again in a fresh
one: in another order, with other neighbours, and with other tokens from a random place on in every row. A loss that
moves before that place comes from something that the model must not know.

Shapes: B sequences, T positions, V vocabulary, N rows of the whole split.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.runs import PROBES, Evaluation
from harness.core.track import Track
from harness.referee.session import ProbeFailedError, Session

# Relative to the loss, or nats where it is below one: far above what another order of summation moves a float32 loss
# by, far below what a leak needs to be worth something.
MAX_SHIFT = 1e-4
# What the same weights may differ by between the training and the evaluating process, nats.
MAX_DEV_SHIFT = 1e-3
NUM_FRESH_BATCHES = 2
# One row in so many keeps all of its tokens, so that its last position is compared too.
WHOLE_EVERY = 8

Batch = NDArray[np.integer[Any]]
Place = tuple[int, int]
"""A row: its batch, and where in it."""


def evaluate(
    track: Track, val: Sequence[Batch], dev: Sequence[Batch], final_dev_loss: float | None, sessions: Iterator[Session]
) -> Evaluation:
    """Probe and score a model; `sessions` are four: two of fresh weights, two of the trained ones.

    Raises ProbeFailedError where the model breaks a rule.
    """
    few = val[:NUM_FRESH_BATCHES]
    fresh = [nats_BT.astype(np.float32) for nats_BT, _ in score(next(sessions), few)]
    Probe(next(sessions), few, fresh).run()

    session = next(sessions)
    nats, correct, kept = 0.0, 0, []
    for nats_BT, correct_BT in score(session, val):
        nats += float(nats_BT.sum())
        correct += int(correct_BT.sum())
        kept.append(nats_BT.astype(np.float32))  # to compare with, so its digits suffice
    eval_s, eval_cpu_s = session.wall_s, session.cpu_s
    if final_dev_loss is not None:
        dev_loss = float(np.concatenate([nats_BT.ravel() for nats_BT, _ in score(session, dev)]).mean())
        if abs(dev_loss - final_dev_loss) > MAX_DEV_SHIFT:
            raise ProbeFailedError(
                f"weights: the saved weights have dev loss {dev_loss:.4f}, training ended with {final_dev_loss:.4f}; "
                f"the model keeps something outside its parameters and persistent buffers"
            )
    Probe(next(sessions), val, kept).run()
    return Evaluation(
        nats=nats,
        correct=correct,
        tokens=sum(nats_BT.size for nats_BT in kept),
        bytes=track.data.pin("val").bytes,
        probes=PROBES,
        confinement=session.player.confinement,
        eval_s=eval_s,
        eval_cpu_s=eval_cpu_s,
    )


def score(session: Session, batches: Sequence[Batch]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """For each tokens_BT1: nats_BT of every predicted token, and whether the most probable one was right."""
    for batch in batches:
        tokens_BT1 = batch.astype(np.int64)
        targets_BT = tokens_BT1[:, 1:]
        logits_BTV = session.ask(tokens_BT1[:, :-1])
        nats_BT = np.stack([token_nats(*row) for row in zip(logits_BTV, targets_BT, strict=True)])
        yield nats_BT, logits_BTV.argmax(-1) == targets_BT


def mean_nats(session: Session, batches: Sequence[Batch]) -> float:
    """Mean nats per predicted token."""
    nats, count = 0.0, 0
    for nats_BT, _ in score(session, batches):
        nats += float(nats_BT.sum())
        count += nats_BT.size
    return nats / count


def token_nats(logits_TV: NDArray[np.float32], targets_T: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each position: the logarithm of the summed exponentials less the target's logit, in nats.

    >>> np.round(token_nats(np.log([[0.5, 0.25, 0.25]]), np.array([0])) / np.log(2), 6)  # one bit
    array([1.])
    """
    shifted_TV = logits_TV - logits_TV.max(-1, keepdims=True)
    target_T = np.take_along_axis(shifted_TV, targets_T[:, None], -1)[:, 0]
    return np.log(np.exp(shifted_TV, out=shifted_TV).sum(-1, dtype=np.float64)) - target_T


@dataclass(frozen=True)
class Probe:
    """Scores rows again in a fresh session, rearranged and changed; raises ProbeFailedError where a loss moves."""

    session: Session
    batches: Sequence[Batch]
    nats: Sequence[NDArray[np.float32]]
    """Their losses in the first session."""

    def run(self) -> None:
        """Every row once, with other neighbours and, from a random place on, other tokens."""
        generator = np.random.default_rng(secrets.randbits(64))  # nobody can prepare for it
        size = max(len(batch) for batch in self.batches)
        for length in dict.fromkeys(batch.shape[1] - 1 for batch in self.batches):
            places = [
                (b, row)
                for b, batch in enumerate(self.batches)
                if batch.shape[1] - 1 == length
                for row in range(len(batch))
            ]
            order = generator.permutation(len(places))
            # Every boundary is tried before one is tried twice, the ends first: a leak may sit at a single one.
            cuts = [length - 1, 1, *generator.permutation(np.arange(2, length - 1)).tolist()]
            for start in range(0, len(order) if length > 1 else 0, size):
                chosen = [places[i] for i in order[start : start + size]]
                own = [cuts[place % len(cuts)] for place in range(start, start + len(chosen))]
                own[1::WHOLE_EVERY] = [length] * len(own[1::WHOLE_EVERY])
                self._score_again(chosen, own)

    def _score_again(self, places: Sequence[Place], cuts: Sequence[int]) -> None:
        """One batch of rows out of other batches, each with tokens of its neighbour from its cut on."""
        rows_BT1 = np.stack([self.batches[b][row] for b, row in places]).astype(np.int64)
        changed_BT1 = rows_BT1.copy()
        donors_BT1 = np.roll(rows_BT1, 1, axis=0) if len(places) > 1 else self.batches[0][:1, : rows_BT1.shape[1]]
        for row, cut in enumerate(cuts):
            changed_BT1[row, cut:] = donors_BT1[row, cut:]
            if changed_BT1[row, cut] == rows_BT1[row, cut]:  # any other token that occurs
                changed_BT1[row, cut] = next(token for token in rows_BT1.flat if token != rows_BT1[row, cut])
        logits_BTV = self.session.ask(changed_BT1[:, :-1])
        for row, (b, place) in enumerate(places):
            before_T = slice(0, cuts[row])
            again_T = token_nats(logits_BTV[row, before_T], rows_BT1[row, 1:][before_T])
            if (shift := _largest_shift(self.nats[b][place, before_T], again_T)) > MAX_SHIFT:
                raise self._explain(places, row, f"{shift:.2g} from position {cuts[row]} on")

    def _explain(self, places: Sequence[Place], row: int, shift: str) -> ProbeFailedError:
        """What moved a row's loss: the same question again, other neighbours, or other tokens later on."""
        b, place = places[row]
        ((same_BT, _),) = score(self.session, [self.batches[b]])
        if _largest_shift(self.nats[b][place], same_BT[place]) > MAX_SHIFT:
            return ProbeFailedError("statelessness: the same batch gives other losses in another order of batches")
        ((beside_BT, _),) = score(self.session, [np.stack([self.batches[other][at] for other, at in places])])
        if _largest_shift(self.nats[b][place], beside_BT[row]) > MAX_SHIFT:
            return ProbeFailedError("batch_independence: a sequence's loss depends on the other sequences of its batch")
        return ProbeFailedError(
            f"causality: other tokens later on move the loss before them (by {shift}); it sees the future"
        )


def _largest_shift(nats_T: NDArray[np.float32], again_T: NDArray[np.float64]) -> float:
    return float((np.abs(again_T - nats_T) / np.maximum(1.0, nats_T)).max())
