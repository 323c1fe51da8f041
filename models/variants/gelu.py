"""GELU in the place of the squared ReLU (Hendrycks and Gimpel, 2016, arXiv:1606.08415).

Topic: feed-forward
Source: arXiv:1606.08415; arXiv:2109.08668
Claimed: the squared ReLU was found better by Primer's search (So et al., 2021); here the question is the other way round
Constants: none
"""

from models.seams import F, FeedForward, Parts, Tensor, replace


class Activated(FeedForward):
    def activate(self, hidden_BTF: Tensor) -> Tensor:
        return F.gelu(hidden_BTF)


def apply(parts: Parts) -> Parts:
    return replace(parts, feed_forward=lambda final, layer: Activated(final.model))
