"""The doctor's promises rest on counted operations and on runs that are kept; the shell completes real names."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.board.leaderboard import make_board, read_board
from harness.cli.run import _next_line
from harness.core.project import Project
from harness.core.runs import FinishedRun, load_run, save_run
from harness.core.track import Track, load_track
from harness.lab.arms import Entry
from harness.lab.doctor import (
    RATES_FILE,
    START_S,
    TrackOutlook,
    _outlook,
    available_confinement,
    matrix_rates,
    run_seconds,
    track_work,
    whole_seconds,
)
from harness.lab.executor import LocalExecutor
from harness.lab.provenance import this_machine
from harness.rule.forecast import make_plan
from tests.make import edit, make_run
from tests.sandbox import FiledContest, python


def outlook(project: Project, track: Track, cpu: float = 1e11, memory_gib: float = 16.0) -> TrackOutlook:
    return _outlook(project, track, {"cpu": cpu}, memory_gib, None)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Project:
    """A checkout in which nothing was trained."""
    return Project(tmp_path)


def test_operations_are_six_a_parameter_and_token_and_those_of_attention(smoke: Track) -> None:
    work, model, budget = track_work(smoke), smoke.model, smoke.budget
    multiplied = work.num_params - model.vocab_size * model.dim
    attention = 3 * 2 * model.num_layers * budget.seq_len * model.dim
    assert work.train_flops == budget.tokens * (6 * multiplied + attention)
    twice = smoke.model_copy(update={"budget": budget.model_copy(update={"tokens": 2 * budget.tokens})})
    assert track_work(twice).train_flops == 2 * work.train_flops


def test_experts_cost_what_a_token_visits(smoke: Track) -> None:
    """Twice the experts hold twice the weights, but multiply no more of them."""
    four, eight = (
        track_work(smoke.model_copy(update={"model": replace(smoke.model, num_experts=count, top_k=2)}))
        for count in (4, 8)
    )
    assert eight.memory_gib > four.memory_gib
    assert eight.train_flops == pytest.approx(four.train_flops, rel=0.01)  # the router alone grows


def test_a_faster_machine_promises_shorter_runs_and_more_pairs_take_longer(elsewhere: Project, smoke: Track) -> None:
    slow, fast = (outlook(elsewhere, smoke, cpu=rate) for rate in (1e9, 1e12))
    for one in (slow, fast):
        assert one.source == "matrix rate"
        assert one.run_s is not None
        assert one.run_s == one.screen_first_s
        assert one.run_s < (one.screen_last_s or 0) < (one.last_look_s or 0)
        assert one.run_s < (one.first_look_s or 0) < (one.last_look_s or 0)
    assert (slow.run_s or 0) > (fast.run_s or 0)


def test_doctor_and_plan_estimate_the_same_contest(elsewhere: Project, smoke: Track) -> None:
    found, jobs, gain = outlook(elsewhere, smoke), LocalExecutor.room(smoke), 0.01
    plan = make_plan(smoke, gain, 0, jobs, *run_seconds(elsewhere, smoke, jobs, {"cpu": 1e11}))
    assert (found.run_s, found.jobs) == (plan.run_s, plan.jobs)
    assert plan.longest.time_s == pytest.approx((found.screen_last_s or 0) + (found.last_look_s or 0))


def test_a_track_without_known_noise_has_no_screen(elsewhere: Project, smoke: Track) -> None:
    unknown = smoke.model_copy(update={"rule": smoke.rule.model_copy(update={"noise_nats": None})})
    found = outlook(elsewhere, unknown)
    assert (found.screen_first_s, found.screen_last_s) == (None, None)
    assert found.first_look_s == outlook(elsewhere, smoke).first_look_s


def test_a_machine_is_measured_once(elsewhere: Project, smoke: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is estimated would jump with the load at the moment of the call."""
    measured = iter(({"cpu": 1e11}, {"cpu": 2e11}, {"cpu": 3e11}))
    monkeypatch.setattr("harness.lab.doctor.measure_rates", lambda: next(measured))
    first = run_seconds(elsewhere, smoke, 2)
    assert run_seconds(elsewhere, smoke, 2) == first
    assert matrix_rates(elsewhere) == {"cpu": 1e11}
    path = elsewhere.runs / RATES_FILE
    edit(path, torch="of another version")
    assert matrix_rates(elsewhere) == {"cpu": 2e11}
    path.write_text("{")
    assert matrix_rates(elsewhere) == {"cpu": 3e11}


def test_a_run_counts_for_its_edition_processor_and_load(elsewhere: Project, smoke: Track) -> None:
    def keep(seed: int, wall_s: float, digest: str, jobs: int, cpu: str) -> None:
        machine = this_machine().model_copy(update={"cpu": cpu})
        run = make_run("base", seed, 4.0, wall_s, training_digest=digest, jobs=jobs, machine=machine)
        save_run(elsewhere.runs / "smoke" / "base" / "key" / f"seed-{seed}" / "run.json", run)

    own, here = smoke.training_digest, this_machine().cpu
    keep(0, 100.0, "e" * 64, 2, here)
    keep(1, 200.0, own, 2, "of another kind")
    assert run_seconds(elsewhere, smoke, 2, {"cpu": 1e11})[1] == "matrix rate"
    keep(2, 300.0, own, 1, here)
    alone = run_seconds(elsewhere, smoke, 2)
    keep(3, 400.0, own, 2, here)
    shared = run_seconds(elsewhere, smoke, 2)
    assert (alone[1], shared[1]) == ("kept runs", "kept runs")
    assert (shared[0] or 0) - (alone[0] or 0) == pytest.approx(100)
    assert run_seconds(elsewhere, smoke, 1) == alone


def test_what_does_not_fit_says_so(elsewhere: Project, project: Project, smoke: Track) -> None:
    assert outlook(elsewhere, smoke).runnable
    assert outlook(elsewhere, smoke, memory_gib=0.0001).hindrances[0].endswith("or more, found 0")
    gpu = outlook(project, load_track(project, "moe-24gb"))
    assert (gpu.runnable, gpu.hindrances, gpu.run_s) == (False, ("needs a CUDA GPU",), None)
    assert "tokens not pinned (run `llmbench data pin`), so nothing can be submitted" in gpu.remarks


def test_kept_runs_say_more_than_a_guess(filed: FiledContest) -> None:
    found = filed.sandbox.json("doctor")
    tracks = {one["track"]: one for one in found["tracks"]}
    assert (tracks["smoke"]["source"], tracks["pocket"]["source"]) == ("kept runs", "matrix rate")
    runs = [load_run(path) for path in filed.sandbox.root.glob("runs/smoke/*/*/seed-*/run.json")]
    walls = [whole_seconds(run) for run in runs if isinstance(run, FinishedRun)]
    assert tracks["smoke"]["run_s"] == pytest.approx(statistics.median(walls))
    assert filed.sandbox.json("doctor")["tracks"] == found["tracks"]
    assert found["cpu_flops_per_s"] > 1e8
    assert tuple(found["confinement"]) == available_confinement()
    run = next(run for run in runs if isinstance(run, FinishedRun))
    assert tuple(found["confinement"]) == run.training.confinement  # what it promises is what a run gets


COMPLETIONS = {
    "run candidate --variant token": "token_smear",
    "run baseline --track poc": "pocket",
    "variants qk": "qk_norm",
    "tracks sm": "smoke",
    "schema run": "run candidate",
    "verify submissions/0001": "submissions/0001-pocket-baseline",
    "run candidate --log tensor": "tensorboard",
    "run candidate --executor r": "ray",
    "challenge 2": "2",
    "explain hopeless_s": "hopeless_start",
}
COMPLETE = """
import os, sys
from harness.cli import main
for words in sys.argv[1:]:
    line = f"llmbench {words}"
    os.environ |= {"_LLMBENCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    sys.argv = ["llmbench"]
    try:
        main()
    except SystemExit:
        print("\\0", end="")
"""


def test_the_shell_completes_names() -> None:
    """As bash asks, through the program's own completion; in one process, because each start takes its time."""
    done = python("-c", COMPLETE, *COMPLETIONS)
    answers = done.stdout.split("\0")
    assert len(answers) == len(COMPLETIONS) + 1, done.stderr
    for (words, expected), answer in zip(COMPLETIONS.items(), answers, strict=False):
        assert expected in answer.splitlines(), words


def test_a_plan_estimates_a_run_where_none_is_kept(project: Project, elsewhere: Project) -> None:
    small, large = (run_seconds(elsewhere, load_track(project, name), 1) for name in ("smoke", "pocket"))
    assert small[1] == large[1] == "matrix rate"
    assert START_S < (small[0] or 0) < (large[0] or 0)


@pytest.mark.parametrize(
    ("track", "decision", "expected"),
    [
        ("pocket", "accepted", "Next: `llmbench submit`"),
        ("pocket", "rejected", "To submit the negative result: `llmbench submit --negative`"),
        ("pocket-moe", "accepted", "Next: `llmbench submit --track pocket-moe`"),
        ("pocket", "undecided", ""),
        (
            "smoke",
            "accepted",
            "No base of the track smoke has been submitted yet, so this result cannot be submitted. Next, on pocket: "
            "`llmbench run candidate --variant a`; to submit the base of smoke: "
            "`llmbench submit --baseline --track smoke`",
        ),
    ],
)
def test_the_next_step_names_its_track(project: Project, track: str, decision: str, expected: str) -> None:
    contest: Any = SimpleNamespace(verdict=SimpleNamespace(decision=decision), failed=())
    entry, board = Entry(added=("a",)), read_board(project)
    board = make_board(submission for submission in board.submissions if submission.track != "smoke")
    assert _next_line(contest, board, load_track(project, track), entry) == expected
