"""Polar Express: five quintics for Muon, each the best for what the ones before leave (Amsel et al., arXiv:2505.16932).

Muon applies one polynomial five times, chosen for its slope at zero; it leaves singular values between 0.7 and 1.2.
These bring them closer to one. The original project has them as "Polar Muon". The first one is divided by the powers of
its safety factor of 1.02, by which both sources divide the matrix.

Topic: optimizer
Source: arXiv:2505.16932; https://github.com/KellerJordan/modded-nanogpt/pull/134 (record 38);
    https://github.com/Open-Superintelligence-Lab/5-dollar-llm/pull/56
Claimed: modded-nanogpt: 10 of 1,680 steps fewer, 149.6 to 148.6 seconds, 7 runs each; nanochat: in the noise; the
    original project, one run each: 0.0104 nats at 8M tokens, 0.0031 at 20M, -0.0083 at 100M (with a fused AdamW)
Constants: of the source
"""

from models.seams import Muon, Parts


class PolarExpress(Muon):
    quintics = (
        (8.15655452 / 1.02, -22.48329293 / 1.02**3, 15.87876992 / 1.02**5),
        (4.04292994, -2.80891747, 0.50001785),
        (3.8916678, -2.77248415, 0.50606482),
        (3.28565375, -2.36812949, 0.46449024),
        (2.34654133, -1.70978284, 0.42323551),
    )


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=PolarExpress)
