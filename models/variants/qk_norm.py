"""QK norm: RMS-normalise queries and keys per head, with learned gains (Henry et al., 2020, arXiv:2010.04245).

RMSNorm with gains before the rotary positions is the form of current open models (OLMo 2,
arXiv:2501.00656). It bounds the attention logits, which keeps large learning rates stable.

Topic: attention
Source: arXiv:2010.04245
Claimed: 0.928 BLEU on average over five low-resource translation pairs (Henry et al., 2020)
Constants: none
"""

from dataclasses import replace

from torch import Tensor, nn

from models.parts import Parts


class QKNorm(nn.Module):
    def __init__(self, inner: nn.Module, head_dim: int) -> None:
        super().__init__()
        self.inner = inner
        self.query_norm = nn.RMSNorm(head_dim, eps=1e-6)
        self.key_norm = nn.RMSNorm(head_dim, eps=1e-6)

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(self.query_norm(q_BTHK), self.key_norm(k_BTGK))


def apply(parts: Parts) -> Parts:
    return replace(parts, query_key=lambda final, layer: QKNorm(parts.query_key(final, layer), final.model.head_dim))
