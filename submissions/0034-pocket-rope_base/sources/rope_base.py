"""RoPE base: 1,024 instead of 10,000 (modded-nanogpt).

The slowest channel then turns once in some thousand positions, nearer to the length of a sequence.

Topic: attention
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/train_gpt.py
Claimed: nothing measured
Constants: of the source
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, model=replace(parts.model, rope_base=1024.0))
