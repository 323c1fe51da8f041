"""Flags for review: each is raised by what it names, and not by what is merely near it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.board.check_board import check_board
from harness.board.flags import CONFINED, FLAGS, NETWORK_OPEN, PEAK_FLOPS_PER_THREAD, Case, accepted_gains, find_flags
from harness.board.leaderboard import Board
from harness.board.submission import Challenge, load_submission
from harness.core.project import Project
from harness.core.runs import CurvePoint, FinishedRun
from harness.core.track import Track, load_track
from harness.rule.criteria import Lane
from tests.make import FIRST, RECORD, copy_board, make_run

PARAMS, TOKENS = 10_000, 1000


def trained(run: FinishedRun, **changes: Any) -> FinishedRun:
    return run.model_copy(update={"training": run.training.model_copy(update=changes)})


def scored(run: FinishedRun, **changes: Any) -> FinishedRun:
    return run.model_copy(update={"evaluation": run.evaluation.model_copy(update=changes)})


def arm(recipe: str, *, minute: int, **changes: Any) -> list[FinishedRun]:
    """Three runs of 100 s, one an hour, alone on their machine; 5 s of each are not timed; seed deviation 0.01."""
    runs = [
        trained(
            make_run(recipe, seed, 3.6 + seed / 100, 95.0, f"2026-11-22T1{seed}:{minute:02d}:00Z", **changes),
            wall_s=100.0,
            cpu_s=94.0,
            num_params=PARAMS,
            confinement=CONFINED,
            tokens=TOKENS,
            curve=(CurvePoint(step=1, train_s=1.0, train_loss_nats=4.0, dev_loss_nats=len(recipe) + seed / 100),),
        )
        for seed in range(3)
    ]
    return [scored(run, confinement=CONFINED) for run in runs]


def make_case(track: Track, *, gain: float = 0.05, lane: Lane = "loss", **changes: Any) -> Case:
    """An honest contest; `changes` go to the case."""
    records, candidates = arm("base", minute=10), arm("base+idea", minute=20)
    filed = load_submission(RECORD)
    verdict = filed.verdict.model_copy(update={"gain": gain, "lane": lane}) if filed.verdict else None
    fields: dict[str, Any] = {
        "verdict": verdict,
        "records": records,
        "candidates": candidates,
        "known": lambda: records,
        "accepted": (),
    }
    return Case(track=track, **fields | changes)


@pytest.fixture(scope="module")
def track(project: Project) -> Track:
    """A track whose embedding takes none of the runs' parameters, so that all of them are multiplied with."""
    smoke = load_track(project, "smoke")
    return smoke.model_copy(update={"model": type(smoke.model)(**{**vars(smoke.model), "tie_embeddings": True})})


def names(case: Case) -> list[str]:
    return [flag.name for flag in find_flags(case)]


def each(runs: Sequence[FinishedRun], **changes: Any) -> list[FinishedRun]:
    return [trained(run, **changes) for run in runs]


def first(runs: Sequence[FinishedRun], **changes: Any) -> list[FinishedRun]:
    return [trained(runs[0], **changes), *runs[1:]]


def quick(runs: Sequence[FinishedRun], seconds: float) -> list[FinishedRun]:
    """The first run took so long, all in all."""
    return first(runs, train_s=seconds, wall_s=seconds, cpu_s=seconds)


FLOOR_S = 6 * PARAMS * TOKENS / PEAK_FLOPS_PER_THREAD
BASE, IDEA = arm("base", minute=10), arm("base+idea", minute=20)
BUSY = arm("base+idea", minute=20, jobs=2)
# name -> (what raises the flag, what just does not)
EDGES: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "gain_beyond_history": [
        ({"gain": 0.11}, {"gain": 0.09}),
        ({"gain": 0.31, "accepted": (0.1, 0.3)}, {"gain": 0.29, "accepted": (0.1, 0.3)}),
        # Times scatter by 1 % here; the runs that earned the record count as well as those measured again.
        (
            {"gain": 0.01, "lane": "speed"},
            {"gain": 0.01, "lane": "speed", "known": lambda: first(BASE, train_s=94.0)},
        ),
    ],
    "identical_curves": [
        (
            {"candidates": first(IDEA, curve=(IDEA[1].training.curve[0].model_copy(update={"train_s": 2.0}),))},
            {"candidates": first(IDEA, curve=BASE[0].training.curve)},
        ),
        ({"candidates": first(IDEA, curve=BASE[2].training.curve)}, {}),
    ],
    "below_flops_floor": [
        ({"candidates": quick(IDEA, 0.99 * FLOOR_S)}, {"candidates": quick(IDEA, 1.01 * FLOOR_S)}),
    ],
    "untimed_work": [
        ({"candidates": each(IDEA, train_s=89.0, cpu_s=1.0)}, {"candidates": each(IDEA, train_s=91.0)}),
        (
            {"candidates": each(IDEA, cpu_s=1.0, train_s=85.0)},
            {"candidates": each(IDEA, cpu_s=1.0, train_s=86.5, warmup_s=4.9)},
        ),
        (
            {"records": each(BASE, train_s=99.9), "candidates": each(IDEA, train_s=98.0)},
            {"records": each(BASE, train_s=99.9), "candidates": each(IDEA, train_s=99.5)},
        ),
    ],
    "long_preparation": [
        (
            {"candidates": each(IDEA, warmup_s=5.1, wall_s=105.1, warmup_cpu_s=None)},
            {"candidates": each(IDEA, warmup_s=4.9, wall_s=104.9, warmup_cpu_s=None)},
        ),
        (
            {"records": each(BASE, warmup_cpu_s=4.0), "candidates": each(IDEA, warmup_cpu_s=13.1)},
            {"records": each(BASE, warmup_cpu_s=4.0), "candidates": each(IDEA, warmup_cpu_s=12.9)},
        ),
    ],
    "processor_beyond_wall": [
        ({"candidates": each(IDEA, cpu_s=100.0)}, {"candidates": each(IDEA, cpu_s=99.7)}),
        ({"records": first(BASE, cpu_s=190.0)}, {"records": arm("base", minute=10, threads=2)}),
    ],
    "network_open": [
        ({"candidates": first(IDEA, confinement=(*CONFINED, NETWORK_OPEN))}, {}),
        ({"records": [scored(BASE[0], confinement=(*CONFINED, NETWORK_OPEN)), *BASE[1:]]}, {}),
    ],
    "overlapping_runs": [
        (
            {"candidates": first(IDEA, ended="2026-11-22T10:11:37Z")},
            {"candidates": first(IDEA, ended="2026-11-22T10:11:39Z")},
        ),
        (
            {"candidates": each(IDEA, ended="2026-11-22T10:30:00Z")},
            {"candidates": each(BUSY, ended="2026-11-22T10:30:00Z")},
        ),
    ],
    "dirty_tree": [({"candidates": arm("base+idea", minute=20, dirty=True)}, {})],
    "unconfined": [
        (
            {"candidates": first(IDEA, confinement=("landlock",))},
            {"candidates": first(IDEA, confinement=CONFINED[::-1])},
        ),
        ({"candidates": [scored(IDEA[0], confinement=()), *IDEA[1:]]}, {}),
    ],
    "unchecked_commit": [({"unchecked": "there is no history here"}, {"unchecked": None})],
    "no_revision": [({"records": arm("base", minute=10, revision=None)}, {})],
}


def test_an_honest_contest_has_no_flag(track: Track) -> None:
    assert names(make_case(track)) == []


def test_every_flag_is_tested() -> None:
    assert set(EDGES) == set(FLAGS)


@pytest.mark.parametrize(("name", "odd", "plain"), [(name, *edge) for name, edges in EDGES.items() for edge in edges])
def test_a_flag_is_raised_by_what_it_names_alone(
    track: Track, name: str, odd: dict[str, Any], plain: dict[str, Any]
) -> None:
    assert names(make_case(track, **odd)) == [name]
    assert names(make_case(track, **plain)) == []


def test_what_is_looked_up_or_idle_needs_no_multiplication(track: Track) -> None:
    """The embedding's rows, and the experts that a token is not sent to."""
    fast = quick(IDEA, 0.99 * FLOOR_S)
    untied = track.model_copy(update={"model": type(track.model)(**{**vars(track.model), "tie_embeddings": False})})
    sparse = track.model_copy(update={"model": type(track.model)(**{**vars(track.model), "num_experts": 8})})
    assert names(make_case(track, candidates=fast)) == ["below_flops_floor"]
    assert names(make_case(untied, candidates=fast)) == []
    assert names(make_case(sparse, candidates=fast)) == []


def test_an_opening_has_nothing_to_be_compared_with(track: Track) -> None:
    case = make_case(track, records=[], known=lambda: [], candidates=each(IDEA, train_s=50.0, cpu_s=50.0))
    assert names(replace(case, verdict=None)) == []


def test_a_challenge_whose_candidate_has_no_finished_run_is_no_crash(track: Track) -> None:
    assert names(make_case(track, candidates=[])) == []


def test_a_retracted_gain_is_no_history(track: Track) -> None:
    filed = load_submission(RECORD)
    verdict = filed.verdict.model_copy(update={"gain": 0.3}) if filed.verdict else None
    record = filed.model_copy(update={"track": track.name, "verdict": verdict})
    refuted = Challenge(number=record.number, outcome="refuted", merged="0" * 40)
    refutations = [record.model_copy(update={"number": n, "kind": "challenge", "challenge": refuted}) for n in (3, 4)]
    boards = [Board((record, *refutations[:count])) for count in range(3)]
    assert [accepted_gains(board, track.name, "loss") for board in boards] == [[0.3], [0.3], []]
    assert accepted_gains(boards[0], track.name, "speed") == accepted_gains(boards[0], "other", "loss") == []


def test_one_flag_names_the_first_and_counts_the_rest(track: Track) -> None:
    (flag,) = find_flags(
        make_case(track, candidates=each(IDEA, train_s=0.5 * FLOOR_S, wall_s=0.5 * FLOOR_S, cpu_s=0.0))
    )
    assert flag.detail.startswith("base+idea seed 0 took ")
    assert flag.detail.endswith(" (and 2 more)")


def test_a_date_that_no_calendar_has_is_no_crash(track: Track) -> None:
    assert names(make_case(track, candidates=first(IDEA, ended="2026-02-31T10:10:00Z"))) == []


def test_the_first_submissions_have_no_flag(tmp_path: Path) -> None:
    """A later one may have one: a flag refuses nothing."""
    checked = check_board(copy_board(tmp_path)).items()
    found = {name: [flag.name for flag in one.flags] for name, one in checked if one.row}
    copied = {folder.name: ["unchecked_commit"] * ("challenge" in folder.name) for folder in FIRST}  # without history
    assert found == copied
