"""The criteria of each lane: the claimed gain, and the guards on other quantities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from harness.core.runs import FinishedRun
from harness.core.schema import Strict
from harness.core.track import Rule
from harness.rule.sequential import Criterion, Finding, Quantity

Lane = Literal["loss", "speed", "simplicity"]
LANES: tuple[Lane, ...] = ("loss", "speed", "simplicity")


class Guard(Strict):
    """One criterion and its numbers."""

    quantity: Quantity
    """`loss` is in nats per token. `time` (of training) and `evaluation_time` (of scoring val) are the logarithm of the
    ratio record / candidate."""
    gain: float | None
    """None if too few runs count. The times of resumed runs do not count."""
    margin: float
    ci_low: float | None
    ci_high: float | None
    """`ci_low` and `ci_high` are the ends of the two-sided interval at the look's level or, for times in the lane
    `loss`, at `time_level`."""
    p_value: float | None
    passed: bool


def margin_of(rule: Rule, lane: Lane, added_statements: int) -> float:
    """Value that the claimed gain must exceed: the price of the added statements or, in the lane simplicity, minus the
    tolerance."""
    if lane == "simplicity":
        return -rule.loss_tolerance
    price = rule.loss_per_statement if lane == "loss" else rule.speed_per_statement
    return price * max(0, added_statements)


def criteria_of(
    records: Sequence[FinishedRun], candidates: Sequence[FinishedRun], rule: Rule, lane: Lane, margin: float
) -> tuple[Criterion, ...]:
    """The criterion of the claimed gain, then the guards. Times are compared within pairs or with the stored runs."""
    design = rule.design

    def arms(read: Callable[[FinishedRun], float], records: Sequence[FinishedRun] = records) -> dict[str, Any]:
        found = (np.array([read(run) for run in arm]) for arm in (records, candidates))
        return dict(zip(("record", "candidate"), found, strict=True))

    # The times of resumed runs do not count.
    timed, whole = records, [run.training.resumed is None for run in candidates]
    if design == "stored":
        timed = [run for run in records if run.training.resumed is None]
    else:
        whole = [run.training.resumed is None and own for run, own in zip(records, whole, strict=True)]
    counts = None if all(whole) else np.array(whole)

    def time(quantity: Quantity, read: Callable[[FinishedRun], float], unclear: str) -> Callable[..., Criterion]:
        log_times = arms(lambda run: math.log(read(run)), timed)
        return partial(Criterion, quantity=quantity, **log_times, design=design, counts=counts, unclear=unclear)

    loss = partial(Criterion, quantity="loss", **arms(lambda run: run.evaluation.val_loss), design=design)
    training = time("time", training_seconds, "time_unclear")
    slowest = -math.log1p(rule.max_slowdown)
    scoring = time("evaluation_time", evaluation_seconds, "evaluation_time_unclear")
    slow = {"missed": "slow_evaluation", "hopeless": "slow_evaluation"}
    guards = [scoring(margin=slowest, level=rule.time_level, **slow)]
    if lane == "speed":
        own = training(margin=margin, missed="not_shown", hopeless="hopeless")
        return own, loss(margin=-rule.loss_tolerance, missed="loss_worse", hopeless="loss_worse"), *guards
    if lane == "simplicity":
        own = loss(margin=margin, missed="loss_worse", hopeless="loss_worse")
        limit = training(margin=-math.log1p(rule.time_tolerance), missed="too_slow", hopeless="too_slow")
        return own, limit, *guards
    own = loss(margin=margin, missed="not_shown", hopeless="hopeless")
    limit = training(margin=slowest, level=rule.time_level, missed="too_slow", hopeless="too_slow")
    return own, limit, *guards


# Some operating systems count processor time in hundredths of a second, so less cannot be measured.
LEAST_CPU_S = 0.01


def training_seconds(run: FinishedRun) -> float:
    """Seconds of training: the player's processor time on a CPU, the wall-clock time on a GPU.

    Load on the machine changes processor time only a little, but wall-clock time a lot. A GPU rarely waits for its
    CPU.
    """
    return max(run.training.cpu_s, LEAST_CPU_S) if run.provenance.machine.gpu is None else run.training.train_s


def evaluation_seconds(run: FinishedRun) -> float:
    """Seconds of one pass over val: processor time if it was measured on a CPU, else wall-clock time."""
    cpu_s = run.evaluation.eval_cpu_s if run.provenance.machine.gpu is None else None
    return max(run.evaluation.eval_s if cpu_s is None else cpu_s, LEAST_CPU_S)


def as_guard(criterion: Criterion, finding: Finding) -> Guard:
    """A guard made from the finding of one contest. If the values have no spread, it has only the gain."""
    has_spread = bool(finding.estimate.standard_error > 0)
    return Guard(
        quantity=criterion.quantity,
        gain=None if np.isnan(finding.estimate.gain) else float(finding.estimate.gain),
        margin=criterion.margin,
        ci_low=float(finding.low) if has_spread else None,
        ci_high=float(finding.high) if has_spread else None,
        p_value=float(finding.p) if has_spread else None,
        passed=bool(finding.passes),
    )
