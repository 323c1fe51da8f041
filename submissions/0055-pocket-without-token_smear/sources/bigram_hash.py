"""Bigram hash: a table looked up by this token and the one before, added before every block (nanochat, 2026-01-27).

What follows a pair of tokens need not be worked out by attention. The table has five rows a word, found by a hash, so
that pairs share rows; the first position has a row of its own. It starts at zero and is added with a learned share a
layer that starts at a tenth.

Topic: embedding
Source: https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-27, 2026-01-28); https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2026-01-19_BigramHashEmbedding/README.md; arXiv:2601.07372
Claimed: modded-nanogpt (124M): 165 of 1,765 steps fewer, about 5 of 104 seconds, with other changes, 6 runs. nanochat:
    a steady improvement at depth 12, no number; taken out again: tiny at depth 25, none by the clock.
Constants: of the source (five rows a word, share 0.1, the hash's two factors)
"""

from models.seams import F, Parts, Table, Tensor, Vector, Wrapper, nn


class Bigram(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts) -> None:
        super().__init__(inner, parts)
        self.bigram_table = Table(5 * parts.model.vocab_size, parts.model.dim)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        last = self.bigram_table.num_embeddings - 1
        hash_BT = ((36313 * tokens_BT[:, 1:]) ^ (27191 * tokens_BT[:, :-1])) % last
        self.context.seen["bigram"] = self.bigram_table(F.pad(hash_BT, (1, 0), value=last))
        return self.inner(tokens_BT)


class WithBigram(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.bigram_share = Vector(1, start=0.1)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.inner(x_BTD + self.bigram_share.weight * self.context.seen["bigram"])


def apply(parts: Parts) -> Parts:
    return parts.wrap(embedding=Bigram, block=WithBigram)
