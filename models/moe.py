"""Top-k mixture-of-experts feed-forward; no token is dropped.

Shapes: N tokens (batch times position), D model width, F expert width, E experts, k experts a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts import ModelConfig


class MixtureOfExperts(nn.Module):
    """Each token goes to its `top_k` experts, weighted by the router's probabilities, renormalised over them.

    `aux_loss` holds the load-balancing loss of the last forward pass, weighted: E times the sum over
    experts of (share of assignments) x (mean router probability), 1 where balanced (Switch
    Transformer, arXiv:2101.03961, equations 4 to 6; top-k as in ST-MoE, arXiv:2202.08906).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.balance_weight, self.dropout = config.top_k, config.balance_weight, config.dropout
        self.router = nn.Linear(config.dim, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.dim, config.ffn_dim)
        self.aux_loss = torch.zeros(())

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, -2)
        probability_NE = self.router(x_ND).float().softmax(-1)
        weight_Nk, expert_Nk = probability_NE.topk(self.top_k, dim=-1)
        if self.top_k > 1:  # a single expert keeps its probability, or the router would learn nothing from it
            weight_Nk = weight_Nk / weight_Nk.sum(-1, keepdim=True)

        num_experts = probability_NE.size(-1)
        load_E = torch.bincount(expert_Nk.flatten(), minlength=num_experts)
        share_E = load_E.float() / expert_Nk.numel()
        self.aux_loss = self.balance_weight * num_experts * (share_E * probability_NE.mean(0)).sum()

        # Sorted by expert, the assignments of each expert are one slice: one pair of products an expert.
        order = expert_Nk.flatten().argsort(stable=True)
        token = order // self.top_k
        y = self.experts(x_ND[token], load_E.tolist()) * weight_Nk.flatten()[order, None].type_as(x_ND)
        y_ND = torch.zeros_like(x_ND).index_add(0, token, y)
        return F.dropout(y_ND.view_as(x_BTD), self.dropout, self.training)


class Experts(nn.Module):
    """E feed-forwards with a squared ReLU, their matrices stacked."""

    def __init__(self, num_experts: int, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.up_EDF = nn.Parameter(torch.empty(num_experts, dim, ffn_dim))
        self.down_EFD = nn.Parameter(torch.empty(num_experts, ffn_dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.up_EDF, std=(3 * self.up_EDF.size(1)) ** -0.5)
        nn.init.zeros_(self.down_EFD)

    def forward(self, x: Tensor, load: list[int]) -> Tensor:
        """Rows sorted by expert, `load[e]` rows for expert e -> their outputs in the same order."""
        slices = torch.split(x, load)
        return torch.cat(
            [
                F.relu(rows @ up).square() @ down
                for rows, up, down in zip(slices, self.up_EDF, self.down_EFD, strict=True)
            ]
        )
