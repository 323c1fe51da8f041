"""Shared expert: a feed-forward for all tokens beside the experts (Dai et al., 2024, arXiv:2401.06066).

What every token needs has not to be learned by each expert. It is as wide as one expert.

Topic: experts
Source: arXiv:2401.06066; https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-02-19)
Claimed: DeepSeekMoE: better at equal parameters and operations (2B to 16B). nanochat: better a step, worse a second.
Constants: of the source (one shared expert)
"""

from models.seams import FeedForward, Parts, Tensor, Wrapper, nn


class SharedExpert(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.shared = FeedForward(parts.model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(x_BTD) + self.shared(x_BTD)


def apply(parts: Parts) -> Parts:
    return parts.wrap(experts=SharedExpert)
