"""Bigram hash embedding: a table looked up by a hash of this token and the last (modded-nanogpt, 2026).

Pairs of tokens are known by heart, and need no layer to be put together. The table has five rows for each word of the
vocabulary, so several pairs share a row. It is added before every block, times a learned share. It starts at zero.

Topic: embedding
Source: https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_1_short/2026-01-19_BigramHashEmbedding
Claimed: 165 of 1,765 steps for a record with one more change (124M parameters and the table, 6 runs); nanochat's LOG,
    2026-01-27 and 28: a steady gain at 12 layers, tiny at 25, no number
Constants: of the source
"""

from models.seams import F, Parts, Tensor, Vector, Wrapper, nn


class BigramTable(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts) -> None:
        super().__init__(inner, parts)
        self.bigram_table = Vector(5 * parts.model.vocab_size, parts.model.dim)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        last_row = len(self.bigram_table.weight) - 1  # of the first token, which has none before it
        hash_BS = (36313 * tokens_BT[:, 1:] ^ 27191 * tokens_BT[:, :-1]) % last_row
        self.context.seen["bigram_BTD"] = F.embedding(F.pad(hash_BS, (1, 0), value=last_row), self.bigram_table.weight)
        return self.inner(tokens_BT)


class AddBigram(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.bigram_share = Vector(1, start=0.1)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(x_BTD + self.bigram_share.weight * self.context.seen["bigram_BTD"])


def apply(parts: Parts) -> Parts:
    return parts.wrap(embedding=BigramTable, block=AddBigram)
