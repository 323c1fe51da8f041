"""Window schedule: attention sees 64 tokens back at first, and ever more (modded-nanogpt, 2024-11-24).

Near tokens are learned from first. The window grows linearly with the steps, from 64 tokens to the whole sequence;
where the model is scored it sees everything.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2024-11-24_WindowWarmup/README.md
Claimed: modded-nanogpt (124M): 5.03 to 4.66 minutes, with other changes and sequences of 64k tokens
Constants: of the source (from 64 tokens); it ends at the track's length, where the source ended at 1,792
"""

from models.seams import F, Parts, Tensor, Wrapper, torch


class Window(Wrapper):
    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        length = q_BTHK.size(1)
        window = 64 + self.context.progress * (length - 64)
        if window >= length:
            return self.inner(q_BTHK, k_BTGK, v_BTGK)
        place_T = torch.arange(length, device=q_BTHK.device)
        distance_TS = place_T[:, None] - place_T
        q_BHTK, k_BGTK, v_BGTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
        mask_TS = (distance_TS >= 0) & (distance_TS < window)
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, mask_TS, enable_gqa=True)
        return y_BHTK.transpose(1, 2)


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=Window)
