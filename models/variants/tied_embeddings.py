"""Tied embeddings: one matrix for embedding and head (Press and Wolf, 2016, arXiv:1608.05859).

Topic: model
Source: arXiv:1608.05859; https://github.com/KellerJordan/modded-nanogpt/blob/master/records/track_1_short/2025-12-19_RetieLMHead/README.md
Claimed: less perplexity in 2016. modded-nanogpt (124M) untied in record 8 and tied again in record 51, 55 steps fewer
    with other changes.
Constants: none; the matrix has the embedding's rate
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, model=replace(parts.model, tie_embeddings=True))
