"""Wider: half the layers at five quarters of the width, about as many parameters (Kaplan et al., arXiv:2001.08361).

The head width stays, so there are more heads. On `pocket`, 2 layers of width 160 with 5 heads instead of 4 of 128 with
4: 1.27M parameters instead of 1.31M, of which more are in the tables and fewer in the blocks.

Topic: model
Source: arXiv:2001.08361 (section 3.1); https://github.com/karpathy/nanochat/blob/92d63d4/dev/LOG.md
Claimed: the loss depends only weakly on the shape at a fixed number of parameters outside of the embeddings. nanochat
    at 1e18 flops: 128 channels a layer worse than 64, no number (log of 2026-01-17). Here they are 80.
Constants: of the source; the two factors are ours, by the number of parameters
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    model = replace(
        parts.model,
        num_layers=max(1, parts.model.num_layers // 2),
        dim=5 * parts.model.dim // 4,
        ffn_dim=5 * parts.model.ffn_dim // 4,
        num_heads=5 * parts.model.num_heads // 4,
        num_kv_heads=5 * parts.model.num_kv_heads // 4,
    )
    return replace(parts, model=model)
