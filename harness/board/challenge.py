"""Challenges: which records can be challenged, on which seeds, and the checks of a filed challenge."""

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
    """The record with this number. Raises LlmbenchError where it cannot be challenged."""
    target = board.find(number)
    if target is None:
        raise LlmbenchError(f"there is no submission {number}; `llmbench leaderboard` lists them")
    if target.kind != "record":
        raise LlmbenchError(
            f"{target.folder_name} is not a record; train its claim again with "
            f"`llmbench verify submissions/{target.folder_name} --rerun`"
        )
    if board.state(number) == "retracted":
        raise LlmbenchError(f"{target.folder_name} is already retracted; challenge the record that holds the track now")
    return target


def merged_commit(project: Project, record: Submission) -> str:
    """The commit that merged a record into the main line; nobody knew its id when the record was filed.

    Raises LlmbenchError where the record is not committed, or the history is not here.
    """
    name = record.folder_name
    try:
        commit = _merged(project, record)
    except LlmbenchError as error:
        raise LlmbenchError(
            f"the seeds of a challenge follow from the commit that merged {name}, and it cannot be found: {error}"
        ) from error
    if commit is None:
        raise LlmbenchError(
            f"{name} is not committed; commit it to the main line first, because the seeds of a challenge follow from "
            f"the commit that brought it"
        )
    return commit


def _merged(project: Project, record: Submission) -> str | None:
    return first_commit_with(project.root, f"submissions/{record.folder_name}/submission.json")


def challenge_seeds(record: Submission, index: int, merged: str, count: int) -> list[int]:
    """Seeds of challenge `index` of a record that the commit `merged` merged; each challenge has its own seeds."""
    return fresh_seeds(record, f"challenge {index} of what came with {merged}", count)


def merged_problem(project: Project, claim: Submission, board: Board) -> str | None:
    """What is wrong with the commit from which a challenge's seeds follow; None if nothing is, and for other claims.

    Raises LlmbenchError where the history is missing, so that this cannot be checked.
    """
    target = board.find(claim.challenge.number) if claim.challenge else None
    if claim.challenge is None or target is None:
        return None
    stated, merged = claim.challenge.merged, _merged(project, target)
    if stated == merged:
        return None
    found = f"the main line has it since {merged}" if merged else "it is not committed here"
    return (
        f"{claim.folder_name}/submission.json: challenge.merged is {stated}, but that is not the commit that merged "
        f"{target.folder_name}: {found}; train the challenge again on the main line"
    )


def challenge_problems(project: Project, claim: Claim, earlier: Board) -> Iterator[str]:
    """What is wrong with a challenge, or with a record that uses runs of a retracted one."""
    submission = claim.submission
    name = submission.folder_name
    if (submission.kind == "challenge") != (submission.challenge is not None):
        yield (
            f"{name}/submission.json: only a submission of the kind challenge has the field challenge, "
            f"and it must have it"
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
                yield f"{name} does not compare what {target.folder_name} compared: track, lane or an arm differs"
            yield from _own_seeds(claim, submission.challenge, target, earlier)
            yield from _outcome(claim, Claim(project.submissions / target.folder_name, target))
            with suppress(LlmbenchError):  # without the history: a flag here, a problem in a pull request
                yield from filter(None, [merged_problem(project, submission, earlier)])


def _retracted_seeds(submission: Submission, earlier: Board) -> Iterator[str]:
    """Runs of a retracted record must not be filed again as another record."""
    claim = submission.track_digest, candidate_key(submission.candidate.sources)
    for old in earlier.submissions:
        shared = {*old.candidate.seeds} & {*submission.candidate.seeds}
        if (
            shared
            and (old.track_digest, candidate_key(old.candidate.sources)) == claim
            and earlier.state(old.number) == "retracted"
        ):
            yield (
                f"{submission.folder_name} uses runs of {old.folder_name}, which was retracted; a claim that was "
                f"refuted on other seeds cannot be filed again"
            )


def _compared(claim: Submission) -> tuple[object, ...]:
    """What a claim compares: track, lane, and the code of both arms."""
    arms = [(arm.recipe, arm.sources) for arm in claim.arms.values()]
    return claim.track, claim.track_digest, claim.lane, arms


def _own_seeds(claim: Claim, challenge: Challenge, target: Submission, earlier: Board) -> Iterator[str]:
    """The seeds must be those that follow from the record, its commit and the number of earlier challenges."""
    submission, runs = claim.submission, claim.runs["candidate"]
    name, index = submission.folder_name, len(earlier.challenges(target.number)) + 1
    if submission.attempt != index:
        yield (
            f"{name} states that it is challenge {submission.attempt} of {target.folder_name}, but it "
            f"is challenge {index}"
        )
    seeds, records = submission.candidate.seeds, submission.record.seeds if submission.record else []
    if seeds != challenge_seeds(target, index, challenge.merged, len(seeds)):
        yield f"{name}: seeds {seeds} are not those of challenge {index} of {target.folder_name}"
    failed = [run for run in runs if isinstance(run, FailedRun)]
    if any(run.status not in OWN_FAILURES for run in failed) or failed not in ([], runs[-1:]):
        yield f"{name}: only the last run may have failed, and only with the status {', '.join(OWN_FAILURES)}"
    if records != seeds and not (failed and records == seeds[:-1]):
        yield f"{name}: the two arms must have the same seeds, but have {records} and {seeds}"


def _outcome(claim: Claim, target: Claim) -> Iterator[str]:
    """The outcome must be the one that follows from the runs of both folders."""
    submission, first, again = claim.submission, target.verdict, claim.verdict
    if first is None or again is None or again.decision == "undecided":
        yield f"{submission.folder_name}: an undecided re-run cannot be filed; train more pairs first"
        return
    outcome = outcome_of_record(first, again)
    if submission.challenge is not None and submission.challenge.outcome != outcome:
        yield (
            f"{submission.folder_name}/submission.json: challenge.outcome is {submission.challenge.outcome!r}, "
            f"but the runs of both submissions give {outcome!r}"
        )
