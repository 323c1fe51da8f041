"""Exclusive self attention (XSA): take the token's own value out of each head's output (Zhai, 2026, arXiv:2603.09078).

Attention then brings only what the residual stream and the feed-forward do not have already: other tokens. What is
taken out is the output's component along the value of the same position. It has no parameter.

Topic: attention
Source: arXiv:2603.09078
Claimed: better than attention at 0.7B, 1.4B and 2.7B parameters, more so on longer sequences; modded-nanogpt, with
    a learned share: 30 of 1,480 steps (124M parameters, 11 runs against 7)
Constants: none
"""

from models.seams import F, Parts, Tensor, Wrapper


class Exclusive(Wrapper):
    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        y_BTHK = self.inner(q_BTHK, k_BTGK, v_BTGK)
        direction_BTGK = F.normalize(v_BTGK, dim=-1)
        direction_BTHK = direction_BTGK.repeat_interleave(q_BTHK.size(2) // v_BTGK.size(2), dim=2)
        return y_BTHK - (y_BTHK * direction_BTHK).sum(-1, keepdim=True) * direction_BTHK


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=Exclusive)
