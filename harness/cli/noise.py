"""Commands about noise: how large it is on a track, and how many pairs a gain needs there."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.board.leaderboard import read_board
from harness.cli.options import JobsOption, JsonOption, TrackOption, log, open_track, show, show_json
from harness.cli.training import open_store, watched_store
from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK
from harness.core.runs import Pair, require_finished
from harness.lab.arms import record_recipe
from harness.lab.doctor import run_seconds
from harness.lab.noise import make_plan, placebo_arms, save_study, stored_pairs, study, study_seeds
from harness.show.documents import NoiseDocument, PlanDocument
from harness.show.report import noise_lines, plan_lines


def noise(
    track: TrackOption = DEFAULT_TRACK,
    pairs: Annotated[int, typer.Option(metavar="N", min=3, help="Placebo pairs to train.")] = 8,
    save: Annotated[bool, typer.Option("--save", help="Keep the runs under benchmarks/noise/, for `plan`.")] = False,
    stored: Annotated[bool, typer.Option("--stored", help="Train nothing: report on the kept runs.")] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a placebo against the record: how results differ by chance alone, and how often the rule accepts that."""
    project, contest_track = open_track(track)
    if stored:
        measured = stored_pairs(project, contest_track)
        if not measured:
            raise LlmbenchError(
                f"{track} has no kept study of this edition; make one: `llmbench noise --save --track {track}`"
            )
    else:
        arms = placebo_arms(record_recipe(read_board(project), contest_track), contest_track.rule)
        with watched_store(project, contest_track, jobs) as store:
            log(f"{pairs} pairs of {arms.candidate} against {arms.record} on {track}, {store.jobs} runs at a time")
            seeds = study_seeds(contest_track, pairs)
            runs = store.make(
                [store.identify(recipe, seed) for seed in seeds for recipe in (arms.record, arms.candidate)]
            )
        finished = require_finished(runs)
        measured = [Pair(*pair) for pair in zip(finished[::2], finished[1::2], strict=True)]
    report = study(measured, contest_track.rule)
    if save and not stored:
        log(f"kept under {save_study(project, contest_track, measured)}")
    if as_json:
        show_json(NoiseDocument(track=track, **dict(report)))
    else:
        for line in noise_lines(report, contest_track):
            show(line)


def plan(
    gain: Annotated[
        float, typer.Option(metavar="NATS", min=0, help="The gain in val loss that you expect, nats per token.")
    ],
    track: TrackOption = DEFAULT_TRACK,
    statements: Annotated[int, typer.Option(metavar="N", min=0, help="Statements that the variant adds.")] = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many pairs a gain needs on a track, and how long that takes on this machine."""
    project, contest_track = open_track(track)
    store = open_store(project, contest_track, jobs)
    net_gain = gain - statements * contest_track.rule.loss_per_statement
    found = make_plan(store, net_gain, *run_seconds(project, contest_track))
    if as_json:
        show_json(PlanDocument(track=track, gain=gain, statements=statements, **dict(found)))
    else:
        for line in plan_lines(found, gain, contest_track):
            show(line)
