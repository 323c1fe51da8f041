"""Grouped keys: half as many heads for keys and values as for queries (Ainslie et al., 2023, arXiv:2305.13245).

Fewer parameters and less arithmetic for about the same loss. Made for inference, where keys and values fill the memory.

Topic: attention
Source: arXiv:2305.13245; two queries a key: https://github.com/Open-Superintelligence-Lab/5-dollar-llm
Claimed: quality close to that of as many heads as queries, almost as fast as one, for T5 converted after training.
    universe-lm, 20M tokens, one seed each: 4.7984 nats with 2 key heads for 6 queries, 4.7981 with 6
    (https://github.com/vukrosic/universe-lm/blob/88a78f1/LEADERBOARD.md).
Constants: of the source
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, model=replace(parts.model, num_kv_heads=max(1, parts.model.num_kv_heads // 2)))
