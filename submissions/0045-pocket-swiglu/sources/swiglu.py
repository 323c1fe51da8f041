"""SwiGLU with a learning rate of its own: a gated feed-forward with as many weights (Shazeer, 2020, arXiv:2002.05202).

The hidden width is two thirds of the base's, as there are three matrices instead of two. The track's rate was found
with a squared ReLU. These three matrices get 0.024, which the project 5-dollar-llm found for its SwiGLU model under
Muon; it asks for a comparison in which each activation has its own rate.

Topic: feed-forward
Source: arXiv:2002.05202; rate:
    https://github.com/Open-Superintelligence-Lab/5-dollar-llm/blob/4ba324f/docs/LEADERBOARD.md
Claimed: 5-dollar-llm, 88M parameters, one run each, squared ReLU against SwiGLU at one rate and width: 4.8467 and
    4.8466 nats after 8M tokens, 3.7526 and 3.7492 after 100M, SwiGLU a sixth slower. nanochat at equal parameters and
    arithmetic: SwiGLU worse by step, time and flops at 12 and 24 layers, no number (log of 2026-02-05).
Constants: of the source
"""

from models.seams import F, Linear, Parts, Tensor, nn, replace


class SwiGLU(nn.Module):
    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__()
        dim, hidden = parts.model.dim, 2 * parts.model.ffn_dim // 3
        self.gate = Linear(dim, hidden)
        self.up = Linear(dim, hidden)
        self.down = Linear(hidden, dim, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


def apply(parts: Parts) -> Parts:
    def lr_scale(name: str, parameter: nn.Parameter) -> float:
        return (0.024 / parts.optim.muon_lr if ".feed_forward." in name else 1.0) * parts.lr_scale(name, parameter)

    return replace(parts, feed_forward=SwiGLU, lr_scale=lr_scale)
