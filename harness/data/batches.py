"""Cuts tokens into batches: for training in a random order, for an evaluation in the order of the text.

Letters in shapes: N tokens, B sequences of a batch, T positions of a sequence.
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
    """The batches of the train split on which a run trains. A batch depends only on its step and the seed.

    The split is cut into windows of T tokens that do not overlap. Each epoch visits each window once, in a random order
    that depends on (seed, epoch).
    """

    def __init__(self, tokens_N: Tokens, seq_len: int, batch_sequences: int, seed: int) -> None:
        self.tokens_N, self.seq_len, self.batch_sequences, self.seed = tokens_N, seq_len, batch_sequences, seed
        self.num_windows = (len(tokens_N) - 1) // seq_len
        if self.num_windows < 1:
            raise LlmbenchError(
                f"the train split has {len(tokens_N)} tokens, too few for one sequence of {seq_len} tokens; give the "
                f"track more text"
            )

    def batch(self, step: int) -> NDArray[np.int64]:
        """The batch tokens_BT1 of a step, in a run whose batches all have the track's shape."""
        return self.rows(step * self.batch_sequences * self.seq_len, self.batch_sequences, self.seq_len)

    def rows(self, start: int, sequences: int, length: int) -> NDArray[np.int64]:
        """A batch tokens_BT1 of `sequences` rows.

        The first T tokens of a row are inputs, the last T tokens are targets. T is `length`, a divisor of the track's
        sequence length. `start` is the index of the batch's first token in the run's order of tokens, a multiple of
        `length`.
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
    """The batches tokens_BT1 of an evaluation. In them every token but the first is a target once, in the text's order.

    Each batch is a view of `tokens_N`. If the last window is shorter than the other windows, it forms a separate batch.
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
