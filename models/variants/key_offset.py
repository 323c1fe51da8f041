"""Key offset: half of each key does not rotate and comes from the token before (modded-nanogpt, 2025-12-14).

A query can then ask for what stood before a token, so that one layer does what induction takes two for. Half of each
head's channels rotate as a head of half the width does; the other half of the key is moved on by one position.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-12-14_PartialKeyOffset/README.md
Claimed: modded-nanogpt (124M): 131.2 to 128.8 seconds and 50 steps fewer, with four other changes, 11 runs; alone
    nothing measured. On all channels it was worse.
Constants: of the source (half of the channels, every layer)
"""

from models.seams import Parts, Rotary, Tensor, nn, replace, torch


class KeyOffset(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.rotary = Rotary(parts.model.head_dim // 2, parts.model.rope_base)

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        q_BTHK, still_q = q_BTHK.chunk(2, dim=-1)
        k_BTGK, still_k = k_BTGK.chunk(2, dim=-1)
        q_BTHK, k_BTGK = self.rotary(q_BTHK, k_BTGK)
        moved_k = torch.cat((still_k[:, :1], still_k[:, :-1]), dim=1)
        return torch.cat((q_BTHK, still_q), dim=-1), torch.cat((k_BTGK, moved_k), dim=-1)


def apply(parts: Parts) -> Parts:
    return replace(parts, query_key=lambda final, layer: KeyOffset(final))
