"""The command that measures ideas on several sizes of a track: the same text with smaller or larger models."""

from __future__ import annotations

from typing import Annotated

from rich.console import Console

from harness.board.readme import plural
from harness.cli.options import (
    ExecutorName,
    Jobs,
    Json,
    TrackName,
    argument,
    complete_variants,
    flag,
    log,
    open_track,
    option,
    show,
    show_json,
)
from harness.cli.training import about_time, watched_store
from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK, Project, write_changed
from harness.core.track import Track
from harness.lab.studies.ladder import (
    DEFAULT_PAIRS,
    Made,
    make_forecast,
    measure_ladder,
    recipe_with,
)
from harness.lab.studies.ladder_files import (
    kept_forecasts,
    kept_ladder,
    ladder_folder,
    save_forecast,
    save_ladder,
)
from harness.lab.studies.rungs import rungs_of
from harness.lab.studies.series import make_series
from harness.show.documents import LadderDocument
from harness.show.studies.ladder import ladder_lines, ladder_table, scale_files
from harness.variants.recipe import parse_recipe


def ladder(
    names: Annotated[list[str] | None, argument("NAME", "Variants to measure.", complete_variants)] = None,
    track: TrackName = DEFAULT_TRACK,
    rung: Annotated[
        list[str] | None,
        option("TRACK", "Train only this size. Repeat the option for several. Default: all, the smallest first."),
    ] = None,
    pairs: Annotated[int, option("N", "Number of pairs (seeds) on each size.", min=2)] = DEFAULT_PAIRS,
    beside: Annotated[
        str, option("RECIPE", "The recipe to which each idea is added and with which it is compared.")
    ] = "base",
    predict: Annotated[
        str | None,
        option("TRACK", "Train nothing; forecast the gains on this size from the saved runs of smaller sizes."),
    ] = None,
    save: Annotated[bool, flag("--save", "Save the runs under benchmarks/ladder/, and write docs/scale.md.")] = False,
    stored: Annotated[bool, flag("--stored", "Train nothing; report on the runs that --save saved.")] = False,
    jobs: Jobs = None,
    executor: ExecutorName = "local",
    as_json: Json = False,
) -> None:
    """Measure ideas on several sizes of a track: does the gain hold, and how does it change with compute?

    The sizes of pocket are the tracks pocket-s, pocket and pocket-l. On each track, every idea and the recipe of
    --beside are trained with the same seeds. For each idea the command prints the gain with its confidence interval,
    how much compute the idea saves, how the gain changes with compute (the slope), and the gain that the slope predicts
    at ten times the compute of the largest size. This is no verdict. Ctrl-C keeps finished runs.

    With --predict a forecast is written before a size is trained; later the report compares it with the measured gain.
    """
    project, _ = open_track(track)
    tracks = rungs_of(project, track)
    name = min((one.name for one in tracks), key=len)
    if predict is not None:
        _predict(project, name, tracks, predict, beside, pairs)
        return
    made = (
        kept_ladder(project, name, tracks)
        if stored
        else _train(project, _chosen(tracks, rung), beside, names or (), pairs, jobs, executor)
    )
    if save and not stored:
        log(f"saved under {save_ladder(project, name, made)}")
        made = kept_ladder(project, name, tracks)
    found = measure_ladder([one for one in tracks if one.name in made], beside, made, kept_forecasts(project, name))
    if save:
        for path, text in scale_files(project).items():
            write_changed(path, text)
    if as_json:
        show_json(LadderDocument(track=name, **dict(found)))
    else:
        show(ladder_table(found, Console().width), *ladder_lines(found))


def _chosen(tracks: list[Track], names: list[str] | None) -> list[Track]:
    known = [one.name for one in tracks]
    if unknown := [name for name in names or () if name not in known]:
        raise LlmbenchError(
            f"{unknown[0]} is not a size of this track (the same task with a smaller or larger model); the sizes are "
            f"{', '.join(known)}"
        )
    return [one for one in tracks if not names or one.name in names]


def _train(
    project: Project, tracks: list[Track], beside: str, names: list[str] | tuple[str, ...], pairs: int,
    jobs: int | None, executor: ExecutorName,
) -> Made:  # fmt: skip
    """Train all sizes, the smallest first. Raises LlmbenchError for an unknown variant, before anything is trained."""
    if not names:
        raise LlmbenchError("name the variants to measure: `llmbench ladder NAME...`; `llmbench variants` lists them")
    if inside := [name for name in names if name in parse_recipe(beside)]:
        raise LlmbenchError(
            f"{inside[0]} is already part of {beside}, to which the variants are added; leave {inside[0]} out"
        )
    recipes, made = [beside, *(recipe_with(beside, name) for name in dict.fromkeys(names))], {}
    for track in tracks:
        if pairs > len(track.seeds):
            raise LlmbenchError(
                f"each pair needs its own public seed, and {track.name} has {len(track.seeds)} of them; give --pairs "
                f"{len(track.seeds)} or less"
            )
        with watched_store(project, track, jobs, executor=executor) as store:
            about = about_time(store, [store.identify(one, seed) for one in recipes for seed in track.seeds[:pairs]])
            at_a_time = f"{plural(store.jobs, 'run')} at a time{about}"
            log(f"{track.name}: {len(recipes)} recipes with {pairs} seeds each, {at_a_time}")
            made[track.name] = make_series(store, recipes, track.seeds[:pairs])
    return made


def _predict(project: Project, name: str, tracks: list[Track], target: str, beside: str, pairs: int) -> None:
    (wanted,) = _chosen(tracks, [target])
    made = kept_ladder(project, name, tracks)
    if target in made:
        raise LlmbenchError(
            f"{target} already has runs in {ladder_folder(project, name)}, but a forecast must be written before the "
            f"first run on the track that it predicts; leave --predict out"
        )
    found = make_forecast(tracks, wanted, beside, made, pairs)
    path = save_forecast(project, name, found)
    show(f"{plural(len(found.ideas), 'forecast')} for {target}; commit {path} before you train {target}")
