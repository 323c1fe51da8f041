"""The files of a ladder: its runs and its forecasts, under `benchmarks/ladder/NAME/`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.board.leaderboard import Curve
from harness.core.errors import LlmbenchError
from harness.core.project import Project, read_text, write_atomic
from harness.core.runs import FailedRun, FinishedRun, load_run, save_run
from harness.core.track import Track, explain_validation
from harness.lab.arms import source_digests
from harness.lab.studies.ladder import Made
from harness.lab.studies.rungs import Forecast, Ladder
from harness.variants.recipe import BASE


def ladder_folder(project: Project, name: str) -> Path:
    """Folder of a kept ladder, with the files `TRACK/RECIPE-seed-N.json` and `forecasts/TRACK.json`."""
    return project.root / "benchmarks" / "ladder" / name


def curve_of(name: str, found: Ladder) -> Curve | None:
    """The base's losses on all sizes. They show how much compute the base needs for a record's loss.

    None if the ladder compares with another recipe than the base, has only one size, or has no runs on `name`.
    """
    points = tuple((one.compute, one.val_loss) for one in found.rungs)
    own = next((one.compute for one in found.rungs if one.track == name), None)
    if own is None or len(points) == 1 or found.beside != BASE:
        return None
    return Curve(compute=own, points=points)


def save_ladder(project: Project, name: str, made: Made) -> Path:
    """Save the runs of a ladder, and leave the saved runs of other ideas. Returns the folder of all these runs."""
    folder = ladder_folder(project, name)
    for track, series in made.items():
        for recipe, runs in series.items():
            for run in runs:
                save_run(folder / track / f"{recipe}-seed-{run.seed}.json", run)
    return folder


def kept_ladder(project: Project, name: str, tracks: Sequence[Track]) -> Made:
    """The saved runs of a ladder. Raises LlmbenchError if there are none, or if a track or variant has changed."""
    folder, made = ladder_folder(project, name), dict[str, dict[str, list[FinishedRun | FailedRun]]]()
    for track in tracks:
        found = defaultdict[str, list[FinishedRun | FailedRun]](list)
        for path in sorted((folder / track.name).glob("*-seed-*.json"), key=lambda path: (len(path.name), path.name)):
            run = load_run(path)
            if run.training_digest != track.training_digest:
                raise LlmbenchError(
                    f"{path} is a run on another version of {track.name}; run `llmbench ladder` with --save again"
                )
            if run.sources != {name: source_digests(project, run.recipe).get(name) for name in run.sources}:
                raise LlmbenchError(
                    f"{path} is a run with a variant that has changed since; run `llmbench ladder` with --save again"
                )
            found[run.recipe].append(run)
        if found:
            made[track.name] = {recipe: sorted(runs, key=lambda run: run.seed) for recipe, runs in found.items()}
    if not made:
        raise LlmbenchError(
            f"{folder} contains no runs; to train them, run `llmbench ladder NAME... --save --track {name}`"
        )
    return made


def save_forecast(project: Project, name: str, found: Forecast) -> Path:
    """Write a forecast.

    Raises LlmbenchError if there is one for this size already, because a forecast must not be changed after the runs.
    """
    path = ladder_folder(project, name) / "forecasts" / f"{found.track}.json"
    if path.exists():
        raise LlmbenchError(
            f"{path} exists already; a forecast is written only once, before the first run on the track that it "
            f"predicts, so keep this file"
        )
    write_atomic(path, found.model_dump_json(indent=1) + "\n")
    return path


def kept_forecasts(project: Project, name: str) -> dict[str, Forecast]:
    """Track -> its forecast. Raises LlmbenchError if a file is not valid."""
    found = {}
    for path in sorted((ladder_folder(project, name) / "forecasts").glob("*.json")):
        try:
            one = Forecast.model_validate_json(read_text(path))
        except ValidationError as error:
            raise LlmbenchError(f"{path}: {explain_validation(error)}") from error
        found[one.track] = one
    return found
