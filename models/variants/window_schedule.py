"""Window schedule: attention sees a window that grows with training, to the whole sequence (modded-nanogpt, 2024).

Near tokens are learned first, when far ones are noise. The source's window grows linearly from 64 tokens to 1,792, so
here from a 28th of the sequence to all of it. Where the model is scored it sees everything, also while it is young.

Topic: schedule
Source: https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2024-11-24_WindowWarmup
Claimed: to a loss of 3.28 in 4.66 minutes instead of 5.03 (124M parameters); early steps are cheaper there
Constants: of the source, as shares of its last window
"""

from models.seams import Attention, F, Parts, Tensor, nn, replace, torch


class GrowingWindow(nn.Module):
    def __init__(self, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__()
        self.context = parts.context

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        length = q_BTHK.size(1)
        reach = int(length * max(1 / 28, self.context.progress))  # how far back the window goes
        seen_TT = q_BTHK.new_ones(length, length, dtype=torch.bool).tril().triu(-reach)
        q_BHTK, k_BGTK, v_BGTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, attn_mask=seen_TT, enable_gqa=True)
        return y_BHTK.transpose(1, 2)


def apply(parts: Parts) -> Parts:
    return replace(parts, mixing=GrowingWindow)
