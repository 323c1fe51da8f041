"""1-sqrt decay: the warm-down falls as one minus the square root of its time (Haegele et al., 2024, arXiv:2405.18392).

It falls fast at first and slowly near the end. The warm-down takes the track's share of the steps.

Topic: schedule
Source: arXiv:2405.18392
Claimed: lower loss than a linear warm-down at 33M to 360M parameters with AdamW
Constants: of the source
"""

from models.seams import OptimConfig, Parts, replace


def apply(parts: Parts) -> Parts:
    def schedule(step: int, num_steps: int, config: OptimConfig) -> float:
        scale = parts.schedule(step, num_steps, replace(config, warmdown_fraction=0.0))
        done = 1 - (num_steps - step) / (config.warmdown_fraction * num_steps)
        return scale * (1 - max(0.0, done) ** 0.5)

    return replace(parts, schedule=schedule)
