"""Mixture-of-experts feed-forward: each token goes to its top k experts, and no token is dropped.

Shapes: N tokens (batch times position), D model width, F expert width, E experts, k experts per token, A = N k
assignments of a token to an expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import squared_relu
from models.parts import ModelConfig


class MixtureOfExperts(nn.Module):
    """x_BTD -> y_BTD: the weighted sum of the outputs of each token's `top_k` most probable experts.

    The weights are the router's probabilities of these experts, divided by their sum if `top_k` is above 1. After a
    forward pass, `count_E` is the number of assignments to each expert, and `balance_loss` the load-balancing loss.
    `aux_loss` is this loss times its weight; it is added to the training loss. A subclass may add experts without
    matrices as further columns of `scores`; `combine` skips these experts.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_experts, self.top_k = config.num_experts, config.top_k
        self.balance_weight, self.dropout = config.balance_weight, config.dropout
        self.router = nn.Linear(config.dim, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.dim, config.ffn_dim)
        self.aux_loss = self.balance_loss = torch.zeros(())
        self.count_E = torch.zeros(config.num_experts)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, -2)
        with torch.autocast(x_ND.device.type, enabled=False):  # float32, as in arXiv:2101.03961, section 2.4
            probability_NE = self.scores(x_ND.float()).softmax(-1)
        weight_Nk, expert_Nk = probability_NE.topk(self.top_k, dim=-1)
        if self.top_k > 1:  # with one expert the weight would be 1, and the router would get no gradient
            weight_Nk = weight_Nk / weight_Nk.sum(-1, keepdim=True)
        ids_E = torch.arange(probability_NE.size(-1), device=x_ND.device)
        self.count_E = (expert_Nk.flatten()[:, None] == ids_E).sum(0)  # bincount would wait for the GPU
        self.balance_loss = self.balance(self.count_E / expert_Nk.numel(), probability_NE.mean(0))
        self.aux_loss = self.balance_weight * self.balance_loss
        y_ND = self.combine(x_ND, weight_Nk.type_as(x_ND), expert_Nk)
        return F.dropout(y_ND.view_as(x_BTD), self.dropout, self.training)

    def scores(self, x_ND: Tensor) -> Tensor:
        """x_ND -> logits_NE of the router, before the softmax."""
        return self.router(x_ND)

    def balance(self, share_E: Tensor, probability_E: Tensor) -> Tensor:
        """The load-balancing loss: E times the sum over experts of `share_E` x `probability_E`.

        It is 1 if all experts get the same share. `share_E` is each expert's share of the assignments, `probability_E`
        the mean probability that the router gives to the expert. Source: Switch Transformer, arXiv:2101.03961,
        equations 4 to 6; for k above 1, ST-MoE, arXiv:2202.08906.
        """
        return len(share_E) * (share_E * probability_E).sum()

    def combine(self, x_ND: Tensor, weight_Nk: Tensor, expert_Nk: Tensor) -> Tensor:
        """(x_ND, weight_Nk, expert_Nk) -> y_ND: the weighted sum over each token's experts that have matrices."""
        # The assignments are sorted by expert, so that those of each expert are one slice.
        order_A = expert_Nk.flatten().argsort(stable=True)
        token_A = order_A // self.top_k
        y_AD = self.experts(x_ND.index_select(0, token_A), self.count_E)
        y_AD = y_AD.type_as(x_ND) * weight_Nk.flatten()[order_A, None]
        return torch.zeros_like(x_ND).index_add(0, token_A, y_AD)


class Experts(nn.Module):
    """E feed-forward layers with a squared ReLU. Each of the two parameters stacks the matrices of all experts."""

    def __init__(self, num_experts: int, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.up_EDF = nn.Parameter(torch.empty(num_experts, dim, ffn_dim))
        self.down_EFD = nn.Parameter(torch.empty(num_experts, ffn_dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.up_EDF, std=(3 * self.up_EDF.size(1)) ** -0.5)
        nn.init.zeros_(self.down_EFD)

    def forward(self, x_AD: Tensor, count_E: Tensor) -> Tensor:
        """(x_AD, count_E) -> y_AD: the output of each row's expert, in the order of the rows.

        Rows are sorted by expert, and `count_E[e]` rows belong to expert e. `count_E` may have more than E entries. The
        further entries are of experts without matrices, and the output of their rows is zero.
        """
        if x_AD.is_cuda and not self.training:
            return self.all_by_all(x_AD, count_E)
        return self.grouped(x_AD, count_E) if self._can_group(x_AD) else self.one_by_one(x_AD, count_E)

    def one_by_one(self, x_AD: Tensor, count_E: Tensor) -> Tensor:
        """Does what `forward` does, by two matrix products for each expert. This is fastest on a CPU."""
        num_experts, counts = len(self.up_EDF), count_E.tolist()
        *slices, rest = torch.split(x_AD, [*counts[:num_experts], sum(counts[num_experts:])])
        outputs = [
            squared_relu(rows @ up) @ down for rows, up, down in zip(slices, self.up_EDF, self.down_EFD, strict=True)
        ]
        return torch.cat([*outputs, torch.zeros_like(rest, dtype=outputs[0].dtype)])

    def all_by_all(self, x_AD: Tensor, count_E: Tensor) -> Tensor:
        """Does what `forward` does, by applying every expert to all rows. Used for evaluation on a GPU.

        This is more work, but each matrix product always has the same number of rows. With another number of rows, a
        GPU may sum in another order, and its result may differ slightly. If a token has two experts of almost equal
        probability, such a difference could change which expert it gets. Then its loss would depend on the other tokens
        of the batch.
        """
        expert_A = torch.searchsorted(count_E.cumsum(0), torch.arange(len(x_AD), device=x_AD.device), right=True)
        y_AD = torch.zeros_like(x_AD)
        for expert, (up, down) in enumerate(zip(self.up_EDF, self.down_EFD, strict=True)):
            y_AD = torch.where(expert_A[:, None] == expert, squared_relu(x_AD @ up) @ down, y_AD)
        return y_AD

    def grouped(self, x_AD: Tensor, count_E: Tensor) -> Tensor:
        """Does what `forward` does, by grouped matrix products over all experts, in bfloat16 on a GPU.

        The sizes of the groups stay on the GPU, so the CPU does not wait for them. `grouped_mm` writes no output and no
        gradient for rows whose expert has no matrices, so these rows are set to zero in input and output
        (docs.pytorch.org/docs/stable/generated/torch.nn.functional.grouped_mm.html).
        """
        end_E = count_E[: len(self.up_EDF)].cumsum(0).to(torch.int32)
        taken_A1 = torch.arange(len(x_AD), device=x_AD.device)[:, None] < end_E[-1]
        x_AD = x_AD.where(taken_A1, 0).bfloat16()
        hidden_AF = squared_relu(F.grouped_mm(x_AD, self.up_EDF.bfloat16(), offs=end_E))
        return F.grouped_mm(hidden_AF, self.down_EFD.bfloat16(), offs=end_E).where(taken_A1, 0)

    def _can_group(self, x_AD: Tensor) -> bool:
        """Whether to use `grouped`. It needs bfloat16 autocast, compute capability 9.0 or later, widths divisible by 8.

        On an older GPU `grouped_mm` is a loop that waits for the GPU, as `one_by_one` does.
        """
        return (
            x_AD.is_cuda
            and torch.is_autocast_enabled("cuda")
            and torch.get_autocast_dtype("cuda") == torch.bfloat16
            and torch.cuda.get_device_capability(x_AD.device) >= (9, 0)
            and all(size % 8 == 0 for size in self.up_EDF.shape[1:])
        )
