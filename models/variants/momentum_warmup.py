"""Momentum warm-up: Muon's momentum rises from 0.85 to 0.95 over the first tenth of the steps (modded-nanogpt, 2024-11-06).

Early gradients are soon out of date.

Topic: optimizer
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2024-11-06_ShortcutsTweaks/README.md
Claimed: modded-nanogpt (124M): -0.0128 nats, one seed
Constants: of the source (300 of 3,200 steps)
"""

from models.seams import Muon, Parts


class WarmMomentum(Muon):
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            group["momentum"] = 0.85 + 0.1 * min(1.0, self.context.progress * 3200 / 300)
        super().step()


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=WarmMomentum)
