"""Commands about noise: `noise` measures it on a track, `plan` estimates how many runs a gain needs."""

from __future__ import annotations

from typing import Annotated

from harness.board.readme import plural
from harness.cli.options import (
    Jobs,
    Json,
    TrackName,
    complete_variants,
    flag,
    log,
    open_track,
    option,
    show,
    show_json,
)
from harness.cli.training import about_time, open_store, watched_store
from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK, Project
from harness.core.runs import Pair, require_finished
from harness.core.track import Track
from harness.lab.doctor import run_seconds
from harness.lab.studies.noise import kept_study, save_study, study, study_recipe, study_seeds
from harness.rule.forecast import make_plan
from harness.show.documents import NoiseDocument, PlanDocument
from harness.show.report import noise_lines, plan_lines
from harness.show.tables import noise_table, plan_table
from harness.variants.recipe import format_recipe


def noise(
    track: TrackName = DEFAULT_TRACK,
    variant: Annotated[
        list[str] | None,
        option(
            "NAME",
            "A variant to train in pairs with the base. Repeat the option for several. Default: the track's placebo, "
            "which only changes initial values.",
            complete_variants,
        ),
    ] = None,
    pairs: Annotated[int, option("N", "Number of pairs of each variant.", min=3)] = 8,
    save: Annotated[
        bool, flag("--save", "Save the runs under benchmarks/noise/, beside those of other variants.")
    ] = False,
    stored: Annotated[bool, flag("--stored", "Train nothing; report on all runs that --save saved.")] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Measure how much results vary by chance: train variants and the base in pairs, and compare the pairs' losses.

    The result is the standard deviation of a pair's loss difference, for each variant. The median over the variants is
    `noise_nats` in the track's file, the unit in which the screen (the cheap first test) measures gains.
    """
    project, contest_track = open_track(track)
    names = tuple(dict.fromkeys(variant or ()))
    if stored:
        measured = kept_study(project, contest_track)
        if absent := [name for name in names if name not in measured]:
            raise LlmbenchError(
                f"no runs with and without {absent[0]} are saved for {track}; to train them, run "
                f"{_make(track, absent[0])}"
            )
        measured = {name: found for name, found in measured.items() if name in (names or measured)}
        if not measured:
            raise LlmbenchError(
                f"no noise study is saved for the present version of tracks/{track}.toml; to make one, run "
                f"{_make(track)}"
            )
    else:
        measured = _train(project, contest_track, names or (contest_track.rule.noise_variant,), pairs, jobs)
    report = study(measured, contest_track.rule)
    if save and not stored:
        folder, removed = save_study(project, contest_track, measured)
        log(
            f"saved under {folder}"
            + (f"; removed {removed} older runs, made with another version of the track or code" if removed else "")
        )
        log(f"to report on all saved runs: `llmbench noise --stored --track {track}`")
    if as_json:
        show_json(NoiseDocument(track=track, **dict(report)))
    else:
        show(noise_table(report, track), "", *noise_lines(report, contest_track))


def _make(track: str, variant: str | None = None) -> str:
    """The command line that trains the missing runs of a noise study."""
    return f"`llmbench noise --save --track {track}{f' --variant {variant}' if variant else ''}`"


def _train(
    project: Project, track: Track, variants: tuple[str, ...], num_pairs: int, jobs: int | None
) -> dict[str, list[Pair]]:
    """Variant -> its pairs with the base. Raises LlmbenchError if a run fails."""
    recipes = [format_recipe(()), *map(study_recipe, variants)]
    with watched_store(project, track, jobs) as store:
        asked = [store.identify(one, seed) for seed in study_seeds(track, num_pairs) for one in recipes]
        at_a_time = f"{plural(store.jobs, 'run')} at a time{about_time(store, asked)}"
        log(f"{num_pairs} pairs of {', '.join(recipes[1:])} and {recipes[0]} on {track.name}, {at_a_time}")
        runs = require_finished(store.make(asked))
    base, *others = (runs[place :: len(recipes)] for place in range(len(recipes)))
    return {name: list(map(Pair, base, other)) for name, other in zip(variants, others, strict=True)}


def plan(
    gain: Annotated[float, option("NATS", "The gain in val loss that you expect, in nats per token.", min=0)],
    track: TrackName = DEFAULT_TRACK,
    statements: Annotated[int, option("N", "Number of Python statements that the variant adds.", min=0)] = 0,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Estimate how likely a gain is accepted on a track, and how long screen and confirmation take on this machine.

    The table also shows an idea without a gain, which is the usual case, and an idea with twice the gain. The numbers
    come from simulated candidates with normal noise, and are the same in each call.
    """
    project, contest_track = open_track(track)
    num_jobs = open_store(project, contest_track, jobs).jobs
    run_s, source = run_seconds(project, contest_track, num_jobs)
    found = make_plan(contest_track, gain, statements, num_jobs, run_s, source)
    if as_json:
        show_json(PlanDocument(track=track, gain=gain, statements=statements, **dict(found)))
    else:
        show(plan_table(found, track), "", *plan_lines(found, contest_track, statements))
