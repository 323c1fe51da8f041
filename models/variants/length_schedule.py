"""Length schedule: sequences of a quarter, a half and then the whole length (Li et al., 2021, arXiv:2108.06084).

A batch keeps its tokens: shorter sequences are more of them. Near dependencies are learned first, and attention is
cheaper meanwhile. A sixth of the tokens for each of the first two lengths.

Topic: batch
Source: arXiv:2108.06084
Claimed: stable at larger batches and rates, up to 2.2 times less data for GPT-2 at equal loss (authors)
Constants: the three lengths and the sixths are ours, one try
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    def batch_shape(progress: float, sequences: int, length: int) -> tuple[int, int]:
        sequences, length = parts.batch_shape(progress, sequences, length)
        shorter = 2 ** max(0, 2 - int(6 * progress))
        return sequences * shorter, length // shorter

    return replace(parts, batch_shape=batch_shape)
