"""The rule for anyone's per-seed numbers, from any trainer: one test, or the looks that were declared beforehand."""

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
"""As on the tracks: looks end where the mean gain is not above the margin."""
LAST_LOOK = 64
"""Computing the levels of more looks takes more than seconds."""
SMALLEST_LOOKS_ALPHA = 1e-6
"""Levels of looks are the result of an integration, which is not exact enough for less."""
POWER = 0.8
MOST_SEEDS = 10_000
"""Where `seeds_needed` ends."""
NORMAL_DF = 500
"""From here on Student's t is taken for normal when seeds are guessed."""
Value = Annotated[float, Field(allow_inf_nan=True)]  # a diverged run's NaN gets a verdict, not a parse error


class Numbers(Strict):
    """The content of a file: one number for each seed and arm, and how to compare them."""

    candidate: tuple[Value, ...]
    record: tuple[Value, ...] | None = None
    target: float | None = None
    """A fixed number to beat, instead of a record."""
    paired: bool = False
    """Values at the same place (in rows: with the same seed) are a pair."""
    looks: tuple[Count, ...] = ()
    """Numbers of pairs (of values, against a target) after which the test may decide; without them it is made once."""
    margin: float = 0.0
    """What the gain must exceed, in the values' unit."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """One-sided level of the test, or of all looks together."""
    sigma: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of a single value, if known beforehand: a z-test instead of a t-test."""
    lower_is_better: bool = True
    candidate_seeds: tuple[Count, ...] | None = None
    """Seeds of the candidate's values, if known: a seed must not count twice."""
    record_seeds: tuple[Count, ...] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Numbers:
        if (self.record is None) == (self.target is None):
            raise ValueError("give either 'record' (a list) or 'target' (a number)")
        if self.paired and self.record is None:
            raise ValueError("'paired' needs a 'record', a target has no pairs")
        if self.paired and self.sigma is not None:
            raise ValueError("'sigma' is the deviation of single values and does not go with 'paired'; drop one")
        for name in ARMS:
            seeds = getattr(self, f"{name}_seeds")
            if seeds is not None and len(seeds) != len(getattr(self, name) or ()):
                raise ValueError(f"'{name}_seeds' must have one seed for each value of '{name}'")
        if self.looks:
            self._check_looks()
        return self

    def _check_looks(self) -> None:
        if list(self.looks) != sorted(set(self.looks)) or self.looks[0] < 2 or self.looks[-1] > LAST_LOOK:
            raise ValueError(f"'looks' must rise, from 2 or more to {LAST_LOOK} or less")
        if self.sigma is not None:
            raise ValueError("'looks' are for values whose deviation is not known; drop 'looks' or 'sigma'")
        if self.record is not None and not self.paired:
            raise ValueError("'looks' are for pairs; pair the values, or drop the looks")
        if self.alpha < SMALLEST_LOOKS_ALPHA:
            raise ValueError(f"with 'looks', 'alpha' must be {SMALLEST_LOOKS_ALPHA:g} or more")


class Judgement(Strict):
    """The result of the test."""

    decision: Decision
    """`accepted` if p <= alpha, `undecided` if the test could not be made or waits for a look, else `rejected`."""
    test: TestName
    p_value: float | None
    """One-sided; with looks stage-wise, over all looks up to this one."""
    gain: float | None
    """Record (or target) minus candidate; candidate minus record where higher is better."""
    ci_low: float | None
    """Ends of the two-sided interval at level 1 - 2 alpha; with looks the simultaneous one of all looks."""
    ci_high: float | None
    n: Count
    """Number of the candidate's values."""
    reasons: tuple[str, ...]
    """Codes for `reasons.explain`."""
    paired: bool = False
    alpha: float = 0.01
    """One-sided level: what `p_value` must not exceed."""
    interval_level: float = 0.98
    """1 - 2 alpha."""
    looks: tuple[Count, ...] = ()
    """The declared looks; empty where one test was made."""
    look: Count = 0
    """Number of the look that decided, else the last one reached; from 1, 0 for none."""
    next_look: int | None = None
    """Pairs that the next look needs; None if the verdict is final."""
    seeds_needed: int | None = None
    """Of what is not accepted: seeds in each arm, those at hand included, with which one test would show the seen gain
    with a chance of 80 % if it is real. Rough: gain and deviation come from few seeds. 10000 stands for that and more;
    None where the gain is not above the margin or the deviation is not known."""
    notes: tuple[str, ...] = ()
    """What was read out of the file, where it could be read in another way."""


@dataclass(frozen=True)
class DeclaredLooks:
    """Looks of a comparison outside a track; their levels spend alpha exactly."""

    looks: tuple[int, ...]
    alpha: float
    levels: tuple[float, ...]
    futility_alpha: float | None = FUTILITY_ALPHA
    design: Literal["paired", "stored"] = "paired"


def judge_numbers(numbers: Numbers, notes: tuple[str, ...] = ()) -> Judgement:
    """Make the test that the design calls for; the values have no influence on the choice.

    Raises UndecidedError where undecided pairs lie between two looks.
    """
    sign = 1.0 if numbers.lower_is_better else -1.0
    candidate = [sign * value for value in numbers.candidate]
    record = [sign * value for value in numbers.record or ()] if numbers.target is None else sign * numbers.target
    once = gain_test(
        record, candidate, paired=numbers.paired, sigma=numbers.sigma, margin=numbers.margin, alpha=numbers.alpha
    )
    problems = seed_problems(numbers.record_seeds or (), numbers.candidate_seeds or (), paired=numbers.paired)
    if problems:  # a test that counts a seed twice means nothing
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
    waits = {"too_few_values", "zero_variance"}  # of a later look there may be more
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
    """The looks in turn, as in a confirmation. Raises UndecidedError for undecided pairs between two looks."""
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
            f"{num} {unit} lie between the looks {found.pairs} and {found.next_look}, where nothing may be decided; "
            f"the next look needs {found.next_look} {unit}, {found.next_look - num} more"
        )
    known = ("decision", "reasons", "p_value", "gain", "ci_low", "ci_high", "look", "next_look")
    return blank(**{key: getattr(found, key) for key in known})


def _seeds_needed(record: list[float] | float, candidate: list[float], numbers: Numbers, gain: float) -> int | None:
    """See `Judgement.seeds_needed`."""
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
    share = 1 / sum((variance / total) ** 2 for variance in variances)  # degrees of freedom over n - 1 (Welch)

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
    """Chance that a one-sided test at `alpha` passes, where its statistic is shifted by so many standard errors."""
    from scipy.special import nctdtr, ndtr, ndtri, stdtrit

    if df >= NORMAL_DF:
        return float(ndtr(shift + ndtri(alpha)))
    found = 1 - float(nctdtr(df, shift, -stdtrit(df, alpha)))
    return found if math.isfinite(found) else 0.0
