"""Loss-free balance: a bias moves tokens to idle experts, and no loss does (Wang et al., 2024, arXiv:2408.15664).

A balance loss disturbs what the language loss wants. Instead, each expert's bias is added to its score where experts
are chosen, not where their outputs are weighted; after a step it rises where the expert had less than its share. Scores
are sigmoids, as in the paper.

Topic: experts
Source: arXiv:2408.15664
Claimed: the paper: less perplexity and a better balance than with a loss, at 1B and 3B parameters; nanochat used it in
    experts that were better a step and worse by the clock
Constants: of the source: the bias moves by 0.001 a step
"""

from models.seams import MixtureOfExperts, Parts, Tensor, replace, torch


class LossFree(MixtureOfExperts):
    bias_E: Tensor

    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__(replace(parts.model, balance_weight=0.0))
        self.register_buffer("bias_E", torch.zeros(parts.model.num_experts))

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = super().forward(x_BTD)
        if self.training:
            load_E = self.count_E.float()
            self.bias_E += 0.001 * (load_E.mean() - load_E).sign()
        return y_BTD

    def scores(self, x_ND: Tensor) -> Tensor:
        return super().scores(x_ND).sigmoid() + self.bias_E

    def combine(self, x_ND: Tensor, weight_Nk: Tensor, expert_Nk: Tensor) -> Tensor:
        score_Nk = super().scores(x_ND).sigmoid().gather(1, expert_Nk)
        return super().combine(x_ND, score_Nk / score_Nk.sum(-1, keepdim=True), expert_Nk)


def apply(parts: Parts) -> Parts:
    return replace(parts, experts=LossFree)
