"""Probes: tests whether a loss depends on later tokens, on other rows of the batch, or on earlier batches.

The losses of val's rows are computed a second time. This time a row is in a batch with other rows, and its tokens from
some position on (its *cut*) are replaced by tokens of dev. If a loss before the cut changes, the model used something
that it must not know. If a row is used again in a later batch, its cut is further to the right. So the replaced tokens
of a row are in no other row of its batch, and in no earlier batch of the session. Batches have the size with which val
is evaluated; a few have only one or two rows.

Shapes: B rows of a batch, T positions, V vocabulary, N tokens of a split.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.core.project import derive_seed
from harness.referee.session import ProbeFailedError

# Largest allowed change of a loss: relative, or in nats if the loss is below one. It is far above the float32 rounding
# of another order of summation, and far below the effect of a useful leak.
MAX_SHIFT = 1e-4
SMALL_BATCHES = (1, 1, 2, 2)
"""Number of rows of each small batch that a probe has."""

Row = NDArray[np.integer[Any]]
"""T + 1 tokens of a split: the model sees the first T and predicts the last T."""


class Session(Protocol):
    """A process with one model, which returns the logits for batches."""

    wall_s: float
    cpu_s: float
    """`wall_s` and `cpu_s` are the seconds that the model's answers took so far."""

    @property
    def confinement(self) -> tuple[str, ...]:
        """Names of the mechanisms that confine the model's process, such as `landlock`."""

    def ask(self, tokens_BT: NDArray[np.int64], /) -> NDArray[np.float32]:
        """The model's logits_BTV for a batch. Raises ProbeFailedError if a logit is not finite."""


def probe_seed(weights: bytes, val_N: Row) -> int:
    """The seed of all probes of a model: SHA-256 of its weights followed by the val tokens.

    If an evaluation is repeated, the probes are the same. A variant's code does not know val, so it cannot predict the
    probes.
    """
    digest = hashlib.sha256(weights)
    digest.update(np.ascontiguousarray(val_N, dtype="<u4").data)
    return int.from_bytes(digest.digest())


def random_for(seed: int, purpose: str) -> np.random.Generator:
    """A random generator. Its numbers depend on `seed` and `purpose`, so each purpose has another random stream."""
    return np.random.Generator(np.random.PCG64(derive_seed("probe", seed, purpose)))


def token_nats(logits_TV: NDArray[np.float32], targets_T: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each position, nats: log-sum-exp of the logits minus the target's logit.

    Raises ProbeFailedError if the cross-entropy of a position is not finite.

    >>> np.round(token_nats(np.log([[0.5, 0.25, 0.25]]), np.array([0])) / np.log(2), 6)  # one bit
    array([1.])
    """
    with np.errstate(over="ignore"):  # logits may differ by more than float32 holds
        shifted_TV = logits_TV - logits_TV.max(-1, keepdims=True)
    target_T = np.take_along_axis(shifted_TV, targets_T[:, None], -1)[:, 0]
    if not np.isfinite(target_T).all():
        raise ProbeFailedError("finiteness: a loss of the model is NaN or infinite")
    return np.log(np.exp(shifted_TV, out=shifted_TV).sum(-1, dtype=np.float64)) - target_T


class Question(NamedTuple):
    """One batch. `rows` are the numbers of its first rows, which are evaluated; its other rows only fill it up."""

    rows: tuple[int, ...]
    tokens_BT: NDArray[np.int64]


def mean_nats(session: Session, batches: Iterable[NDArray[np.integer[Any]]]) -> float:
    """Mean nats per predicted token over batches tokens_BT1."""
    nats, count = 0.0, 0
    for batch in batches:
        tokens_BT1 = batch.astype(np.int64)
        for logits_TV, targets_T in zip(session.ask(tokens_BT1[:, :-1]), tokens_BT1[:, 1:], strict=True):
            nats += float(token_nats(logits_TV, targets_T).sum())
            count += len(targets_T)
    return nats / count


@dataclass(frozen=True)
class Exam:
    """The rows whose losses are computed, and how they are put into batches."""

    rows: Sequence[Row]
    """All rows have `seq_len` positions, except perhaps the last row of each split."""
    seq_len: int
    size: int
    """Rows per batch. A row of another length than `seq_len` is alone in its batch."""
    foreign_N: Row
    """Dev's tokens, which replace tokens after a cut."""

    def by_length(self, rows: Sequence[int]) -> Mapping[int, list[int]]:
        """Number of positions -> the rows among `rows` that have so many positions."""
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(len(self.rows[row]) - 1, []).append(row)
        return groups

    def batch_size(self, length: int) -> int:
        """Number of rows of a batch, if its rows have this length."""
        return self.size if length == self.seq_len else 1

    def foreign(self, count: int, unlike: int, generator: np.random.Generator) -> Row:
        """`count` consecutive tokens from a random place of dev, whose first token is not `unlike`."""
        places_N = np.flatnonzero(self.foreign_N != unlike)
        if not len(places_N):
            return np.full(count, 0 if unlike else 1, self.foreign_N.dtype)
        start = int(generator.choice(places_N))
        return np.take(self.foreign_N, np.arange(start, start + count), mode="wrap")

    def fill(self, tokens: list[Row], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """A batch of `size` rows: those in `tokens`, then rows of dev."""
        fillers = [self.foreign(len(tokens[0]), -1, generator) for _ in range(size - len(tokens))]
        return np.stack([*tokens, *fillers]).astype(np.int64)


@dataclass(frozen=True)
class Scores:
    """A model's losses and correct predictions on the rows of `exam`, without replaced tokens."""

    exam: Exam
    nats: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """Row -> loss of each position, nats."""
    correct: dict[int, int] = field(default_factory=dict)
    """Row -> number of positions whose most probable token was right."""
    questions: dict[int, Question] = field(default_factory=dict)
    """Row -> the batch in which its losses were computed."""


def score(session: Session, exam: Exam, rows: Sequence[int], generator: np.random.Generator) -> Scores:
    """Compute the losses of `rows`, without replaced tokens, in random order.

    At most one batch contains rows that follow each other in the text.
    """
    scores = Scores(exam)
    batches = []
    for length, group in exam.by_length(rows).items():
        order, size = _shuffled(group, generator), exam.batch_size(length)
        batches += [(order[start : start + size], size) for start in range(0, len(order), size)]
    for at in generator.permutation(len(batches)):
        chunk, size = batches[at]
        question = Question(tuple(chunk), exam.fill([exam.rows[row][:-1] for row in chunk], size, generator))
        logits_BTV = session.ask(question.tokens_BT)
        for logits_TV, row in zip(logits_BTV, chunk, strict=False):
            targets_T = exam.rows[row][1:].astype(np.int64)
            scores.nats[row] = token_nats(logits_TV, targets_T)
            scores.correct[row] = int((logits_TV.argmax(-1) == targets_T).sum())
            scores.questions[row] = question
    return scores


class Cut(NamedTuple):
    """A row whose tokens from position `cut` on are replaced.

    `cut` is 1 or more. If it is the length of the row, no token is replaced.
    """

    row: int
    cut: int


def plan(
    odds: Mapping[int, NDArray[np.float64]], num_cuts: int, num_whole: int, size: int, generator: np.random.Generator
) -> Iterator[tuple[list[Cut], int]]:
    """Batches of rows with their cuts, and for each batch the number of rows to which it has to be filled up.

    There are at least `num_cuts` cuts in all, and `num_whole` rows without replaced tokens. `odds`: row -> relative
    frequency of a cut after each position. Half of the cuts are drawn with these frequencies, the other half uniformly.
    All rows are used about equally often, and so are all boundaries (places between two positions). No row is cut twice
    at the same boundary. No batch contains a row twice, and a row's cuts increase from batch to batch.
    """
    order = _shuffled(list(odds), generator)
    length = len(odds[order[0]])
    possible = len(order) * (length - 1)
    sizes = list(SMALL_BATCHES)
    while (room := sum(min(at_most, len(order)) for at_most in sizes)) < min(num_cuts, possible) + num_whole:
        sizes.append(size)
    num_cuts = min(room - num_whole, possible)
    cuts = _pair(order, odds, num_cuts, generator)
    rising = {row: iter([*sorted(own), length]) for row, own in cuts.items()}
    turns = itertools.islice(itertools.cycle(order), num_cuts + num_whole)
    asked = iter([Cut(row, next(rising[row])) for row in turns])
    for at_most in generator.permutation(sizes).tolist():
        if chunk := list(itertools.islice(asked, min(at_most, len(order)))):
            yield chunk, at_most


def _pair(
    order: Sequence[int], odds: Mapping[int, NDArray[np.float64]], num_cuts: int, generator: np.random.Generator
) -> dict[int, list[int]]:
    """Row -> its cuts. All rows are used about equally often, and so are all boundaries (places between positions).

    If `num_cuts` is not a multiple of the number of boundaries, the first and the last boundary get the first cuts that
    are left over.
    """
    num_boundaries = len(odds[order[0]]) - 1
    cuts: dict[int, list[int]] = {row: [] for row in order}
    if not num_boundaries:
        return cuts
    left_T = np.full(num_boundaries, num_cuts // num_boundaries)
    ends_first = np.argsort([0, *generator.uniform(1, 2, max(0, num_boundaries - 2)), 0][:num_boundaries])
    left_T[ends_first[: num_cuts % num_boundaries]] += 1
    for turn, choice in enumerate(generator.permutation(num_cuts)):  # the cuts that follow the odds come first
        row = order[choice % len(order)]
        unused_T = np.ones(num_boundaries)
        unused_T[[cut - 1 for cut in cuts[row]]] = 0
        chances_T = unused_T * (odds[row][:-1] * (left_T > 0) if turn < num_cuts // 2 else left_T)
        if not chances_T.any():
            chances_T = unused_T
        boundary = int(generator.choice(num_boundaries, p=chances_T / chances_T.sum()))
        left_T[boundary] -= left_T[boundary] > 0
        cuts[row].append(boundary + 1)
    return cuts


@dataclass(frozen=True)
class Probe:
    """Computes the losses of rows a second time, in another process. Raises ProbeFailedError if a loss changes."""

    session: Session
    scores: Scores
    """Losses of the unchanged rows, from another session."""
    generator: np.random.Generator

    def run(self, rows: Sequence[int], num_cuts: int, num_whole: int, *, favour: bool) -> None:
        """Probe `rows`, all of one length, with at least `num_cuts` cuts and `num_whole` rows without replaced tokens.

        If `favour` is true, half of the cuts are drawn in proportion to the probability that the model gave to the
        correct next token. A model that sees later tokens gives it a high probability, so these cuts find a leak much
        sooner than uniform ones.
        """
        odds = {row: np.exp(-self.scores.nats[row] * favour) for row in rows}
        size = self.scores.exam.batch_size(len(odds[rows[0]]))
        for cuts, fill_to in plan(odds, num_cuts, num_whole, size, self.generator):
            self._ask(cuts, fill_to)

    def _ask(self, cuts: Sequence[Cut], size: int) -> None:
        exam, own = self.scores.exam, [self.scores.exam.rows[row][:-1] for row, _ in cuts]
        shown = [tokens_T.copy() for tokens_T in own]
        for tokens_T, (_, cut) in zip(shown, cuts, strict=True):
            if cut < len(tokens_T):
                tokens_T[cut:] = exam.foreign(len(tokens_T) - cut, int(tokens_T[cut]), self.generator)
        tokens_BT = exam.fill(shown, size, self.generator)
        logits_BTV = self.session.ask(tokens_BT)
        for place, (row, cut) in enumerate(cuts):
            if (shift := self._shift(row, logits_BTV[place], cut)) > MAX_SHIFT:
                beside_BT = tokens_BT.copy()
                beside_BT[: len(own)] = own
                what = f"from position {cut} on changes an earlier loss by {shift:.2g}"
                raise self._explain(row, place, beside_BT, what)

    def _shift(self, row: int, logits_TV: NDArray[np.float32], cut: int) -> float:
        """The largest change of a loss before the cut; it is relative if the loss is above one nat."""
        before_T = self.scores.nats[row][:cut]
        again_T = token_nats(logits_TV[:cut], self.scores.exam.rows[row][1 : cut + 1].astype(np.int64))
        return float((np.abs(again_T - before_T) / np.maximum(1.0, before_T)).max())

    def _explain(self, row: int, place: int, beside_BT: NDArray[np.int64], what: str) -> ProbeFailedError:
        """The error for a changed loss; it names the broken rule.

        `what` says which tokens were replaced, and what changed. The batch with which the row was first evaluated is
        evaluated again, then this batch without replaced tokens. If the row's losses change in neither, the broken rule
        is causality.
        """
        rows, tokens_BT = self.scores.questions[row]
        if self._shift(row, self.session.ask(tokens_BT)[rows.index(row)], tokens_BT.shape[1]) > MAX_SHIFT:
            return ProbeFailedError(
                "statelessness: a batch gives other losses after other batches; keep no state from batch to batch"
            )
        if self._shift(row, self.session.ask(beside_BT)[place], tokens_BT.shape[1]) > MAX_SHIFT:
            return ProbeFailedError(
                "batch_independence: a sequence's loss depends on other sequences of its batch; do not mix sequences"
            )
        return ProbeFailedError(f"causality: replacing the tokens {what}; the model sees the future")


def _shuffled(rows: Sequence[int], generator: np.random.Generator) -> list[int]:
    """`rows` in random order, even numbers first, so that rows adjacent in the text are rarely in one batch."""
    return sorted(generator.permutation(rows).tolist(), key=lambda row: row % 2)
