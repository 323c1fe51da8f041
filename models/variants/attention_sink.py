"""Attention sink: a learned logit a head in the softmax, to which a query attends for nothing (gpt-oss, 2025).

A softmax has to give its weight away; models then attend to the first token. Here each head has a logit of its own
that no value belongs to.

Topic: attention
Source: arXiv:2508.10925; arXiv:2309.17453
Claimed: nothing measured on the loss; a placeholder token as a sink helps streaming (Xiao et al., 2023)
Constants: of the source; the start at zero is ours
"""

from models.seams import Attention, Parts, Tensor, Vector, Wrapper, nn, torch


class Sink(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.sink = Vector(parts.model.num_heads, 1, 1)

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        k_BTHK, v_BTHK = (x.repeat_interleave(q_BTHK.size(2) // x.size(2), dim=2) for x in (k_BTGK, v_BTGK))
        scores_BHTS = torch.einsum("bthk,bshk->bhts", q_BTHK * q_BTHK.size(-1) ** -0.5, k_BTHK)
        scores_BHTS = scores_BHTS + torch.full_like(scores_BHTS[0, 0], -torch.inf).triu(1)
        sink_BHT1 = self.sink.weight.expand(*scores_BHTS.shape[:3], 1)
        weights_BHTS = torch.cat((scores_BHTS, sink_BHT1), dim=-1).softmax(-1)[..., :-1]
        return torch.einsum("bhts,bshk->bthk", weights_BHTS, v_BTHK)


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=Sink)
