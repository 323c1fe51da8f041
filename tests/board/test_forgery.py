"""A liar who makes every digest again: what the track and the rule still contradict, and what only training does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.board.leaderboard import rebuild
from harness.board.readme import submission_markdown
from harness.board.submission import ArmName, Claim, confirmation_seeds, load_submission, run_file
from harness.core.project import Project, sha256
from tests.make import RECORD, copy_board, newest, verify_board, written

ARMS: tuple[ArmName, ...] = ("record", "candidate")
Run = dict[str, Any]
Edit = Callable[[str, int, Run], None]
"""Changes a run in place, given its arm and its place in the order of seeds."""


def forge(project: Project, edit: Edit, *, kind: str = "record", judge_again: bool = True) -> list[str]:
    """The record's runs are edited and all that depends on them is made again, as a skilled liar would.

    It is filed as `kind`. Returns what `verify` still finds.
    """
    first = min(path.name for path in project.submissions.glob("*-challenge-*"))
    for path in project.submissions.iterdir():
        if path.name >= first:  # a challenge's seeds follow from the runs that are forged here
            shutil.rmtree(path)
    folder = newest(project, "record")
    claim = json.loads((folder / "submission.json").read_text()) | {"kind": kind}
    for arm in ARMS:
        runs = {}
        for place, path in enumerate(folder / run_file(arm, int(seed)) for seed in claim[arm].pop("runs")):
            run = json.loads(path.read_text())
            path.unlink()
            edit(arm, place, run)
            runs[str(run["seed"])] = written(run)
        for seed, text in runs.items():
            (folder / run_file(arm, int(seed))).write_text(text)
        claim[arm]["runs"] = {seed: sha256(text.encode()) for seed, text in runs.items()}
    (folder / "submission.json").write_text(written(claim))
    submission = load_submission(folder)
    if judge_again:
        submission = submission.model_copy(update={"verdict": Claim(folder, submission).verdict})
        (folder / "submission.json").write_text(written(submission.model_dump(mode="json")))
    arms = Claim(folder, submission).finished.values()
    if submission.verdict is not None and submission.verdict.pairs > 0:
        (folder / "README.md").write_text(submission_markdown(submission, *arms))
    rebuild(project)
    return [problem for problems in verify_board(project).values() for problem in problems]


def setting(key: str, value: Any, *, arms: tuple[str, ...] = ARMS, only: int | None = None) -> Edit:
    """Sets or, given a function, changes `key` (dots lead inwards) in the runs of some arms, or in one run of each."""

    def edit(arm: str, place: int, run: Run) -> None:
        if arm in arms and only in (None, place):
            *above, last = key.split(".")
            for name in above:
                run = run[name]
            run[last] = value(run[last]) if callable(value) else value

    return edit


CANDIDATE = ("candidate",)
CAUGHT: dict[str, tuple[Edit, str]] = {
    "fewer steps": (setting("training.steps", lambda n: n - 1), "training.steps is"),
    "more tokens": (setting("training.tokens", lambda n: 2 * n), "training.tokens is"),
    "part of val": (setting("evaluation.tokens", lambda n: n // 2), "evaluation.tokens is"),
    "more bytes": (setting("evaluation.bytes", lambda n: 2 * n), "evaluation.bytes is"),
    "more threads": (setting("provenance.threads", 4), "provenance.threads is"),
    "more processes": (setting("provenance.processes", 2), "provenance.processes is"),
    "another track": (setting("training_digest", "0" * 64), "was trained on another track"),
    "a skipped probe": (setting("evaluation.probes", ["shape"]), "the evaluation lacks the probes"),
    "impossible accuracy": (setting("evaluation.correct", lambda n: 10**9), "evaluation.correct must not exceed"),
    "half a curve": (setting("training.curve", lambda points: points[:2]), "must increase and end at the last step"),
    "no curve": (setting("training.curve", []), "must increase and end at the last step"),
    "a stopped clock": (setting("training.train_s", 1.0), "times must not exceed training.train_s"),
    "one run twice": (setting("training.weights_sha256", "0" * 64, arms=CANDIDATE), "one run is a copy"),
    "a seed of choice": (setting("seed", 77, only=0), "the candidate's seeds are [77"),
    "another source": (setting("sources", {"x": "0" * 64}, arms=CANDIDATE), "sources is"),
    "another recipe": (setting("recipe", "base+x", arms=CANDIDATE), "recipe is"),
    "another code in one arm": (setting("code_digest", "0" * 64, arms=CANDIDATE), "its verdict is undecided"),
    "another machine in one arm": (setting("provenance.machine.cores", 64, arms=CANDIDATE), "its verdict is undecided"),
    "another package": (setting("provenance.packages.torch", "9", only=1), "its verdict is undecided"),
    "another load": (setting("provenance.jobs", 9, only=1, arms=CANDIDATE), "its verdict is undecided"),
    "a run from the future": (
        setting("training.ended", "2099-01-01T00:00:00Z"),
        "but a run of the candidate ended later",
    ),
    "a slower candidate": (setting("training.cpu_s", lambda s: 9 * s, arms=CANDIDATE), "its verdict is"),
    "a loss that does not win": (setting("evaluation.nats", lambda n: 1.1 * n, arms=CANDIDATE), "its verdict is"),
}


@pytest.mark.parametrize("lie", CAUGHT)
def test_a_lie_with_fresh_digests_is_caught_where_the_rules_meet_it(tmp_path: Path, lie: str) -> None:
    edit, words = CAUGHT[lie]
    found = forge(copy_board(tmp_path), edit)
    assert any(words in problem for problem in found), found


def test_a_changed_loss_needs_a_changed_verdict(tmp_path: Path) -> None:
    edit = setting("evaluation.nats", lambda nats: nats * (1 - 1e-6), arms=CANDIDATE)
    found = forge(copy_board(tmp_path), edit, judge_again=False)
    assert any("verdict.gain is" in problem and "but the runs give" in problem for problem in found), found


def test_the_seeds_of_a_record_follow_from_the_code_of_both_arms(tmp_path: Path) -> None:
    record = load_submission(RECORD)
    track, count = Claim(RECORD, record).track, len(record.candidate.seeds) + 1
    derived = confirmation_seeds(track, record.record.sources if record.record else {}, record.candidate.sources, count)
    assert derived != confirmation_seeds(track, {}, {"token_smear": "0" * 64}, count)
    assert derived != confirmation_seeds(track, {"other": "0" * 64}, record.candidate.sources, count)
    renamed = {"another_name": record.candidate.sources["token_smear"]}
    assert derived == confirmation_seeds(track, {}, renamed, count)
    for place, seeds in enumerate((derived[:-1], derived[1:], record.candidate.seeds[::-1])):
        found = forge(
            copy_board(tmp_path / str(place)), lambda arm, place, run, seeds=seeds: run.update(seed=seeds[place])
        )
        assert (
            found == []
            if place == 0
            else any("but must be the seeds that are computed from the code" in problem for problem in found)
        ), found


def test_a_challenge_that_calls_itself_a_screen_refutes_nothing(tmp_path: Path) -> None:
    """One pair of it would do to drop a candidate."""
    project = copy_board(tmp_path)
    folder = newest(project, "challenge")
    claim = json.loads((folder / "submission.json").read_text())
    claim["verdict"] |= {"stage": "screen", "decision": "rejected", "reasons": ["screened_out"], "p_value": None}
    claim["challenge"]["outcome"] = "refuted"
    (folder / "submission.json").write_text(written(claim))
    found = [problem for problems in verify_board(project).values() for problem in problems]
    assert any("verdict.stage is 'screen', but the runs give 'confirmation'" in one for one in found), found


def test_what_must_not_be_compared_cannot_be_filed_as_a_negative_result(tmp_path: Path) -> None:
    found = forge(copy_board(tmp_path), setting("code_digest", "0" * 64, arms=CANDIDATE), kind="negative")
    assert any("its kind is negative, but its verdict is undecided" in problem for problem in found), found


UNSEEN: dict[str, Edit] = {
    "better losses": setting("evaluation.nats", lambda nats: 0.99 * nats, arms=CANDIDATE),
    "more hits": setting("evaluation.correct", lambda n: n + 100, arms=CANDIDATE),
    "another curve": setting("training.curve", lambda points: [p | {"dev_loss_nats": 1.0} for p in points]),
    "a faster candidate": setting("provenance.machine.cpu", "a better one"),
    "another code in every run": setting("code_digest", "0" * 64),
    "another day": setting("training.ended", "2026-01-01T00:00:00Z"),
    "a slower wall clock": setting("training.train_s", lambda s: 9 * s, arms=CANDIDATE),
    "another size": setting("training.num_params", 1),
    "another revision": setting("provenance.revision", None),
}


@pytest.mark.parametrize("lie", UNSEEN)
def test_a_lie_that_hangs_together_takes_training_again_to_find(tmp_path: Path, lie: str) -> None:
    """Digests bind files to each other, not to the truth: only `verify --rerun` finds these.

    A lie listed here that something comes to catch moves up into CAUGHT.
    """
    assert forge(copy_board(tmp_path), UNSEEN[lie]) == []
