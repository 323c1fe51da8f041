"""x0 lambdas: add a learned share of the token embedding to the stream before every block (nanochat, 2026-01-11).

The stream is a mix of everything that was added so far; this gives each block the tokens themselves again. A share a
layer, starting at zero. The factors on the stream itself are another idea (residual_lambdas).

Topic: block
Source: https://github.com/karpathy/nanochat/blob/437943bd90a0e01c46afc445de4022ffeefaae9c/dev/LOG.md (2026-01-11); https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2024-11-06_ShortcutsTweaks/README.md
Claimed: nanochat, bits per byte, one seed each: -0.0103, -0.0077, -0.0057, -0.0039 at depths 8, 12, 16, 20.
    modded-nanogpt (124M): -0.0093 nats with both kinds of factors, one seed.
Constants: of the source (start at zero); the rate is the track's for scalars, the source's best moved with depth
"""

from models.seams import Parts, Tensor, Vector, Wrapper, nn


class EmbeddingSkip(Wrapper):
    def __init__(self, inner: nn.Module, parts: Parts, layer: int) -> None:
        super().__init__(inner, parts, layer)
        self.embedding_share = Vector(1)

    def forward(self, x_BTD: Tensor) -> Tensor:
        first_BTD = self.context.seen.setdefault("embedding", x_BTD)
        return self.inner(x_BTD + self.embedding_share.weight * first_BTD)


def apply(parts: Parts) -> Parts:
    return parts.wrap(block=EmbeddingSkip)
