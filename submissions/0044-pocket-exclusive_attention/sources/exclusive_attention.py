"""Exclusive attention (XSA): take from each head's output what lies along the token's own value (arXiv:2603.09078).

What a token is passes through the residual stream anyway; attention is left with what it finds elsewhere.

Topic: attention
Source: arXiv:2603.09078; https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2026-05-07_XSAGatedLayers/README.md
Claimed: better than attention at 0.7B, 1.4B and 2.7B (100B tokens). modded-nanogpt's gated form (124M): 30 of 1,480
    steps, 11 runs against 7. parameter-golf: about 0.002 bits per byte, one seed.
Constants: of the source (all layers, no parameter)
"""

from models.seams import F, Parts, Tensor, Wrapper


class Exclusive(Wrapper):
    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        y_BTHK = self.inner(q_BTHK, k_BTGK, v_BTGK)
        own_BTHK = F.normalize(v_BTGK.repeat_interleave(y_BTHK.size(2) // v_BTGK.size(2), dim=2), dim=-1)
        return y_BTHK - (y_BTHK * own_BTHK).sum(-1, keepdim=True) * own_BTHK


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=Exclusive)
