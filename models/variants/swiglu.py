"""SwiGLU: a gated feed-forward with as many weights, its gate at half the rate (Shazeer, 2020, arXiv:2002.05202).

The original project compared it with the squared ReLU at one learning rate and asked for rates of its own. Its three
matrices are narrower and more than the base's two; the gate enters through a product, and is moved half as fast.

Topic: feed-forward
Source: arXiv:2002.05202; https://github.com/Open-Superintelligence-Lab/5-dollar-llm/blob/0c6f3cb3a335b608f0e8451b5720c679106d4994/DO_THIS_TASK.md
Claimed: the original (151M): 119 seconds to a loss of 4.5, the squared ReLU 112, one run each. nanochat: worse than the
    squared ReLU by every measure at equal parameters.
Constants: of the source; the half is ours, one try
"""

from models.seams import F, Linear, Parts, Tensor, nn, replace


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(dim, hidden)
        self.up = Linear(dim, hidden)
        self.down = Linear(hidden, dim, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


def apply(parts: Parts) -> Parts:
    def feed_forward(final: Parts, layer: int) -> nn.Module:
        return SwiGLU(final.model.dim, 2 * final.model.ffn_dim // 3)

    def lr_scale(name: str, parameter: nn.Parameter) -> float:
        return (0.5 if ".feed_forward.gate." in name else 1.0) * parts.lr_scale(name, parameter)

    return replace(parts, feed_forward=feed_forward, lr_scale=lr_scale)
