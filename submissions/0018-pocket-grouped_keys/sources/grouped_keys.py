"""One key head for all queries (Shazeer, 2019, arXiv:1911.02150).

Topic: attention
Source: arXiv:1911.02150; arXiv:2305.13245; https://github.com/vukrosic/universe-lm/blob/88a78f1/LEADERBOARD.md
Claimed: a little worse in loss, much faster when decoding. universe-lm (one seed each), one key head instead of two:
    +0.010 nats at 1M parameters, +0.040 at 10M
Constants: of the source
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, model=replace(parts.model, num_kv_heads=1))
