"""1-sqrt decay: the warm-down falls as one minus the root of its share done (Haegele et al., 2024, arXiv:2405.18392).

It falls fast at first and flattens towards zero, so that more of the warm-down is spent at small rates. Its length
stays the track's, which is longer than the paper's fifth of the steps.

Topic: schedule
Source: arXiv:2405.18392
Claimed: consistently better than a linear warm-down from a constant rate (AdamW, models to 360M parameters, a figure)
Constants: none; the track's warm-down
"""

from models.seams import OptimConfig, Parts, replace


def apply(parts: Parts) -> Parts:
    def schedule(step: int, num_steps: int, config: OptimConfig) -> float:
        rate = parts.schedule(step, num_steps, config)
        is_falling = num_steps - step < config.warmdown_fraction * num_steps
        return 1 - (1 - rate) ** 0.5 if is_falling else rate

    return replace(parts, schedule=schedule)
