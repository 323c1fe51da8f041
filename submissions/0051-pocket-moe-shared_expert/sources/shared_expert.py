"""Shared expert: one of the experts sees every token, the router chooses one less (DeepSeekMoE, arXiv:2401.06066).

What all tokens need is then learned once, and not by each expert anew. Experts and products are as many as before.

Topic: experts
Source: arXiv:2401.06066
Claimed: the paper, together with finer experts: at 2B parameters as good as GShard with 1.5 times the expert parameters
    and computation; nanochat used one in experts that were better a step and worse by the clock
Constants: of the source: one shared expert, in place of one that is chosen
"""

from models.seams import FeedForward, Parts, Tensor, Wrapper, nn, replace


class Shared(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.shared = FeedForward(parts.model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(x_BTD) + self.shared(x_BTD)


def apply(parts: Parts) -> Parts:
    experts, chosen = parts.model.num_experts - 1, parts.model.top_k - 1
    return replace(parts.wrap(experts=Shared), model=replace(parts.model, num_experts=experts, top_k=chosen))
