"""Window schedule: attention sees 64 tokens back at first, and ever more (modded-nanogpt, 2024-11-24).

Near tokens are learned from first. The window grows linearly with the steps, from 64 tokens to the whole sequence;
where the model is scored it sees everything.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2024-11-24_WindowWarmup
Claimed: modded-nanogpt (124M): 5.03 to 4.66 minutes, with other changes and sequences of 64k tokens
Constants: of the source (from 64 tokens); it ends at the track's length, where the source ended at 1,792
"""

from models.seams import Attention, F, Parts, Tensor, nn, replace, torch


class Window(nn.Module):
    def __init__(self, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__()
        self.context = parts.context

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        length = q_BTHK.size(1)
        reach = int(63 + self.context.progress * max(0, length - 64))  # a window of 64 reaches 63 back
        mask_TT = q_BTHK.new_ones(length, length, dtype=torch.bool).tril().triu(-reach)
        q_BHTK, k_BGTK, v_BGTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
        return F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, mask_TT, enable_gqa=True).transpose(1, 2)


def apply(parts: Parts) -> Parts:
    return replace(parts, mixing=Window)
