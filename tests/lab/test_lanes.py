"""The lanes where times decide, and the seeds of a confirmation: contested, filed and verified by commands."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.board.submission import Claim, Submission, load_submission
from harness.cli.training import open_store
from harness.core.project import Project
from harness.core.runs import FinishedRun, Pair, load_run
from harness.core.track import load_track
from harness.lab.arms import Arms, contest_seeds
from harness.lab.store import RUN_FILE
from harness.rule.verdict import decide
from tests.sandbox import FiledContest, Sandbox

SMALLER = '''"""One block without attention instead of two with it (nobody, 2026)."""
from dataclasses import replace
from torch import nn
def apply(parts):
    return replace(
        parts,
        block=lambda final, layer: nn.Identity() if layer else parts.block(final, layer),
        attention=lambda final, layer: nn.Identity(),
    )
'''
SPEED = ("--variant", "smaller", "--lane", "speed")
SIMPLICITY = ("--without", "token_smear", "--lane", "simplicity")


@dataclass(frozen=True)
class Trained:
    """A contest as it was printed, and what was filed of it."""

    printed: dict[str, Any]
    submission: Submission
    pairs: list[Pair]

    def in_time(self, project: Project) -> list[FinishedRun]:
        """All runs in the order in which they were trained; several end in one second."""
        kept = [(path.stat().st_mtime_ns, load_run(path)) for path in project.runs.rglob(RUN_FILE)]
        written = {(run.recipe, run.seed): moment for moment, run in kept}
        return sorted((run for pair in self.pairs for run in pair), key=lambda run: written[run.recipe, run.seed])


@dataclass(frozen=True)
class Contested:
    """A board on which a faster recipe broke the record, and then a simpler one."""

    sandbox: Sandbox
    speed: Trained
    simplicity: Trained

    @property
    def project(self) -> Project:
        return Project(self.sandbox.root)


@pytest.fixture(scope="module")
def contested(filed: FiledContest, tmp_path_factory: pytest.TempPathFactory) -> Contested:
    """A second edition of the track, with wide tolerances; its opening is trained already."""
    sandbox = filed.sandbox.copy(tmp_path_factory.mktemp("lanes") / "llmbench")
    track = sandbox.root / "tracks" / "smoke.toml"
    track.write_text(re.sub(r"(?m)^(loss|time)_tolerance = \S+", r"\1_tolerance = 9.0", track.read_text()))
    (sandbox.root / "models" / "variants" / "smaller.py").write_text(SMALLER)

    def do(*arguments: str) -> dict[str, Any]:
        done = sandbox(*arguments, "--track", "smoke", "--json")
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        printed: dict[str, Any] = json.loads(done.stdout)
        return printed

    def claim(*arguments: str) -> Trained:
        printed = do("run", "candidate", *arguments)
        folder = sandbox.root / do("submit", *arguments)["folder"]
        submission = load_submission(folder)
        arms = Claim(folder, submission).finished.values()
        return Trained(printed, submission, [Pair(*runs) for runs in zip(*arms, strict=True)])

    do("submit", "--baseline")
    claim("--variant", "token_smear")
    return Contested(sandbox, claim(*SPEED), claim(*SIMPLICITY))


def test_a_speed_contest_is_decided_by_time(contested: Contested) -> None:
    printed = contested.speed.printed
    assert (printed["decision"], printed["lane"], printed["design"]) == ("accepted", "speed", "paired")
    assert (printed["record"], printed["candidate"]) == ("base+token_smear", "base+token_smear+smaller")
    assert printed["time_ratio"] < 0.9
    assert printed["guards"][0]["quantity"] == "loss"
    assert contested.speed.submission.lane == "speed"


def test_where_times_decide_runs_are_alone_interleaved_and_take_turns(contested: Contested) -> None:
    for claim in (contested.speed, contested.simplicity):
        first, second = (pair.record.seed for pair in claim.pairs)
        record, candidate = claim.submission.record, claim.submission.candidate
        assert record is not None
        assert [(run.recipe, run.seed) for run in claim.in_time(contested.project)] == [
            *((record.recipe, first), (candidate.recipe, first)),
            *((candidate.recipe, second), (record.recipe, second)),
        ]
        assert {run.provenance.jobs for run in claim.in_time(contested.project)} == {1}


def test_confirmation_seeds_are_used_and_follow_the_source(contested: Contested, tmp_path: Path) -> None:
    speed, track = contested.speed.submission, load_track(contested.project, "smoke")
    assert speed.record is not None
    arms = Arms(speed.record.recipe, speed.candidate.recipe, "speed")
    derived = contest_seeds(contested.project, track, arms, "confirmation")
    assert speed.candidate.seeds == derived[: len(speed.candidate.seeds)]
    assert not set(derived) & set(track.seeds)
    edited = Project(contested.sandbox.copy(tmp_path / "llmbench").root)
    (edited.variants / "smaller.py").write_text(SMALLER + "# a remark\n")
    assert contest_seeds(edited, track, arms, "confirmation") == derived
    (edited.variants / "smaller.py").write_text(SMALLER + "ONE = 1\n")
    anew = contest_seeds(edited, track, arms, "confirmation")
    assert not set(anew) & set(derived)
    store = open_store(edited, track, arms=arms)  # an edited candidate meets no old run of the record
    assert store.find(store.identify(arms.record, derived[0])) is not None
    assert not any(store.find(store.identify(arms.record, seed)) for seed in anew)


def test_a_contest_on_another_record_or_another_edition_has_other_seeds(contested: Contested) -> None:
    track = load_track(contested.project, "smoke")
    other = track.model_copy(update={"rule": track.rule.model_copy(update={"max_slowdown": 8.0})})
    arms = [Arms("base", "base+token_smear"), Arms("base+smaller", "base+smaller+token_smear")]
    drawn = [
        set(contest_seeds(contested.project, each, arm, "confirmation")) for each in (track, other) for arm in arms
    ]
    assert len(set.union(*drawn)) == sum(map(len, drawn))


def test_claims_of_every_lane_and_of_two_editions_verify_together(contested: Contested) -> None:
    assert not any(contested.sandbox.json("verify")["problems"].values())
    rows = contested.sandbox.json("leaderboard")["rows"]
    assert [(row["kind"], row["lane"]) for row in rows[2:]] == [
        *(("opening", "loss"), ("record", "loss"), ("record", "speed"), ("record", "simplicity")),
    ]
    assert rows[0]["track_digest"] != rows[2]["track_digest"]


def test_a_simpler_recipe_wins_within_the_tolerances_and_loses_beyond_them(contested: Contested) -> None:
    simplicity, rule = contested.simplicity, load_track(contested.project, "smoke").rule
    printed = simplicity.printed
    assert (printed["decision"], printed["reasons"]) == ("accepted", ["simpler_and_no_worse"])
    assert (printed["record"], printed["candidate"]) == ("base+token_smear+smaller", "base+smaller")
    assert printed["gain"] < 0  # the price of simplicity here
    assert printed["added_statements"] == simplicity.submission.verdict.added_statements < 0

    def judged(**tolerances: float) -> tuple[str, tuple[str, ...]]:
        strict = rule.model_copy(update=tolerances)
        verdict = decide(
            simplicity.pairs, strict, added_statements=simplicity.submission.verdict.added_statements, lane="simplicity"
        )
        return verdict.decision, verdict.reasons

    assert judged() == ("accepted", ("simpler_and_no_worse",))
    assert judged(loss_tolerance=-printed["gain"] / 2) == ("rejected", ("loss_worse",))
    assert judged(time_tolerance=printed["time_ratio"] / 2 - 1) == ("rejected", ("too_slow",))


def test_a_candidate_with_no_fewer_statements_than_the_present_record_is_refused(contested: Contested) -> None:
    refusal = contested.sandbox.refuses("submit", *SIMPLICITY, "--track", "smoke", code=3)
    assert "in the lane simplicity it must have fewer than the record base+smaller, which has" in refusal
