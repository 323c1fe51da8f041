"""RoPE base: rotary angles with a base of 250,000 instead of 10,000 (universe-lm, 2026).

The slow channels then hardly turn within a sequence, and compare what tokens are rather than where they stand.

Topic: attention
Source: https://github.com/vukrosic/universe-lm/blob/88a78f156c0615756a0d24acefff173bb3462e90/LEADERBOARD.md
Claimed: 0.0084 nats beside a sliding window (0.94M parameters, one seed); the best of 125,000 to 750,000 on a fuller
    stack, one seed each
Constants: of the source
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, model=replace(parts.model, rope_base=250_000.0))
