"""Checks of a submission that need computing: training its runs again, and testing its model again (an audit)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from pydantic import Field

from harness.board.leaderboard import Board
from harness.board.submission import Submission
from harness.core.audit import Audit
from harness.core.errors import LlmbenchError, RejectedError
from harness.core.project import Project, read_bytes
from harness.core.runs import FinishedRun, RunFailedError
from harness.core.schema import Strict
from harness.core.track import Rule, Track, load_track
from harness.data.cache import open_split
from harness.lab.arms import Arms
from harness.lab.contest import Contest
from harness.lab.executor import LocalExecutor
from harness.lab.store import RunStore
from harness.referee.audit import run_audit
from harness.referee.run import sessions
from harness.referee.session import ProbeFailedError
from harness.rule.comparable import comparability_problems
from harness.rule.replication import (
    OWN_FAILURES,
    Outcome,
    outcome_of_challenge,
    outcome_of_negative,
    outcome_of_record,
    rule_again,
    rule_in_pairs,
)
from harness.rule.stats import gain_test
from harness.variants.source import read_variant, variant_names


class Repeat(Strict):
    """The result of training an opening (the submission with the runs of a track's base) again."""

    outcome: Outcome
    differs: dict[str, str] = Field(default_factory=dict)
    """Reason code -> what differs between the stored and the new runs. If nothing differs, losses must be equal."""
    gain: float | None = None
    """Stored mean loss minus new mean loss, in nats per token; None for a single seed."""
    ci_low: float | None = None
    ci_high: float | None = None


def claim_track(project: Project, submission: Submission) -> Track:
    """The track of a submission. Raises LlmbenchError if the track or one of the submission's variants has changed."""
    track = load_track(project, submission.track)
    if track.digest != submission.track_digest:
        raise LlmbenchError(
            f"tracks/{track.name}.toml is not the version that {submission.folder_name} was measured on; check out a "
            f"git revision in which this file equals submissions/{submission.folder_name}/track.toml"
        )
    for arm in submission.arms.values():
        for name, digest in arm.sources.items():
            if name not in variant_names(project) or read_variant(project, name).digest != digest:
                raise LlmbenchError(
                    f"models/variants/{name}.py is not the file that {submission.folder_name} was measured with; "
                    f"copy it from submissions/{submission.folder_name}/sources/{name}.py"
                )
    return track


def claim_arms(submission: Submission) -> Arms:
    """The two recipes of a submission.

    An opening, which holds only a track's base, has no record: the record's recipe is an empty text.
    """
    record = submission.record.recipe if submission.record else ""
    return Arms(record, submission.candidate.recipe, submission.lane)


def track_again(track: Track, submission: Submission) -> Track:
    """A copy of the track with the rule by which `submission` is trained again and judged: always in pairs.

    If the submission is a record, training does not end early because of a small gain. The rule does not affect a
    single run, so the new runs can be compared with those of the submission.
    """
    rule = rule_in_pairs(track.rule) if submission.kind in ("opening", "negative") else rule_again(track.rule)
    return track.model_copy(update={"rule": rule})


def outcome_of(claim: Submission, board: Board, contest: Contest) -> Outcome:
    """Whether the re-run in `contest` confirms or refutes the submission `claim`, or leaves it open.

    If the submission is a challenge, it states an outcome for a record. Its re-run therefore trains that record again.
    """
    if "candidate_failed" in contest.verdict.reasons and contest.failed[0].status not in OWN_FAILURES:
        return "open"  # the failure may have a cause outside the run
    if claim.kind == "negative":
        return outcome_of_negative(contest.verdict)
    number = claim.challenge.number if claim.challenge else claim.number
    record = board.find(number) if claim.challenge else claim
    if record is None:
        raise LlmbenchError(
            f"{claim.folder_name} challenges submission {number}, which is missing; restore its folder in submissions/"
        )
    if record.verdict is None:
        raise LlmbenchError(
            f"{record.folder_name} has no verdict that a re-run could confirm, because it was compared with no "
            f"earlier record; name another record"
        )
    outcome = outcome_of_record(record.verdict, contest.verdict)
    return outcome_of_challenge(claim.challenge.outcome, outcome) if claim.challenge else outcome


def audit_model(store: RunStore, run: FinishedRun, drawn: int | None = None) -> Audit:
    """Test at many positions of val that the model of a run sees no later tokens and no other rows of a batch.

    `drawn` is the seed from which the positions are drawn; by default the seed is computed from the weights and val.

    Raises RejectedError if the model does see them, InterruptedRunError on Ctrl-C or SIGTERM.
    """
    executor, track = LocalExecutor(store.track, 1), store.track
    with (
        executor.stopped_by_signals(),
        executor.casting(store.job(run)) as casting,
        closing(sessions(casting, ("trained", "trained"))) as own,
    ):
        val_N, dev_N = open_split(track, "val"), open_split(track, "dev")
        try:
            return run_audit(track, val_N, dev_N, run, read_bytes(casting.job.weights), own, drawn)
        except (ProbeFailedError, RunFailedError) as error:
            raise RejectedError(
                f"the model of {run.recipe} with seed {run.seed} fails its audit, the test that it sees no later "
                f"tokens: {error}"
            ) from error


def compare_repeat(stored: Sequence[FinishedRun], again: Sequence[FinishedRun], rule: Rule) -> Repeat:
    """Compare the stored runs of a track's base with the runs trained again; both are in the same order.

    If code, machine, packages and threads are the same, the numbers must be equal to the last bit. Otherwise the mean
    losses are compared by Welch's test. The outcome is then `confirmed` if the interval of the difference of the means
    lies within plus or minus the track's loss tolerance, else `open`, because other code or another machine may explain
    the difference.
    """
    found = comparability_problems(stored, again, timed=False)
    time_codes = ("mixed_load", "mixed_clocks")  # these do not affect losses
    differs = {code: detail for code, detail in found.items() if code not in time_codes}
    arms = (stored, again)
    losses = ([run.evaluation.val_loss for run in runs] for runs in arms)
    means = gain_test(*losses, alpha=rule.alpha)
    outcome: Outcome
    if not differs:
        then, now = (
            [(r.evaluation.nats, r.evaluation.correct, r.training.weights_sha256) for r in runs] for runs in arms
        )
        outcome = "confirmed" if then == now else "refuted"
    else:
        ends = [end for end in (means.ci_low, means.ci_high) if end is not None]
        outcome = "confirmed" if ends and max(map(abs, ends)) <= rule.loss_tolerance else "open"
    return Repeat(outcome=outcome, differs=differs, gain=means.gain, ci_low=means.ci_low, ci_high=means.ci_high)
