"""Ideas on several sizes of one track: how a gain changes with compute, and how well it was forecast.

The sizes are tracks called NAME-s, NAME and NAME-l. On each, an idea's runs are compared with those of one recipe, by
default the base, on the same public seeds. A ladder decides nothing.
"""

from __future__ import annotations

import datetime
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.core.errors import LlmbenchError
from harness.core.project import Project, read_text, write_atomic
from harness.core.runs import FailedRun, FinishedRun, finished, load_run, save_run
from harness.core.schema import Count, Line, Positive, Strict, TrackName, VariantName
from harness.core.track import Track, explain_validation, load_track, track_names
from harness.lab.arms import source_digests
from harness.lab.studies.series import Runs, pairing_problem
from harness.rule.scaling import Interval, Rung, compute_multiple, forecast, gain_at, slope
from harness.rule.verdict import losses_of
from harness.variants.recipe import format_recipe, parse_recipe

SUFFIXES = ("-s", "", "-l")
DEFAULT_PAIRS = 4
LEVEL = 0.9
"""Level of every two-sided interval here."""
FARTHER = 10.0
"""A gain is extrapolated to so many times the compute of the largest size."""
FLOPS_PER_PARAM = 6  # forward and backward pass, per multiplied parameter and token (arXiv:2001.08361, section 2.1)

Made = Mapping[TrackName, Mapping[str, Runs]]
"""Track -> recipe -> its runs."""


class Band(Strict):
    """A number with the ends of its 90 % interval."""

    value: float
    low: float
    high: float


class RungFacts(Strict):
    """One size, with the runs of the recipe that all ideas are compared with."""

    track: TrackName
    num_params: Positive
    tokens: Positive
    compute: float
    """Floating-point operations of a run of the base, without those of attention scores."""
    val_loss: float
    """Mean over its runs, in nats per token."""
    runs: Count


class Step(Strict):
    """One idea on one size."""

    track: TrackName
    pairs: Count
    gain: Band | None
    """In nats per token; None if it was not measured."""
    multiple: Band | None = None
    """How many times its compute the base needs for the same loss; None if its curve does not tell."""
    reason: Line | None = None
    """Why it was not measured; None if it was."""
    predicted: Band | None = None
    """Forecast of the mean of these pairs, made from the smaller sizes before this one was trained."""
    predicted_on: str | None = None
    """Date of that forecast."""


class Climb(Strict):
    """One idea over all sizes."""

    name: VariantName
    steps: tuple[Step, ...]
    """From the smallest size to the largest."""
    sign_holds: bool | None
    """Whether the gain has the same sign on all sizes; None if an interval contains zero."""
    slope: Band | None
    """Change of the gain for ten times the compute; None for fewer than two sizes."""
    extrapolated: Band | None
    """The gain extrapolated along this line to ten times the compute of the largest size."""


class Ladder(Strict):
    """Ideas over the sizes of a track."""

    beside: str
    """The recipe that all ideas are compared with."""
    rungs: tuple[RungFacts, ...]
    ideas: tuple[Climb, ...]
    """Largest gain on the largest size first, ideas without one last."""


def rungs_of(project: Project, name: str) -> list[Track]:
    """The sizes of a track, the smallest first. Raises LlmbenchError if there is only one."""
    base = next((name.removesuffix(end) for end in SUFFIXES if end and name.endswith(end)), name)
    there = set(track_names(project))
    found = [load_track(project, f"{base}{end}") for end in SUFFIXES if f"{base}{end}" in there]
    if len(found) < 2:
        raise LlmbenchError(f"{name} has no other size; a ladder needs a track {base}-s or {base}-l")
    return found


def compute_of(track: Track) -> float:
    """Floating-point operations of a run of the base: 6 per token and parameter of the matrices that it passes."""
    model = track.model
    attention = 2 * model.dim**2 + 2 * model.dim**2 * model.num_kv_heads // model.num_heads
    feed_forward = 2 * model.dim * model.ffn_dim * (model.top_k if model.num_experts else 1)
    params = model.vocab_size * model.dim + model.num_layers * (attention + feed_forward)
    return float(FLOPS_PER_PARAM * params * track.budget.tokens)


def recipe_with(beside: str, name: str) -> str:
    """The recipe with which an idea is measured."""
    return format_recipe((*parse_recipe(beside), name))


def measure_ladder(tracks: Sequence[Track], beside: str, made: Made, forecasts: Mapping[str, Forecast]) -> Ladder:
    """The report on the runs of all sizes; `forecasts` by track, if there are any."""
    facts = [_facts(track, finished(made[track.name][beside])) for track in tracks if track.name in made]
    names = dict.fromkeys(parse_recipe(recipe)[-1] for runs in made.values() for recipe in runs if recipe != beside)
    ideas = [_climb(name, facts, beside, made, forecasts) for name in names]

    def place(idea: Climb) -> tuple[bool, float]:
        last = idea.steps[-1].gain
        return last is None, 0.0 if last is None else -last.value

    return Ladder(beside=beside, rungs=tuple(facts), ideas=tuple(sorted(ideas, key=place)))


def _facts(track: Track, runs: Sequence[FinishedRun]) -> RungFacts:
    return RungFacts(
        track=track.name,
        num_params=runs[0].training.num_params,
        tokens=runs[0].training.tokens,
        compute=compute_of(track),
        val_loss=statistics.fmean(losses_of(runs)),
        runs=len(runs),
    )


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
        gains = [a - b for a, b in zip(losses_of(base), losses_of(finished(own)), strict=False)]
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
        slope=_band(slope(rungs, LEVEL)) if enough else None,
        extrapolated=_band(forecast(rungs, FARTHER * facts[-1].compute, LEVEL)) if enough else None,
    )


def _band(found: Interval) -> Band:
    return Band(**found._asdict())


def _multiple(curve: Sequence[tuple[float, float]], rung: RungFacts, gain: Interval) -> Band | None:
    try:
        return _band(compute_multiple(curve, rung.compute, gain))
    except LlmbenchError:  # one size, or a base that does not get better
        return None


# --- forecasts -----------------------------------------------------------------------------------------------------


class Forecast(Strict):
    """A forecast for a larger size from smaller ones, made before it is trained."""

    schema_version: Positive = 1
    track: TrackName
    """Track of the size that is forecast."""
    training_digest: str
    """Digest of that track."""
    date: str
    """UTC day on which it was written."""
    beside: str
    pairs: Positive
    """Pairs whose mean is forecast."""
    rungs: tuple[TrackName, ...]
    """The sizes from which it was made."""
    ideas: dict[VariantName, Band] = Field(default_factory=dict)


def make_forecast(tracks: Sequence[Track], target: Track, beside: str, made: Made, pairs: int) -> Forecast:
    """The forecast for `target` from the runs of all smaller sizes. Raises LlmbenchError for fewer than two of them."""
    place = [track.name for track in tracks].index(target.name)
    below = [track for track in tracks[:place] if track.name in made]
    if len(below) < 2:
        raise LlmbenchError(f"a forecast for {target.name} needs runs of two smaller sizes; train those first")
    facts = [_facts(track, finished(made[track.name][beside])) for track in below]
    ideas = dict[str, Band]()
    names = dict.fromkeys(parse_recipe(recipe)[-1] for recipe in made[below[-1].name] if recipe != beside)
    for name in names:
        climb = [made[one.track].get(recipe_with(beside, name), ()) for one in facts]
        bases = [finished(made[one.track][beside]) for one in facts]
        if any(not own or pairing_problem(base[: len(own)], own) for base, own in zip(bases, climb, strict=True)):
            continue
        rungs = [
            Rung(one.compute, [a - b for a, b in zip(losses_of(base), losses_of(finished(own)), strict=False)])
            for one, base, own in zip(facts, bases, climb, strict=True)
        ]
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


# --- what is kept ----------------------------------------------------------------------------------------------------


def ladder_folder(project: Project, name: str) -> Path:
    """Folder of a kept ladder: `TRACK/RECIPE-seed-N.json` and `forecasts/TRACK.json`."""
    return project.root / "benchmarks" / "ladder" / name


def save_ladder(project: Project, name: str, made: Made) -> Path:
    """Keep the runs beside those of other ideas; returns their folder."""
    folder = ladder_folder(project, name)
    for track, series in made.items():
        for recipe, runs in series.items():
            for run in runs:
                save_run(folder / track / f"{recipe}-seed-{run.seed}.json", run)
    return folder


def kept_ladder(project: Project, name: str, tracks: Sequence[Track]) -> Made:
    """The kept runs. Raises LlmbenchError if there are none, or if the track or a variant has changed since."""
    folder, made = ladder_folder(project, name), dict[str, dict[str, list[FinishedRun | FailedRun]]]()
    for track in tracks:
        found = defaultdict[str, list[FinishedRun | FailedRun]](list)
        for path in sorted((folder / track.name).glob("*-seed-*.json"), key=lambda path: (len(path.name), path.name)):
            run = load_run(path)
            if run.training_digest != track.training_digest:
                raise LlmbenchError(f"{path} is of another edition of {track.name}; train the ladder again with --save")
            if run.sources != {name: source_digests(project, run.recipe).get(name) for name in run.sources}:
                raise LlmbenchError(
                    f"{path} was trained with a variant that has changed since; train it again with --save"
                )
            found[run.recipe].append(run)
        if found:
            made[track.name] = {recipe: sorted(runs, key=lambda run: run.seed) for recipe, runs in found.items()}
    if not made:
        raise LlmbenchError(f"{folder} holds no runs; make some: `llmbench ladder NAME --save`")
    return made


def save_forecast(project: Project, name: str, found: Forecast) -> Path:
    """Write a forecast. Raises LlmbenchError if there is one for that size, because a forecast comes before the
    runs."""
    path = ladder_folder(project, name) / "forecasts" / f"{found.track}.json"
    if path.exists():
        raise LlmbenchError(f"{path} exists already, and a forecast is written only once, before the runs; keep it")
    write_atomic(path, found.model_dump_json(indent=1) + "\n")
    return path


def kept_forecasts(project: Project, name: str) -> dict[str, Forecast]:
    """Track -> its forecast. Raises LlmbenchError for a broken file."""
    found = {}
    for path in sorted((ladder_folder(project, name) / "forecasts").glob("*.json")):
        try:
            one = Forecast.model_validate_json(read_text(path))
        except ValidationError as error:
            raise LlmbenchError(f"{path}: {explain_validation(error)}") from error
        found[one.track] = one
    return found
