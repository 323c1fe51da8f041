"""Merged projection: one stacked matrix holds query, key, value and output (5-dollar-llm pull request 88, 2026).

One product instead of three, and Muon makes one matrix orthogonal instead of four, which is less arithmetic and another
update: the rows of all four share their directions. The rows of the output start at zero, as in the base.

Topic: attention
Source: https://github.com/Open-Superintelligence-Lab/5-dollar-llm/pull/88
Claimed: nothing measured; the leaderboard's row says "[to be measured]". nanochat fused the four to about no effect
    (log of 2026-01-18).
Constants: of the source
"""

from models.seams import Attention, F, Linear, Parts, Tensor, nn, replace, torch


class Stack(Linear):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.weight[-self.in_features :])


class MergedAttention(Attention):
    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__(parts, layer)
        del self.query, self.key, self.value, self.out
        model = parts.model
        self.heads = [model.num_heads, model.num_kv_heads, model.num_kv_heads]
        self.merged = Stack(model.dim, sum(self.heads) * model.head_dim + model.dim)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.merged.weight[: -x_BTD.size(-1)]
        heads = F.linear(x_BTD, weight).view(*x_BTD.shape[:2], -1, self.head_dim)
        q_BTHK, k_BTGK, v_BTGK = torch.split(heads, self.heads, dim=2)
        return q_BTHK, k_BTGK, v_BTGK

    def put_out(self, y_BTHK: Tensor, x_BTD: Tensor) -> Tensor:
        return F.linear(y_BTHK.flatten(-2), self.merged.weight[-x_BTD.size(-1) :])


def apply(parts: Parts) -> Parts:
    return replace(parts, attention=MergedAttention)
