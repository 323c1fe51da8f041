"""Document mask: a token attends to its own document alone (modded-nanogpt, 2024-11-19; Llama 3, arXiv:2407.21783).

Sequences are cut from a stream of documents, each begun by a separator. What came before it is another text.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2024-11-19_FlexAttention/README.md; arXiv:2407.21783, section 3.2
Claimed: Llama 3: little effect in ordinary pretraining, needed for very long sequences. modded-nanogpt: part of a
    record with longer sequences; alone nothing measured.
Constants: none
"""

from models.seams import F, Parts, Tensor, Wrapper, nn


class DocumentMask(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, *place: object) -> None:
        super().__init__(inner, parts)
        self.separator = parts.separator

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
        document_BT = (self.context.tokens_BT == self.separator).cumsum(1)
        mask_B1TS = (document_BT[:, :, None] == document_BT[:, None]).tril()[:, None]
        q_BHTK, k_BGTK, v_BGTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, mask_B1TS, enable_gqa=True)
        return y_BHTK.transpose(1, 2)


def apply(parts: Parts) -> Parts:
    return parts.wrap(mixing=DocumentMask)
