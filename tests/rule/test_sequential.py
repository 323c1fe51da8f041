"""The looks, for many contests at once: the promised error and power, and the same decisions as one by one."""

from __future__ import annotations

import numpy as np
import pytest

from harness.core.track import Rule
from harness.rule.sequential import Criterion, replay
from harness.rule.verdict import decide
from tests.make import RULE, WELCH, make_pairs

BOTH_DESIGNS = pytest.mark.parametrize("rule", [RULE, WELCH], ids=["paired", "welch"])


def normal_noise(rule: Rule, num: int, *, ratio: float = 1.0, gain: float = 0.0) -> Criterion:
    """The losses of `num` contests. Unit: a record's seed deviation; the candidate's is `ratio` times as large."""
    record, candidate = np.random.default_rng(8).standard_normal((2, num, rule.looks[-1]))
    return Criterion(
        quantity="loss",
        record=record,
        candidate=ratio * candidate - gain,
        margin=0.0,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )


@BOTH_DESIGNS
def test_one_percent_false_accepts_and_ninety_percent_power_under_normal_noise(rule: Rule) -> None:
    num = 40_000
    for ratio in (1, 3, 6):
        placebo = replay([normal_noise(rule, num, ratio=ratio)], rule)
        assert (placebo.decision == 1).mean() < 0.01 + 3 * (0.01 / num) ** 0.5
    better = replay([normal_noise(rule, num, gain=2 * 2**0.5)], rule)  # two deviations of a difference of two runs
    assert (better.decision == 1).mean() > 0.9
    assert np.array(rule.looks)[better.look - 1].mean() < 7


@BOTH_DESIGNS
@pytest.mark.parametrize("gain", [0.0, 2.0])
def test_each_contest_is_decided_as_it_is_alone(rule: Rule, gain: float) -> None:
    contests = normal_noise(rule, 100, gain=gain)
    together = replay([contests], rule)
    words = {0: "undecided", 1: "accepted", -1: "rejected"}
    for place, arms in enumerate(zip(contests.record, contests.candidate, strict=True)):
        alone = decide(make_pairs(*(4.0 + 0.01 * arm for arm in arms)), rule, added_statements=0)
        assert (alone.decision, alone.look) == (words[int(together.decision[place])], together.look[place])
