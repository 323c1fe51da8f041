"""Batches that grow: 1/2, 1 and 3/2 of the track's, a third of the steps each (modded-nanogpt, 2025, record 46).

Early gradients agree, so that few sequences are enough; later ones are noise for the most part. The tokens stay the
same, and so does the number of steps. The learning rate follows the batch to the power of 0.6.

Topic: batch
Source: https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2025-11-29_BatchSizeSchedule;
    arXiv:2505.23971
Claimed: modded-nanogpt: 65 steps fewer, 134.0 to 132.2 seconds, 8 runs; Merrill et al.: 43 % fewer steps at equal loss
    for a 1B model; nanochat: given up for the code it took
Constants: of the source: 8, 16, 24 at thirds, rates to the power of 0.6
"""

from models.seams import OptimConfig, Parts, replace


def apply(parts: Parts) -> Parts:
    def batch_shape(progress: float, sequences: int, length: int) -> tuple[int, int]:
        halves = 1 + (progress >= 1 / 6) + (progress >= 1 / 2)
        return parts.batch_shape(progress, sequences * halves // 2, length)

    def schedule(step: int, num_steps: int, config: OptimConfig) -> float:
        return (0.66, 1.0, 1.28)[3 * step // num_steps] * parts.schedule(step, num_steps, config)

    return replace(parts, batch_shape=batch_shape, schedule=schedule)
