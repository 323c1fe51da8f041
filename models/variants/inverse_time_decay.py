"""Inverse-time decay: after the warm-up the rate is 1 / (1 + 4 progress), and never warms down (Robbins and Monro, 1951).

The classical schedule of stochastic approximation. It falls to a fifth at the end.

Topic: schedule
Source: https://doi.org/10.1214/aoms/1177729586
Claimed: nothing measured at this scale
Constants: the factor of 4 is ours, one try
"""

from models.seams import OptimConfig, Parts, replace


def apply(parts: Parts) -> Parts:
    def schedule(step: int, num_steps: int, config: OptimConfig) -> float:
        scale = parts.schedule(step, num_steps, replace(config, warmdown_fraction=0.0))
        return scale / (1 + 4 * step / num_steps)

    return replace(parts, schedule=schedule)
