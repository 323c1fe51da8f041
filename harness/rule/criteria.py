"""What a candidate must show, for each lane (the kind of claim): its gain, and limits on loss and times (guards)."""

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
    """The result of one criterion: a gain, or a limit on loss or time, compared with its margin."""

    quantity: Quantity
    """What is compared. A `loss` is in nats per token. `time` (of training) and `evaluation_time` (of computing the val
    loss) are compared by the logarithm of the ratio record / candidate."""
    gain: float | None
    """None if too few runs count. The times of resumed runs do not count."""
    margin: float
    ci_low: float | None
    ci_high: float | None
    """`ci_low` and `ci_high` are the ends of the two-sided confidence interval. Each end has the one-sided level of the
    last look. Exceptions are `evaluation_time`, and `time` in the lane `loss`: they have the track's `time_level`."""
    p_value: float | None
    passed: bool


def margin_of(rule: Rule, lane: Lane, added_statements: int) -> float:
    """Value that the claimed gain must exceed: the price of the added statements or, in the lane `simplicity`, minus
    the track's `loss_tolerance`."""
    if lane == "simplicity":
        return -rule.loss_tolerance
    price = rule.loss_per_statement if lane == "loss" else rule.speed_per_statement
    return price * max(0, added_statements)


def criteria_of(
    records: Sequence[FinishedRun], candidates: Sequence[FinishedRun], rule: Rule, lane: Lane, margin: float
) -> tuple[Criterion, ...]:
    """The criterion of the claimed gain, followed by the guards (limits on loss and times).

    Times are compared within pairs, or with the stored runs of the record.
    """
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
    """Seconds of training: on a CPU the processor time of the training process, on a GPU the wall-clock time.

    Load on the CPU changes processor time only a little, but wall-clock time a lot. With a GPU, wall-clock time changes
    only a little too, because a GPU rarely waits for its CPU.
    """
    return max(run.training.cpu_s, LEAST_CPU_S) if run.provenance.machine.gpu is None else run.training.train_s


def evaluation_seconds(run: FinishedRun) -> float:
    """Seconds to compute the val loss once: processor time if it was measured on a CPU, else wall-clock time."""
    cpu_s = run.evaluation.eval_cpu_s if run.provenance.machine.gpu is None else None
    return max(run.evaluation.eval_s if cpu_s is None else cpu_s, LEAST_CPU_S)


def as_guard(criterion: Criterion, finding: Finding) -> Guard:
    """The result of a criterion for one contest (one candidate against the record).

    If the values do not vary, the result has a gain, but no p-value and no interval.
    """
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
