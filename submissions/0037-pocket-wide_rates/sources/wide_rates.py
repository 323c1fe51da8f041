"""Wide rates: Muon's rate is raised for matrices with more inputs than outputs, not for tall ones (nanochat, 2026).

Muon multiplies the update by the root of outputs over inputs where that is above one, which is each feed-forward's
first matrix. Here it is inputs over outputs, which is the second.

Topic: optimizer
Source: https://github.com/karpathy/nanochat/pull/492; its dev/LOG.md, 2026-02-03
Claimed: nanochat: slightly worse at 12 layers, one run; by it, modded-nanogpt gained; modded-nanogpt says that such
    rates have surprisingly little effect
Constants: none
"""

from models.seams import Muon, Parts, torch


class WideRates(Muon):
    def scale(self, shape: torch.Size) -> float:
        return max(1.0, shape[-1] / shape[-2]) ** 0.5


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=WideRates)
