"""Commands about noise: how large it is on a track, and how many pairs a gain needs there."""

from __future__ import annotations

from typing import Annotated

from harness.board.leaderboard import read_board
from harness.cli.options import Jobs, Json, TrackName, flag, log, open_track, option, show, show_json
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
    track: TrackName = DEFAULT_TRACK,
    pairs: Annotated[int, option("N", "Placebo pairs to train.", min=3)] = 8,
    save: Annotated[bool, flag("--save", "Keep the runs under benchmarks/noise/, for `plan`.")] = False,
    stored: Annotated[bool, flag("--stored", "Train nothing: report on the kept runs.")] = False,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Train a placebo against the record: how results differ by chance alone, and how often the rule accepts that."""
    project, contest_track = open_track(track)
    if stored:
        measured = stored_pairs(project, contest_track)
        if not measured:
            make = f"llmbench noise --save --track {track}"
            raise LlmbenchError(f"{track} has no kept study of this edition; make one: `{make}`")
    else:
        arms = placebo_arms(record_recipe(read_board(project), contest_track), contest_track.rule)
        with watched_store(project, contest_track, jobs) as store:
            log(f"{pairs} pairs of {arms.candidate} against {arms.record} on {track}, {store.jobs} runs at a time")
            seeds = study_seeds(contest_track, pairs)
            pair = (arms.record, arms.candidate)
            finished = require_finished(store.make([store.identify(one, seed) for seed in seeds for one in pair]))
        measured = [Pair(*pair) for pair in zip(finished[::2], finished[1::2], strict=True)]
    report = study(measured, contest_track.rule)
    if save and not stored:
        log(f"kept under {save_study(project, contest_track, measured)}")
    if as_json:
        show_json(NoiseDocument(track=track, **dict(report)))
    else:
        show(*noise_lines(report, contest_track))


def plan(
    gain: Annotated[float, option("NATS", "The gain in val loss that you expect, nats per token.", min=0)],
    track: TrackName = DEFAULT_TRACK,
    statements: Annotated[int, option("N", "Statements that the variant adds.", min=0)] = 0,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Say how many pairs a gain needs on a track, and how long that takes on this machine."""
    project, contest_track = open_track(track)
    store = open_store(project, contest_track, jobs)
    net_gain = gain - statements * contest_track.rule.loss_per_statement
    found = make_plan(store, net_gain, *run_seconds(project, contest_track))
    if as_json:
        show_json(PlanDocument(track=track, gain=gain, statements=statements, **dict(found)))
    else:
        show(*plan_lines(found, gain, contest_track))
