"""Adam with betas 0.8 and 0.95 (modded-nanogpt).

Topic: optimizer
Source: https://github.com/KellerJordan/modded-nanogpt/blob/master/train_gpt.py
Claimed: nothing measured alone
Constants: of the source
"""

from models.seams import Parts, replace


def apply(parts: Parts) -> Parts:
    return replace(parts, optim=replace(parts.optim, adam_beta1=0.8, adam_beta2=0.95))
