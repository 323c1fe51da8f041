"""Document mask: a token attends to its own document alone (modded-nanogpt, 2024-11-19; Llama 3, arXiv:2407.21783).

Sequences are cut from a stream of documents, each begun by a separator. What came before it is another text. Each head
gets a channel more, in which a key holds FAR times the number of its document. As attention is causal, the query's own
document is the latest that it sees, and the others fall out of the softmax: it stacks with other ideas on attention.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2024-11-19_FlexAttention/README.md; arXiv:2407.21783, section 3.2
Claimed: Llama 3: little effect in ordinary pretraining, needed for very long sequences. modded-nanogpt: part of a
    record with longer sequences; alone nothing measured. nanochat: 0.85427 to 0.85407 bits per byte, one seed.
Constants: none in the source; FAR is 180 after the softmax's scale where a head is 32 wide
"""

from models.seams import F, Parts, Tensor, Wrapper, nn, torch

FAR = 1024  # a power of two: its multiples are exact in bfloat16


class DocumentMask(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, *place: object) -> None:
        super().__init__(inner, parts)
        self.separator = parts.separator

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        document_BT = (self.context.tokens_BT == self.separator).cumsum(1)
        far_BTG1 = FAR * document_BT[..., None, None].expand(*k_BTGK.shape[:-1], 1)
        scale = (1 + 1 / q_BTHK.size(-1)) ** 0.5  # scores are divided by the root of the width, now K + 1
        q_BTHL = scale * F.pad(q_BTHK, (0, 1), value=1.0)
        return self.inner(q_BTHL, torch.cat((k_BTGK, far_BTG1), dim=-1), v_BTGK)


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=DocumentMask)
