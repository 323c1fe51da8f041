"""The screen, on arrays. After a candidate's first runs it drops the candidate, passes it on, or needs more runs.

It compares the mean gain with the track's known noise. It has no guaranteed error rate: a candidate that passes goes on
to the confirmation on fresh seeds, and only the confirmation decides. Shapes: seeds are the last axis; any axes before
it are independent contests.
"""

from __future__ import annotations

import numpy as np

from harness.core.track import Rule
from harness.rule.sequential import Replay
from harness.rule.stats import Array


def units(gains_S: Array, margin: float, rule: Rule) -> Array:
    """Mean gain minus price, in units of the track's `noise_nats`. Raises ValueError if the track declares no noise."""
    if rule.noise_nats is None:
        raise ValueError("a track without noise_nats has no screen")
    found: Array = (gains_S.mean(-1) - margin) / rule.noise_nats
    return found


def replay_screen(gains_S: Array, margin: float, rule: Rule) -> Replay:
    """Replay all looks, for every contest at once. Decisions: 1 is passed, -1 is dropped, 0 needs more runs."""
    *contests, available = gains_S.shape
    decision, look = np.zeros(contests, dtype=np.int64), np.zeros(contests, dtype=np.int64)
    limits = zip(rule.screen_looks, rule.screen_pass, rule.screen_drop, strict=True)
    for number, (num_runs, passed, drop) in enumerate(limits, start=1):
        if num_runs > available:
            break
        found = units(gains_S[..., :num_runs], margin, rule)
        undecided = decision == 0
        look = np.where(undecided, number, look)
        decision = np.where(undecided, np.where(found >= passed, 1, np.where(found < drop, -1, 0)), decision)
    return Replay(decision, look)
