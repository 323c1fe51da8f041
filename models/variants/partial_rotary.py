"""Partial rotary: a quarter of each head's channels rotates, the rest has no position (GPT-NeoX-20B, arXiv:2204.06745).

Channels without position compare what tokens are, wherever they stand.

Topic: attention
Source: arXiv:2204.06745; https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-16, 2026-03-24); arXiv:2603.11611
Claimed: the sources disagree. A tenth of the channels converges like all of them (Khan et al., 2026); nanochat: half no
    better, a quarter slightly worse. GPT-NeoX: nothing measured.
Constants: of the source (a quarter)
"""

from models.seams import Parts, Rotary, Tensor, nn, replace, torch


class PartialRotary(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.width = parts.model.head_dim // 4
        self.rotary = Rotary(self.width, parts.model.rope_base)

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        q_part, k_part = self.rotary(q_BTHK[..., : self.width], k_BTGK[..., : self.width])
        q_BTHK = torch.cat((q_part, q_BTHK[..., self.width :]), dim=-1)
        return q_BTHK, torch.cat((k_part, k_BTGK[..., self.width :]), dim=-1)


def apply(parts: Parts) -> Parts:
    return replace(parts, query_key=lambda final, layer: PartialRotary(final))
