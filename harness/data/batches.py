"""Tokens to batches: the order in which a run sees the train split, and the windows of an evaluation.

Shapes: N tokens, B sequences of a batch, T positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


class Batches:
    """The order in which a run sees the train split: a function of step and seed only.

    Each epoch visits the split's non-overlapping windows of T tokens once, in an order keyed by (seed, epoch).
    """

    def __init__(self, tokens_N: Tokens, seq_len: int, batch_sequences: int, seed: int) -> None:
        self.tokens_N, self.seq_len, self.batch_sequences, self.seed = tokens_N, seq_len, batch_sequences, seed
        self.num_windows = (len(tokens_N) - 1) // seq_len
        if self.num_windows < 1:
            raise LlmbenchError(
                f"the train split has {len(tokens_N)} tokens, fewer than a sequence of {seq_len}; give it more text"
            )

    def batch(self, step: int) -> NDArray[np.int64]:
        """tokens_BT1 of a step, where all steps have the track's shape."""
        return self.rows(step * self.batch_sequences * self.seq_len, self.batch_sequences, self.seq_len)

    def rows(self, start: int, sequences: int, length: int) -> NDArray[np.int64]:
        """tokens_BT1: B pieces of T + 1 tokens; inputs are the first T, targets the last T.

        `start` is a place in the run's order of tokens, a multiple of `length`; `length` divides the track's.
        """
        rows = []
        for index in range(start, start + sequences * length, length):
            window, offset = divmod(index, self.seq_len)
            epoch, position = divmod(window, self.num_windows)
            first = int(_epoch_order(self.seed, epoch, self.num_windows)[position]) * self.seq_len + offset
            rows.append(self.tokens_N[first : first + length + 1])
        return np.stack(rows).astype(np.int64)


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, num_windows: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(derive_seed("order", seed, epoch))).permutation(num_windows)


def eval_batches(tokens_N: Tokens, seq_len: int, sequences: int) -> list[Tokens]:
    """Batches tokens_BT1 that predict every token but the first exactly once, in order; they are views.

    The last window may be shorter; it is a batch of its own.
    """
    num_windows = (len(tokens_N) - 1) // seq_len
    batches: list[Any] = []
    if num_windows:
        windows_NT1 = np.lib.stride_tricks.sliding_window_view(tokens_N, seq_len + 1)[::seq_len]
        batches += [windows_NT1[i : i + sequences] for i in range(0, num_windows, sequences)]
    rest = tokens_N[num_windows * seq_len :]
    if len(rest) > 1:
        batches.append(rest[None])
    return batches
