"""Parallel blocks: attention and feed-forward read the same input (GPT-J, 2021; PaLM, 2022, arXiv:2204.02311).

Topic: block
Source: arXiv:2204.02311, section 2
Claimed: about 15 % faster training at scale, for a small loss at 8B parameters and none at 62B. 5-dollar-llm (pull
    request 81): 10 % faster, no loss given. universe-lm (1M parameters, one seed): -0.0035 nats
Constants: none
"""

from models.seams import Parts, RMSNorm, Tensor, nn, replace


class ParallelBlock(nn.Module):
    def __init__(self, parts: Parts, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(parts.model.dim)
        self.attention = parts.attention(parts, layer)
        self.feed_forward = parts.feed_forward(parts, layer)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = self.attention_norm(x_BTD)
        return x_BTD + self.attention(y_BTD) + self.feed_forward(y_BTD)


def apply(parts: Parts) -> Parts:
    return replace(parts, block=ParallelBlock)
