"""Models for the probes, in numpy and in this process: a bigram table, and what a planted leak makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.referee.probes import Exam, Probe, random_for, score

VOCAB = 23
TABLE_VV = np.random.default_rng(5).normal(size=(VOCAB, VOCAB)).astype(np.float32)

Leak = Callable[[NDArray[np.int64], NDArray[np.float32]], None]
"""What changes logits_BTV in place, having seen tokens_BT."""


class Model:
    """A session: logits from the current token alone, then the leak."""

    def __init__(self, leak: Leak | None = None) -> None:
        self.leak = copy.deepcopy(leak)  # what it remembers is its own
        self.confinement, self.wall_s, self.cpu_s = (), 0.0, 0.0
        self.asked: list[NDArray[np.int64]] = []

    def ask(self, tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        self.asked.append(tokens_BT.copy())
        logits_BTV = TABLE_VV[tokens_BT]
        if self.leak is not None:
            self.leak(tokens_BT, logits_BTV)
        return logits_BTV


def reveal(tokens_BT: NDArray[np.int64], logits_BTV: NDArray[np.float32], row: Any, position: Any) -> None:
    """Make the model surer of the next token there: by two nats or so."""
    logits_BTV[row, position, tokens_BT[row, position + 1]] += 3


def at_positions(positions: Collection[int], length: int | None = None, rows: int | None = None) -> Leak:
    """The next token at some positions, in batches of that length and number of rows alone."""

    def leak(tokens_BT: NDArray[np.int64], logits_BTV: NDArray[np.float32]) -> None:
        if length in (None, tokens_BT.shape[1]) and rows in (None, len(tokens_BT)):
            for position in positions:
                if position + 1 < tokens_BT.shape[1]:
                    reveal(tokens_BT, logits_BTV, np.arange(len(tokens_BT)), position)

    return leak


def prefix_hashes(tokens_BT: NDArray[np.int64]) -> NDArray[np.uint64]:
    """For each position, a number that follows from the tokens up to it: where in val it is, whatever comes later."""
    hashes_BT = np.zeros(tokens_BT.shape, np.uint64)
    last_B = np.zeros(len(tokens_BT), np.uint64)
    for position, token_B in enumerate(tokens_BT.T.astype(np.uint64)):
        hashes_BT[:, position] = last_B = last_B * np.uint64(6364136223846793005) + token_B + np.uint64(1)
    return hashes_BT


def planted(hashes: NDArray[np.uint64]) -> Leak:
    """The next token after some prefixes alone."""

    def leak(tokens_BT: NDArray[np.int64], logits_BTV: NDArray[np.float32]) -> None:
        rows, positions = np.isin(prefix_hashes(tokens_BT)[:, :-1], hashes).nonzero()
        reveal(tokens_BT, logits_BTV, rows, positions)

    return leak


class Memory:
    """The next token; after a prefix that was seen before in the session, what came after it then."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, ...], int] = {}

    def __call__(self, tokens_BT: NDArray[np.int64], logits_BTV: NDArray[np.float32]) -> None:
        for row, tokens_T in enumerate(tokens_BT.tolist()):
            for position in range(3, len(tokens_T) - 1):
                following = self.seen.setdefault(tuple(tokens_T[: position + 1]), tokens_T[position + 1])
                logits_BTV[row, position, following] += 3


def tokens(count: int, seed: int) -> NDArray[Any]:
    """Made-up text."""
    return np.random.default_rng(seed).integers(VOCAB, size=count).astype("<u2")


def make_exam(seq_len: int, size: int, val_N: NDArray[Any], dev_N: NDArray[Any]) -> Exam:
    """Val's windows alone."""
    starts = range(0, len(val_N) - 1, seq_len)
    return Exam([val_N[start : start + seq_len + 1] for start in starts], seq_len, size, dev_N)


def probe_all(
    exam: Exam, leak: Leak | None, seed: int = 0, num_cuts: int | None = None, *, favour: bool = False
) -> Model:
    """Score a model and probe it, each row length at every boundary at least; the session that was probed."""
    everything = range(len(exam.rows))
    scores = score(Model(leak), exam, everything, random_for(seed, "score"))
    probe = Probe(probed := Model(leak), scores, random_for(seed, "probe"))
    for length, rows in exam.by_length(everything).items():
        cuts = max(len(rows), length - 1) if num_cuts is None else num_cuts
        probe.run(rows, cuts, 1 + len(rows) // 16, favour=favour)
    return probed
