"""Momentum warm-up: Muon's momentum begins 0.1 lower and rises over the first sixth (modded-nanogpt, 2024, record 9).

Early gradients point elsewhere soon after, so that a long memory of them is of little use. The source goes from 0.85 to
its own momentum of 0.95 over 500 of 3,200 steps; here it goes to the track's momentum, in the same share of the steps.

Topic: optimizer
Source: https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2024-11-06_ShortcutsTweaks
Claimed: 3.2972 to 3.2844 nats at 124M parameters, one seed each
Constants: of the source, with steps as a share and the end at the track's momentum
"""

from models.seams import Any, Muon, Parts


class RisingMomentum(Muon):
    def momentum(self, group: dict[str, Any]) -> float:
        return super().momentum(group) - 0.1 * max(0.0, 1 - 6.4 * self.context.progress)


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=RisingMomentum)
