"""Measures ideas on several sizes of one track: how a gain changes with compute, and how good forecasts were.

The sizes are tracks called NAME-s, NAME and NAME-l. On each size, an idea's runs are compared with the runs of one
recipe, by default the base, on the same public seeds. A ladder gives no verdict.
"""

from __future__ import annotations

import datetime
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import LlmbenchError
from harness.core.runs import FinishedRun, finished
from harness.core.schema import TrackName
from harness.core.track import Track
from harness.lab.studies.rungs import Agreement, Band, Climb, Coverage, Forecast, Ladder, RungFacts, Step, compute_of
from harness.lab.studies.series import Runs, pairing_problem
from harness.rule.scaling import (
    FEWEST_IDEAS,
    Interval,
    Rung,
    compute_multiple,
    forecast,
    gain_at,
    order_kept,
    share,
    slope,
    typical_deviation,
)
from harness.rule.verdict import losses_of
from harness.variants.recipe import format_recipe, parse_recipe

DEFAULT_PAIRS = 4
LEVEL = 0.9
"""Confidence level of all intervals of a ladder. They are two-sided."""
FARTHER = 10.0
"""A gain is extrapolated to this many times the compute of the largest size."""

Made = Mapping[TrackName, Mapping[str, Runs]]
"""Track -> recipe -> its runs."""


def recipe_with(beside: str, name: str) -> str:
    """The recipe with which the idea `name` is measured: `beside` with `name` added."""
    return format_recipe((*parse_recipe(beside), name))


def measure_ladder(tracks: Sequence[Track], beside: str, made: Made, forecasts: Mapping[str, Forecast]) -> Ladder:
    """The report on the runs of all sizes. `forecasts` maps a track's name to its forecast, if it has one."""
    facts = [_facts(track, beside, made[track.name]) for track in tracks if track.name in made]
    names = dict.fromkeys(parse_recipe(recipe)[-1] for runs in made.values() for recipe in runs if recipe != beside)
    ideas = [_climb(name, facts, beside, made, forecasts) for name in names]
    agreement = (_agreement(one.track, two.track, ideas) for one, two in itertools.pairwise(facts))
    coverage = (_coverage(one.track, ideas) for one in facts)

    def place(idea: Climb) -> tuple[bool, float]:
        last = idea.steps[-1].gain
        return last is None, 0.0 if last is None else -last.value

    return Ladder(
        beside=beside,
        rungs=tuple(facts),
        ideas=tuple(sorted(ideas, key=place)),
        agreement=tuple(one for one in agreement if one is not None),
        coverage=tuple(one for one in coverage if one is not None),
    )


def _facts(track: Track, beside: str, series: Mapping[str, Runs]) -> RungFacts:
    runs = finished(series[beside])
    pairs = [
        _gains(runs, own)
        for recipe, own in series.items()
        if recipe != beside and not pairing_problem(runs[: len(own)], own)
    ]
    return RungFacts(
        track=track.name,
        num_params=runs[0].training.num_params,
        tokens=runs[0].training.tokens,
        compute=compute_of(track),
        val_loss=statistics.fmean(losses_of(runs)),
        runs=len(runs),
        noise=typical_deviation(pairs),
    )


def _gains(base: Sequence[FinishedRun], own: Runs) -> list[float]:
    """The gain of each pair, in nats per token."""
    return [a - b for a, b in zip(losses_of(base), losses_of(finished(own)), strict=False)]


def _climb(name: str, facts: Sequence[RungFacts], beside: str, made: Made, forecasts: Mapping[str, Forecast]) -> Climb:
    curve = [(one.compute, one.val_loss) for one in facts]
    steps, rungs = list[Step](), list[Rung]()
    for one in facts:
        base, own = finished(made[one.track][beside]), made[one.track].get(recipe_with(beside, name), ())
        said = forecasts.get(one.track)
        predicted = None if said is None else said.ideas.get(name)
        told: dict[str, Any] = {"predicted": predicted, "predicted_on": None if said is None else said.date}
        reason = pairing_problem(base[: len(own)], own) if own else "not trained on this size"
        if reason is not None:
            steps.append(Step(track=one.track, pairs=0, gain=None, reason=reason, **told))
            continue
        gains = _gains(base, own)
        rungs.append(Rung(one.compute, gains))
        gain = gain_at(rungs[-1], LEVEL)
        steps.append(
            Step(track=one.track, pairs=len(gains), gain=_band(gain), multiple=_multiple(curve, one, gain), **told)
        )
    known = [step.gain for step in steps if step.gain is not None]
    sure = {gain.low > 0 for gain in known if gain.low > 0 or gain.high < 0}
    clear = bool(known) and all(gain.low > 0 or gain.high < 0 for gain in known)
    enough = len(rungs) > 1
    return Climb(
        name=name,
        steps=tuple(steps),
        sign_holds=len(sure) == 1 if clear else None,
        turns=len(sure) > 1,
        slope=_band(slope(rungs, LEVEL)) if enough else None,
        extrapolated=_band(forecast(rungs, FARTHER * facts[-1].compute, LEVEL)) if enough else None,
    )


def _agreement(smaller: str, larger: str, ideas: Sequence[Climb]) -> Agreement | None:
    """How well the gains of ideas agree between two sizes; None if fewer than two ideas were measured on both sizes."""
    gains = [_gains_on((smaller, larger), idea) for idea in ideas]
    known = [(one, two) for one, two in gains if one is not None and two is not None]
    if len(known) < FEWEST_IDEAS:
        return None
    same = sum(_verdict(one) == _verdict(two) for one, two in known)
    return Agreement(
        smaller=smaller,
        larger=larger,
        ideas=len(known),
        order=_band(order_kept([one.value for one, _ in known], [two.value for _, two in known], LEVEL)),
        verdicts=_band(share(same, len(known), LEVEL)),
    )


def _gains_on(sizes: tuple[str, str], idea: Climb) -> tuple[Band | None, Band | None]:
    gains = {step.track: step.gain for step in idea.steps}
    return gains.get(sizes[0]), gains.get(sizes[1])


def _verdict(gain: Band) -> str:
    """`helps` if the whole interval of a gain is above zero, `hurts` if it is all below, else `not shown`."""
    if gain.low > 0:
        return "helps"
    return "hurts" if gain.high < 0 else "not shown"


def _coverage(track: str, ideas: Sequence[Climb]) -> Coverage | None:
    """Compares the gains on one size with their forecasts; None if no gain was both forecast and measured."""
    steps = [step for idea in ideas for step in idea.steps if step.track == track]
    known = [(step.gain, step.predicted) for step in steps if step.gain is not None and step.predicted is not None]
    if not known:
        return None
    inside = sum(said.low <= came.value <= said.high for came, said in known)
    return Coverage(
        track=track,
        inside=_band(share(inside, len(known), LEVEL)),
        ideas=len(known),
        error=statistics.median(came.value - said.value for came, said in known),
    )


def _band(found: Interval) -> Band:
    return Band(**found._asdict())


def _multiple(curve: Sequence[tuple[float, float]], rung: RungFacts, gain: Interval) -> Band | None:
    try:
        return _band(compute_multiple(curve, rung.compute, gain))
    except LlmbenchError:  # only one size, or the base's loss does not fall with compute
        return None


# --- forecasts -----------------------------------------------------------------------------------------------------


def make_forecast(tracks: Sequence[Track], target: Track, beside: str, made: Made, pairs: int) -> Forecast:
    """The forecast for `target` from the runs of smaller sizes.

    Raises LlmbenchError if fewer than two smaller sizes have runs.
    """
    place = [track.name for track in tracks].index(target.name)
    below = [track for track in tracks[:place] if track.name in made]
    if len(below) < 2:
        raise LlmbenchError(
            f"a forecast for {target.name} needs runs on two smaller sizes of the track; train them first"
        )
    facts = [_facts(track, beside, made[track.name]) for track in below]
    ideas = dict[str, Band]()
    names = dict.fromkeys(parse_recipe(recipe)[-1] for recipe in made[below[-1].name] if recipe != beside)
    for name in names:
        climb = [made[one.track].get(recipe_with(beside, name), ()) for one in facts]
        bases = [finished(made[one.track][beside]) for one in facts]
        if any(not own or pairing_problem(base[: len(own)], own) for base, own in zip(bases, climb, strict=True)):
            continue
        rungs = [Rung(one.compute, _gains(base, own)) for one, base, own in zip(facts, bases, climb, strict=True)]
        ideas[name] = _band(forecast(rungs, compute_of(target), LEVEL, pairs=pairs))
    return Forecast(
        track=target.name,
        training_digest=target.training_digest,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        beside=beside,
        pairs=pairs,
        rungs=tuple(track.name for track in below),
        ideas=ideas,
    )
