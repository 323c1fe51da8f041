"""Judges one number per seed from any trainer, by one test or by tests after declared numbers of pairs (looks)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from harness.core.errors import UndecidedError
from harness.core.schema import Count, Strict
from harness.rule.sequential import Criterion, spend, usual_weights
from harness.rule.stats import GainTest, TestName, gain_test, seed_problems
from harness.rule.verdict import Decision, Verdict, weigh

ARMS = ("candidate", "record")
FUTILITY_ALPHA = 0.5
"""With this value a look rejects if the mean gain is not above the margin, as on the tracks."""
LAST_LOOK = 64
"""Largest number of pairs of a look. For more pairs, computing the significance levels takes too long."""
SMALLEST_LOOKS_ALPHA = 1e-6
"""Smallest alpha with looks. For a smaller alpha, the integral for the significance levels is not exact enough."""
POWER = 0.8
MOST_SEEDS = 10_000
"""Largest value of `seeds_needed`."""
NORMAL_DF = 500
"""From this many degrees of freedom on, `seeds_needed` uses the normal distribution in place of Student's t."""
Value = Annotated[float, Field(allow_inf_nan=True)]  # a diverged run's NaN gets a verdict, not a parse error


class Numbers(Strict):
    """The numbers to judge, one for each run of the record and of the candidate, and how to compare them."""

    candidate: tuple[Value, ...]
    record: tuple[Value, ...] | None = None
    target: float | None = None
    """A fixed number to beat, in place of a record."""
    paired: bool = False
    """Whether values at the same position (in rows: with the same seed) are a pair."""
    looks: tuple[Count, ...] = ()
    """Numbers of pairs (against a target: of values) after which a test is made; empty for one test of all values."""
    margin: float = 0.0
    """Value that the gain must exceed, in the unit of the values."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """One-sided significance level of the one test, or of all looks together."""
    sigma: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of a single value, if it is known beforehand. Then a z-test replaces the t-test."""
    lower_is_better: bool = True
    candidate_seeds: tuple[Count, ...] | None = None
    """Seeds of the candidate's values, if known. No two may be equal."""
    record_seeds: tuple[Count, ...] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Numbers:
        if (self.record is None) == (self.target is None):
            raise ValueError("give either 'record' (a list) or 'target' (a number)")
        if self.paired and self.record is None:
            raise ValueError("'paired' needs 'record', because a target has no pairs; leave 'paired' out")
        if self.paired and self.sigma is not None:
            raise ValueError(
                "'sigma' is the standard deviation of a single value, not of a difference, so it cannot be combined "
                "with 'paired'; leave one of them out"
            )
        for name in ARMS:
            seeds = getattr(self, f"{name}_seeds")
            if seeds is not None and len(seeds) != len(getattr(self, name) or ()):
                raise ValueError(f"'{name}_seeds' must have one seed for each value of '{name}'")
        if self.looks:
            self._check_looks()
        return self

    def _check_looks(self) -> None:
        if list(self.looks) != sorted(set(self.looks)) or self.looks[0] < 2 or self.looks[-1] > LAST_LOOK:
            raise ValueError(f"the numbers in 'looks' must increase and lie between 2 and {LAST_LOOK}")
        if self.sigma is not None:
            raise ValueError(
                "'looks' and 'sigma' (a known standard deviation) cannot be combined; leave one of them out"
            )
        if self.record is not None and not self.paired:
            raise ValueError("'looks' need paired values; pair the values or leave out 'looks'")
        if self.alpha < SMALLEST_LOOKS_ALPHA:
            raise ValueError(f"with 'looks', 'alpha' must be {SMALLEST_LOOKS_ALPHA:g} or more")


class Judgement(Strict):
    """The result of the test."""

    decision: Decision
    """`accepted` if p <= alpha; `undecided` if the test could not be made or needs a further look; else `rejected`."""
    test: TestName
    p_value: float | None
    """One-sided p-value. With looks, it covers all looks up to this one."""
    gain: float | None
    """Mean of record (or target) minus candidate; candidate minus record if higher values are better."""
    ci_low: float | None
    """`ci_low` and `ci_high` are the ends of the two-sided confidence interval at level 1 - 2 alpha. With looks, this
    level holds for all looks together."""
    ci_high: float | None
    n: Count
    """Number of the candidate's values."""
    reasons: tuple[str, ...]
    """Reason codes. `reasons.explain` gives a sentence for each."""
    paired: bool = False
    alpha: float = 0.01
    """One-sided significance level. For acceptance, `p_value` must not exceed it."""
    interval_level: float = 0.98
    """1 - 2 alpha."""
    looks: tuple[Count, ...] = ()
    """The declared looks; empty for one test."""
    look: Count = 0
    """Number of the look that decided or, if none did, of the last look reached; 0 before the first."""
    next_look: int | None = None
    """Number of pairs that the next look needs; None if the verdict is final."""
    seeds_needed: int | None = None
    """Number of seeds in each arm with which one test would accept with a probability of 80 %, if the true gain is the
    measured one. It is rough, because gain and deviation come from few seeds. 10000 stands for 10000 or more. None if
    accepted, if the gain is not above the margin, or if the
    standard deviation is not known."""
    notes: tuple[str, ...] = ()
    """Sentences on how the file was read, if there were several ways."""


@dataclass(frozen=True)
class DeclaredLooks:
    """The looks (tests after declared numbers of pairs) of a comparison outside a track, and their significance levels.

    With these levels, all looks together have the false-accept rate `alpha`.
    """

    looks: tuple[int, ...]
    alpha: float
    levels: tuple[float, ...]
    futility_alpha: float | None = FUTILITY_ALPHA
    design: Literal["paired", "stored"] = "paired"


def judge_numbers(numbers: Numbers, notes: tuple[str, ...] = ()) -> Judgement:
    """Judge the numbers by the test for their design: a target, pairs, or two independent groups of runs.

    Raises UndecidedError if no look has decided, and there are more pairs than one look needs but too few for the next.
    """
    sign = 1.0 if numbers.lower_is_better else -1.0
    candidate = [sign * value for value in numbers.candidate]
    record = [sign * value for value in numbers.record or ()] if numbers.target is None else sign * numbers.target
    once = gain_test(
        record, candidate, paired=numbers.paired, sigma=numbers.sigma, margin=numbers.margin, alpha=numbers.alpha
    )
    problems = seed_problems(numbers.record_seeds or (), numbers.candidate_seeds or (), paired=numbers.paired)
    if problems:  # a test that counts a seed twice is invalid
        once = GainTest(once.test, once.n, once.alpha, reasons=tuple(dict.fromkeys(problems + once.reasons)))
    blank = partial(
        Judgement,
        test=once.test,
        n=once.n,
        paired=numbers.paired,
        alpha=numbers.alpha,
        interval_level=1 - 2 * numbers.alpha,
        looks=numbers.looks,
        notes=notes,
    )
    waits = {"too_few_values", "zero_variance"}  # problems that further values may solve
    if numbers.looks and not set(once.reasons) - waits:
        arms = np.array(np.broadcast_to(record, len(candidate)), dtype=float), np.array(candidate)
        found = _sequential(*arms, numbers, blank)
    else:
        decision: Decision = "undecided" if once.reasons else "accepted" if once.passes else "rejected"
        reasons = once.reasons or (("gain_shown",) if once.passes else ("not_shown",))
        numbers_found = {key: getattr(once, key) for key in ("p_value", "gain", "ci_low", "ci_high")}
        found = blank(decision=decision, reasons=reasons, **numbers_found)
    if found.decision == "accepted" or found.gain is None:
        return found
    return found.model_copy(update={"seeds_needed": _seeds_needed(record, candidate, numbers, found.gain)})


def _sequential(
    record: np.ndarray, candidate: np.ndarray, numbers: Numbers, blank: Callable[..., Judgement]
) -> Judgement:
    """Make all looks (tests after declared numbers of pairs) in order, as a confirmation on a track does.

    Raises UndecidedError if no look has decided, and there are more pairs than one look needs but too few for the next.
    """
    num, unit = len(candidate), "values" if numbers.record is None else "pairs"
    if num < numbers.looks[0]:
        nothing = dict.fromkeys(("p_value", "gain", "ci_low", "ci_high"))
        return blank(decision="undecided", reasons=("too_few_pairs",), next_look=numbers.looks[0], **nothing)
    levels = spend(numbers.looks, usual_weights(numbers.looks), numbers.alpha)
    rule = DeclaredLooks(numbers.looks, numbers.alpha, levels)
    own = Criterion(
        quantity="loss",
        record=record,
        candidate=candidate,
        margin=numbers.margin,
        design="paired",
        missed="not_shown",
        hopeless="hopeless",
    )
    verdict = partial(
        Verdict,
        lane="loss",
        stage="confirmation",
        pairs=0,
        look=0,
        next_look=None,
        design="paired",
        margin=numbers.margin,
        alpha=numbers.alpha,
        added_statements=0,
    )
    found = weigh([own], rule, verdict, record.tolist(), candidate.tolist())
    if found.next_look is not None and num > found.pairs:
        raise UndecidedError(
            f"no decision: you declared looks (tests) at {found.pairs} and {found.next_look} {unit}, and there are "
            f"{num} {unit}; add {found.next_look - num} for the next look"
        )
    known = ("decision", "reasons", "p_value", "gain", "ci_low", "ci_high", "look", "next_look")
    return blank(**{key: getattr(found, key) for key in known})


def _seeds_needed(record: list[float] | float, candidate: list[float], numbers: Numbers, gain: float) -> int | None:
    """How many seeds each arm needs, so that one test would accept with a probability of 80 % if `gain` were the true
    gain."""
    effect, num = gain - numbers.margin, len(candidate)
    if numbers.sigma is not None:
        variances = [numbers.sigma**2] * (1 if numbers.target is not None else 2)
    elif isinstance(record, float) or numbers.paired:
        variances = [float(np.var(np.subtract(record, candidate), ddof=1))]
    else:
        variances, num = [float(np.var(arm, ddof=1)) for arm in (record, candidate)], min(len(record), num)
    total = sum(variances)
    if not effect > 0 or not total > 0:
        return None
    share = 1 / sum((variance / total) ** 2 for variance in variances)  # Welch's degrees of freedom divided by n - 1

    def shows(seeds: int) -> bool:
        df = math.inf if numbers.sigma is not None else share * (seeds - 1)
        return _power(effect * math.sqrt(seeds / total), df, numbers.alpha) >= POWER

    low, high = num, num + 1
    while not shows(high):
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return min(high, MOST_SEEDS)


def _power(shift: float, df: float, alpha: float) -> float:
    """Probability that a one-sided test at `alpha` accepts a true gain of `shift` standard errors above the margin."""
    from scipy.special import nctdtr, ndtr, ndtri, stdtrit

    if df >= NORMAL_DF:
        return float(ndtr(shift + ndtri(alpha)))
    found = 1 - float(nctdtr(df, shift, -stdtrit(df, alpha)))
    return found if math.isfinite(found) else 0.0
