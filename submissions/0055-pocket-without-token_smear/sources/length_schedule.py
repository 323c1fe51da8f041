"""Short sequences first: half the length for the first third of the tokens (modded-nanogpt, 2026, record 72).

A young model learns from near tokens only, and short sequences make attention cheaper. A batch keeps its tokens: twice
the sequences. The source goes from 896 to 2,048 tokens; here lengths divide the track's, so that it is a half.

Topic: batch
Source: https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2026-02-10_ShortWindow;
    arXiv:2108.06084; arXiv:2310.00576
Claimed: modded-nanogpt: 1.516 to 1.496 minutes, 15 runs, with a higher final rate and shorter windows; Li et al.: up to
    2.2 times fewer tokens for GPT-2, at 8 times the batch and 4 times the rate
Constants: of the source, 0.44 of the length rounded to a half
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    def batch_shape(progress: float, sequences: int, length: int) -> tuple[int, int]:
        shape = (2 * sequences, length // 2) if progress < 1 / 3 else (sequences, length)
        return parts.batch_shape(progress, *shape)

    return replace(parts, batch_shape=batch_shape)
