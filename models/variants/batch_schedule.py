"""Batch schedule: half the batch in the first third of the tokens, then all of it, then half again as much (modded-nanogpt).

Small batches first, larger ones when the gradient has become noise.

Topic: batch
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-11-29_BatchSizeSchedule/README.md; arXiv:2505.23971
Claimed: modded-nanogpt (124M): 65 steps fewer. Merrill et al.: 43 % fewer steps at equal loss for a 1B model. nanochat:
    small gains, not merged.
Constants: of the source (batches of 8, 16 and 24), with the track's batch in the middle
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    def batch_shape(progress: float, sequences: int, length: int) -> tuple[int, int]:
        sequences, length = parts.batch_shape(progress, sequences, length)
        return sequences * (1 + int(3 * progress)) // 2, length

    return replace(parts, batch_shape=batch_shape)
