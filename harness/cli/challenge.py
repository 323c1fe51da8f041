"""Commands that train a submission again on new seeds: `verify --rerun` and, for a record, `challenge`."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from harness.board.challenge import challenge_seeds, challenged_record, merged_commit
from harness.board.check_board import check_folder, readable_board
from harness.board.leaderboard import read_board
from harness.board.readme import audit_sentence, plural, verdict_sentence
from harness.board.submission import Challenge, Claim, Submission, fresh_seeds, load_submission
from harness.cli.options import Jobs, Json, MaxPairs, argument, complete_records, log, show, show_json
from harness.cli.training import about_time, announcer, check_limit, show_pairs, watched_store
from harness.core.errors import EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED, RejectedError, UndecidedError
from harness.core.project import Project
from harness.core.runs import FailedRun, finished
from harness.core.terminal import patiently
from harness.lab.arms import Arms
from harness.lab.contest import Contest, run_stage
from harness.lab.rerun import audit_model, claim_arms, claim_track, compare_repeat, outcome_of, track_again
from harness.lab.store import RunStore, only_one
from harness.lab.submit import file_challenge, write_submission
from harness.rule.replication import Outcome
from harness.show.documents import ChallengeDocument, RerunFindings, VerifyDocument
from harness.show.report import outcome_sentence, repeat_lines

OUTCOME_EXITS = {"confirmed": EXIT_OK, "refuted": EXIT_REJECTED, "open": EXIT_UNDECIDED}


def challenge(
    number: Annotated[
        int, argument("NUMBER", "The record's number on the board, such as 2 or 0002.", complete_records)
    ],
    max_pairs: MaxPairs = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Train a record again on new seeds, and write the result under submissions/.

    Nobody can choose the seeds, because they are computed from the record's code and runs, the commit that merged it
    into the main line, and the number of earlier challenges. A record is `provisional` until a challenge confirms it.
    If a challenge refutes it, it is `disputed` until a later challenge confirms it. If two challenges refute it, it is
    `retracted`, and the record before it is the track's record again. Nothing is written under submissions/ until the
    new runs have a verdict. To train the record again without writing a submission: `llmbench verify
    submissions/NNNN-name --rerun`.

    Exit codes: 0 the record is confirmed, 3 refuted, 4 open or undecided.
    """
    project = Project.find()

    def wait() -> None:
        log(f"another challenge of record {number} is running on this machine; waiting until it ends")
        until_free.enter_context(patiently("waiting"))

    lock_file = (
        project.runs / f".challenge-{number}.lock"
    )  # the seeds of a second challenge depend on whether the first was submitted
    with ExitStack() as until_free, only_one(lock_file, wait):
        until_free.close()
        board = read_board(project)
        target = challenged_record(board, number)
        track, arms = claim_track(project, target), claim_arms(target)
        if problems := check_folder(project, project.submissions / target.folder_name, board).problems:
            raise RejectedError(f"{target.folder_name} has a problem, so it cannot be challenged: {problems[0]}")
        check_limit(max_pairs, track.rule)
        merged, again, index = (
            merged_commit(project, target),
            track_again(track, target),
            len(board.challenges(number)) + 1,
        )
        seeds = challenge_seeds(target, index, merged, track.rule.looks[-1])
        with watched_store(project, again, jobs, arms) as store:
            contest = _again(store, arms, seeds, max_pairs)
        outcome = outcome_of(target, board, contest)
        answer = Challenge(number=number, outcome=outcome, merged=merged)
        filing = file_challenge(store, target, answer, index, contest)
        submission, markdown = write_submission(project, track, filing, None)
        state = read_board(project).state(number)
    folder = f"submissions/{submission.folder_name}"
    if as_json:
        findings = dict(_findings(target, contest, outcome))
        show_json(ChallengeDocument(folder=folder, state=state, markdown=markdown, **findings))
    else:
        sys.stdout.write(markdown)
        _show_outcome(target, contest, outcome)
        show(f"Record {number} is {state or 'confirmed'}.")
        log(
            f"Written: {folder}, leaderboard.csv and the board in README.md. Commit these and open a pull request with "
            "the text above."
        )
    raise typer.Exit(OUTCOME_EXITS[outcome])


def rerun(project: Project, folder: Path, max_pairs: int | None, jobs: int | None, *, as_json: bool) -> NoReturn:
    """Train the checked submission in `folder` again on new seeds. Prints the outcome and exits with its code."""
    submission = load_submission(folder)
    track = claim_track(project, submission)
    if submission.kind == "opening":
        _repeat(project, folder, submission, max_pairs, jobs, as_json=as_json)
    check_limit(max_pairs, track.rule)
    arms, again, audit = claim_arms(submission), track_again(track, submission), None
    with watched_store(project, again, jobs, arms) as store:
        contest = _again(store, arms, fresh_seeds(submission, "rerun", track.rule.looks[-1]), max_pairs)
        if submission.kind == "record" and contest.candidates:
            log("testing the model that was trained again for leaks, at newly drawn positions of val (audit)")
            with patiently("testing for leaks"):
                audit = audit_model(store, contest.candidates[0], secrets.randbits(63))
    outcome = outcome_of(submission, readable_board(project), contest)
    if as_json:
        findings = _findings(submission, contest, outcome).model_copy(update={"audit": audit})
        show_json(VerifyDocument(ok=outcome == "confirmed", problems={folder.name: ()}, rerun=findings))
    else:
        show_pairs(contest)
        if audit is not None:
            show(audit_sentence(audit))
        _show_outcome(submission, contest, outcome)
    raise typer.Exit(OUTCOME_EXITS[outcome])


def _again(store: RunStore, arms: Arms, seeds: Sequence[int], max_pairs: int | None) -> Contest:
    """Train pairs on `seeds` until the rule decides, or `max_pairs` are trained. Logs each result on the way."""
    return run_stage(store, arms, "confirmation", seeds=seeds, max_pairs=max_pairs, announce=announcer(store, arms))


def _repeat(
    project: Project, folder: Path, opening: Submission, max_pairs: int | None, jobs: int | None, *, as_json: bool
) -> NoReturn:
    """Train an opening (a track's base) again on its own seeds and compare the numbers. An opening claims no gain."""
    track = track_again(claim_track(project, opening), opening)
    seeds, recipe = opening.candidate.seeds[:max_pairs], claim_arms(opening).candidate
    with watched_store(project, track, jobs) as store:
        # The opening's runs may still be kept on this machine. With another `occasion` they are trained again.
        store = replace(store, occasion=f"{opening.folder_name} again")
        asked = [store.identify(recipe, seed) for seed in seeds]
        at_a_time = f"{plural(store.jobs, 'run')} at a time{about_time(store, asked)}"
        log(f"training {recipe} on {track.name} again with {len(seeds)} seeds of {opening.folder_name}, {at_a_time}")
        runs = store.make(asked)
    for run in runs:
        if isinstance(run, FailedRun):
            raise UndecidedError(
                f"{recipe} with seed {run.seed} has no val loss to compare ({run.status}): {run.reason}"
            )
    stored = Claim(folder, opening).finished["candidate"][: len(seeds)]
    repeat = compare_repeat(stored, finished(runs), track.rule)
    if as_json:
        findings = RerunFindings(claim=None, again=None, seeds=tuple(seeds), **dict(repeat))
        show_json(VerifyDocument(ok=repeat.outcome == "confirmed", problems={folder.name: ()}, rerun=findings))
    else:
        show(*repeat_lines(repeat))
    raise typer.Exit(OUTCOME_EXITS[repeat.outcome])


def _findings(submission: Submission, contest: Contest, outcome: Outcome) -> RerunFindings:
    """The part of the JSON document that describes a re-run: its outcome, old and new verdict, seeds, failed runs."""
    runs = [*contest.candidates, *contest.failed]
    return RerunFindings(
        outcome=outcome,
        claim=submission.verdict,
        again=contest.verdict,
        seeds=tuple(dict.fromkeys(run.seed for run in runs)),
        failed=contest.failures,
    )


def _show_outcome(submission: Submission, contest: Contest, outcome: Outcome) -> None:
    """Show the submission's verdict, the new verdict, and the outcome, one line each."""
    if submission.verdict is not None:
        show(f"{submission.folder_name} claims: {verdict_sentence(submission.verdict)}")
    show(f"trained again: {verdict_sentence(contest.verdict)}")
    show(outcome_sentence(outcome, contest.verdict))
