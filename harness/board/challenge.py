"""Says which records can be challenged (trained again) and on which seeds, and checks submitted challenges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from harness.board.leaderboard import Board
from harness.board.submission import Challenge, Claim, Submission, candidate_key, fresh_seeds
from harness.core.errors import LlmbenchError
from harness.core.git import first_commit_with
from harness.core.project import Project
from harness.core.runs import FailedRun
from harness.rule.replication import OWN_FAILURES, outcome_of_record


def challenged_record(board: Board, number: int) -> Submission:
    """The record with this number. Raises LlmbenchError if this record cannot be challenged."""
    target = board.find(number)
    if target is None:
        raise LlmbenchError(f"there is no submission {number}; `llmbench leaderboard` lists all submissions")
    if target.kind != "record":
        raise LlmbenchError(
            f"{target.folder_name} is not a record, and only records can be challenged; to repeat its runs, use "
            f"`llmbench verify submissions/{target.folder_name} --rerun`"
        )
    if board.state(number) == "retracted":
        raise LlmbenchError(f"{target.folder_name} is already retracted; challenge the track's present record instead")
    return target


def merged_commit(project: Project, record: Submission) -> str:
    """Id of the commit that merged a record into the main branch. Nobody knew this id when the record was submitted.

    Raises LlmbenchError if the record is not committed, or if the clone is shallow (without the full git history).
    """
    name = record.folder_name
    try:
        commit = _merged(project, record)
    except LlmbenchError as error:
        raise LlmbenchError(
            f"the seeds of a challenge are computed from the commit that added {name} to the main branch, but this "
            f"commit cannot be found: {error}"
        ) from error
    if commit is None:
        raise LlmbenchError(
            f"{name} is not committed; commit it to the main branch first, because the seeds of a challenge are "
            f"computed from that commit's id"
        )
    return commit


def _merged(project: Project, record: Submission) -> str | None:
    return first_commit_with(project.root, f"submissions/{record.folder_name}/submission.json")


def challenge_seeds(record: Submission, index: int, merged: str, count: int) -> list[int]:
    """`count` seeds for challenge number `index` of a record. Each challenge of a record has different seeds.

    `merged` is the id of the commit that merged the record.
    """
    return fresh_seeds(record, f"challenge {index} of what came with {merged}", count)


def merged_problem(project: Project, claim: Submission, board: Board) -> str | None:
    """A sentence that names the problem if a challenge states a commit that did not merge its record, else None.

    Raises LlmbenchError if the clone is shallow (without the full git history).
    """
    target = board.find(claim.challenge.number) if claim.challenge else None
    if claim.challenge is None or target is None:
        return None
    stated, merged = claim.challenge.merged, _merged(project, target)
    if stated == merged:
        return None
    found = f"was merged by the commit {merged}" if merged else "is not committed here"
    return (
        f"{claim.folder_name}/submission.json: challenge.merged is {stated}, but {target.folder_name} {found}; run the "
        f"challenge again on the main branch"
    )


def challenge_problems(project: Project, claim: Claim, earlier: Board) -> Iterator[str]:
    """Checks a challenge, and checks that a record does not reuse runs of a retracted record."""
    submission = claim.submission
    name = submission.folder_name
    if (submission.kind == "challenge") != (submission.challenge is not None):
        yield (
            f"{name}/submission.json: if its kind is challenge, it must have the field challenge; if its kind is "
            f"another one, it must not"
        )
    elif submission.challenge is None:
        yield from _retracted_seeds(submission, earlier) if submission.kind == "record" else ()
    else:
        try:
            target = challenged_record(earlier, submission.challenge.number)
        except LlmbenchError as error:
            yield f"{name}: {error}"
        else:
            if _compared(submission) != _compared(target):
                yield (
                    f"{name} must repeat the comparison of {target.folder_name}, but its track, lane, record or "
                    f"candidate differs"
                )
            yield from _own_seeds(claim, submission.challenge, target, earlier)
            yield from _outcome(claim, Claim(project.submissions / target.folder_name, target))
            with suppress(LlmbenchError):  # if git's history is missing, flags.py raises a flag instead
                yield from filter(None, [merged_problem(project, submission, earlier)])


def _retracted_seeds(submission: Submission, earlier: Board) -> Iterator[str]:
    """Checks that a record does not reuse runs of a retracted record."""
    claim = submission.track_digest, candidate_key(submission.candidate.sources)
    for old in earlier.submissions:
        shared = {*old.candidate.seeds} & {*submission.candidate.seeds}
        if (
            shared
            and (old.track_digest, candidate_key(old.candidate.sources)) == claim
            and earlier.state(old.number) == "retracted"
        ):
            yield (
                f"{submission.folder_name} uses runs of {old.folder_name}, which was retracted because re-runs on "
                f"other seeds refuted it; the same runs cannot be submitted again"
            )


def _compared(claim: Submission) -> tuple[object, ...]:
    """The track, the lane, and the code of record and candidate. If two submissions have equal values, they compare the
    same recipes on the same track."""
    arms = [(arm.recipe, arm.sources) for arm in claim.arms.values()]
    return claim.track, claim.track_digest, claim.lane, arms


def _own_seeds(claim: Claim, challenge: Challenge, target: Submission, earlier: Board) -> Iterator[str]:
    """Checks that record and candidate were trained on the seeds that the next challenge of this record must use."""
    submission, runs = claim.submission, claim.runs["candidate"]
    name, index = submission.folder_name, len(earlier.challenges(target.number)) + 1
    if submission.attempt != index:
        yield (
            f"{name} states that it is challenge {submission.attempt} of {target.folder_name}, but it "
            f"is challenge {index}; run the challenge again"
        )
    seeds, records = submission.candidate.seeds, submission.record.seeds if submission.record else []
    if seeds != challenge_seeds(target, index, challenge.merged, len(seeds)):
        yield (
            f"{name}: its seeds {seeds} are not the seeds that challenge {index} of {target.folder_name} must have; "
            f"run the challenge again"
        )
    failed = [run for run in runs if isinstance(run, FailedRun)]
    if any(run.status not in OWN_FAILURES for run in failed) or failed not in ([], runs[-1:]):
        yield f"{name}: only the candidate's last run may have failed, with the status {' or '.join(OWN_FAILURES)}"
    if records != seeds and not (failed and records == seeds[:-1]):
        yield (
            f"{name}: the runs of record and candidate must have the same seeds, but the record has the seeds "
            f"{records} and the candidate has {seeds}"
        )


def _outcome(claim: Claim, target: Claim) -> Iterator[str]:
    """Checks that the stated outcome follows from the runs of the record's submission and of the challenge."""
    submission, first, again = claim.submission, target.verdict, claim.verdict
    if first is None or again is None or again.decision == "undecided":
        yield f"{submission.folder_name}: a re-run that is undecided cannot be submitted; train more pairs first"
        return
    outcome = outcome_of_record(first, again)
    if submission.challenge is not None and submission.challenge.outcome != outcome:
        yield (
            f"{submission.folder_name}/submission.json: challenge.outcome is {submission.challenge.outcome!r}, but "
            f"the runs of the challenge and of the record give {outcome!r}"
        )
