"""Cautious weight decay: Muon shrinks a weight only where its update does so too (Chen et al., 2025, arXiv:2510.12402).

Plain decay also pulls on weights that the gradient makes larger, so that the two work against each other.

Topic: optimizer
Source: arXiv:2510.12402; https://github.com/KellerJordan/modded-nanogpt/pull/154 (record 43)
Claimed: the paper: lower final loss from millions to billions of parameters with AdamW, Lion and Muon, nothing retuned;
    modded-nanogpt: 40 steps fewer, 139.9 to 137.6 seconds, 10 runs, with a strong decay tuned for it (1.2) where there
    was none; nanochat: a solid improvement, no number
Constants: the track's own decay, as the paper asks for no other
"""

from models.seams import Muon, Parts, Tensor


class CautiousDecay(Muon):
    def decay(self, parameter: Tensor, update: Tensor, rate: float) -> None:
        parameter.sub_(parameter * (parameter * update >= 0), alpha=rate)


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=CautiousDecay)
