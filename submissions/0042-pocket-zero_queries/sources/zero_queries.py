"""Queries start at zero, so that attention starts as a mean (Yang et al., 2022, arXiv:2203.03466, appendix D.2).

Topic: attention
Source: arXiv:2203.03466
Claimed: recommended for transferring learning rates; nothing measured alone
Constants: of the source
"""

from models.seams import Attention, Linear, Parts, replace


class ZeroQueries(Attention):
    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__(parts, layer)
        self.query = Linear(self.query.in_features, self.query.out_features, zero=True)


def apply(parts: Parts) -> Parts:
    return replace(parts, attention=ZeroQueries)
