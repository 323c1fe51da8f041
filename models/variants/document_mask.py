"""Document masking: no token attends to an earlier document of its sequence (Zhao et al., 2024, arXiv:2402.13991).

What another document says is no help. Each head gets one channel more, in which keys hold FAR times the number of their
document: as attention is causal, the query's own document is the latest that it sees, and all others fall out of the
softmax. So it needs no mask, and stacks with other ideas on attention.

Topic: attention
Source: arXiv:2402.13991
Claimed: significantly better language modelling and downstream tasks (abstract); nanochat's LOG, 2026-01-13: 0.85427 to
    0.85407 bits per byte (16 layers, one seed)
Constants: none in the source; FAR is 180 after the softmax's scale where a head is 32 wide
"""

from models.seams import Attention, F, Parts, Tensor, Wrapper, nn, torch

FAR = 1024  # a power of two: its multiples are exact in bfloat16


class SameDocument(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int, attention: Attention) -> None:
        super().__init__(inner, parts, layer)
        self.separator = parts.separator

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        document_BT = (self.context.tokens_BT == self.separator).cumsum(1)
        far_BTG1 = FAR * document_BT[..., None, None].expand(*k_BTGK.shape[:-1], 1)
        scale = (1 + 1 / q_BTHK.size(-1)) ** 0.5  # scores are divided by the root of the width, now K + 1
        q_BTHL = scale * F.pad(q_BTHK, (0, 1), value=1.0)
        return self.inner(q_BTHL, torch.cat((k_BTGK, far_BTG1), dim=-1), v_BTGK)


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=SameDocument)
