"""Inverse-time decay: after warm-up the learning rate falls as 1 / (1 + decay x rate x step) (kexue.fm/archives/11459).

Weights under decay are a moving average of past updates. With a rate that falls so, every batch has the same share in
it, the first and the last. Nothing warms down to zero. Decay and rate are those of the matrices that Muon moves, for
all rates alike; the source takes each optimizer's own.

Topic: schedule
Source: https://kexue.fm/archives/11459; https://github.com/Open-Superintelligence-Lab/5-dollar-llm/commit/d797d9e
Claimed: the original project at 88M parameters and 8M tokens, one run each: 4.85 nats, a constant rate 4.84, an inverse
    square root 4.76; nothing against a warm-down
Constants: of the source, that is the track's own decay and rate
"""

from models.seams import OptimConfig, Parts, linear_schedule, replace


def schedule(step: int, num_steps: int, config: OptimConfig) -> float:
    rise = linear_schedule(step, num_steps, replace(config, warmdown_fraction=0.0))
    after_warmup = max(0.0, step - config.warmup_fraction * num_steps)
    return rise / (1 + config.weight_decay * config.muon_lr * after_warmup)


def apply(parts: Parts) -> Parts:
    return replace(parts, schedule=schedule)
