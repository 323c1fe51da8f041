"""Cosine decay: after warm-up, half a cosine down to a tenth of the learning rate (Hoffmann et al., arXiv:2203.15556).

The schedule of most models before 2024, and the original project's first one. The track's own is constant for a time
and then falls linearly to zero.

Topic: schedule
Source: arXiv:1608.03983; arXiv:2203.15556;
    https://github.com/Open-Superintelligence-Lab/5-dollar-llm/blob/4ba324f/training/trainer.py
Claimed: nothing measured against a warm-down to zero by these; arXiv:2502.15938 found linear to zero better than a
    tenfold decay (610M parameters: lower loss at 80 tokens a parameter than with the other at 200)
Constants: of the source: a tenth
"""

import math

from models.seams import OptimConfig, Parts, linear_schedule, replace


def schedule(step: int, num_steps: int, config: OptimConfig) -> float:
    rise = linear_schedule(step, num_steps, replace(config, warmdown_fraction=0.0))
    share = max(0.0, step / num_steps - config.warmup_fraction) / (1 - config.warmup_fraction)
    return rise * (0.55 + 0.45 * math.cos(math.pi * share))


def apply(parts: Parts) -> Parts:
    return replace(parts, schedule=schedule)
