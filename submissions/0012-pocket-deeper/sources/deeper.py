"""Deeper: twice the layers at three quarters of the width, about as many parameters (MobileLLM, arXiv:2402.14905).

The head width stays, so there are fewer heads. On `pocket`, 8 layers of width 96 with 3 heads instead of 4 of 128 with
4: 1.28M parameters instead of 1.31M, of which more are in the blocks and fewer in the tables.

Topic: model
Source: arXiv:2402.14905; https://github.com/karpathy/nanochat/blob/92d63d4/dev/LOG.md
Claimed: deep and thin beats shallow and wide at 125M and 350M parameters on zero-shot tasks, in figures. nanochat: 64
    channels a layer better than 128 at 1e18 flops, no number (log of 2026-01-17). `pocket` has 32.
Constants: of the source; the two factors are ours, by the number of parameters
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    model = replace(
        parts.model,
        num_layers=2 * parts.model.num_layers,
        dim=3 * parts.model.dim // 4,
        ffn_dim=3 * parts.model.ffn_dim // 4,
        num_heads=3 * parts.model.num_heads // 4,
        num_kv_heads=max(1, 3 * parts.model.num_kv_heads // 4),
    )
    return replace(parts, model=model)
