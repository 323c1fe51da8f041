"""Adam's betas 0.8 and 0.95 for embedding, head and gains, instead of longer memories (modded-nanogpt, 2025).

A rare token's row gets a large gradient now and then. A long momentum keeps moving it when the occasion is gone, and a
long second moment forgets slowly how large it was.

Topic: optimizer
Source: https://github.com/KellerJordan/modded-nanogpt/tree/f411b3d/records/track_1_short/2025-01-16_Sub3Min
Claimed: nothing measured alone with repeats; nanochat had the same until March 2026; modded-nanogpt went on to lower
    the first to 0.7, 0.65 and 0.5, each time among other changes
Constants: of the source
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, optim=replace(parts.optim, adam_beta1=0.8, adam_beta2=0.95))
