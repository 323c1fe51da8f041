"""Polar Express: a polynomial of its own for each of Muon's five iterations (Amsel et al., 2025, arXiv:2505.16932).

Together they come nearer to the orthogonal matrix than five times Jordan's.

Topic: optimizer
Source: arXiv:2505.16932; https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-09-29_PolarExpress/README.md
Claimed: modded-nanogpt (124M): 10 steps fewer. nanochat: no difference.
Constants: of the source, with its safety factor of 1.02, to six digits
"""

from models.seams import Muon, Parts


class PolarExpress(Muon):
    quintics = (
        (8.15655, -22.4833, 15.8788),
        (4.04293, -2.80892, 0.500018),
        (3.89167, -2.77248, 0.506065),
        (3.28575, -2.36813, 0.46449),
        (2.34654, -1.70978, 0.423236),
    )


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=PolarExpress)
