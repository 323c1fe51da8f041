"""The screen: after a candidate's first few runs it drops the candidate, passes it on, or asks for more runs.

It compares the mean gain with the track's known noise. Its error rate is not guaranteed. A candidate that passes goes
on to the confirmation on new seeds, and only the confirmation can accept it. The functions take arrays: seeds are the
last axis, and each position on the axes before it is an independent contest (one candidate against the record).
"""

from __future__ import annotations

import numpy as np

from harness.core.track import Rule
from harness.rule.sequential import Replay
from harness.rule.stats import Array


def units(gains_S: Array, margin: float, rule: Rule) -> Array:
    """Mean gain minus `margin`, divided by the track's `noise_nats`.

    Raises ValueError if the track has no `noise_nats`.
    """
    if rule.noise_nats is None:
        raise ValueError("a track whose file lacks rule.noise_nats has no screen")
    found: Array = (gains_S.mean(-1) - margin) / rule.noise_nats
    return found


def replay_screen(gains_S: Array, margin: float, rule: Rule) -> Replay:
    """The decision on every contest: 1 if the candidate passes, -1 if it is dropped, 0 if it needs more runs.

    All looks (tests after declared numbers of runs) are made in order; the first decision is final.
    """
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
