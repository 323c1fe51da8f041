"""Cautious weight decay: decay a weight only where the update pulls it the same way (Chen et al., 2025, arXiv:2510.12402).

Of the matrices that Muon moves; the tables keep plain decay.

Topic: optimizer
Source: arXiv:2510.12402; https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-11-10_CautiousWD/README.md; https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-10)
Claimed: better final loss from millions to billions of parameters. modded-nanogpt (124M): 40 steps fewer. nanochat:
    solid, no number.
Constants: of the source
"""

from models.seams import Muon, Parts, Tensor


class Cautious(Muon):
    def decay(self, parameter: Tensor, update: Tensor, rate: float) -> None:
        parameter.mul_(1 - rate * (update * parameter > 0))


def apply(parts: Parts) -> Parts:
    return parts.wrap(muon=Cautious)
