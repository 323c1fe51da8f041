"""Commands that train the record's recipe (`run baseline`), judge a candidate (`run candidate`) and write a submission
(`submit`)."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harness.board.flags import Flag, find_flags, make_case
from harness.board.leaderboard import Board, check_record_sources, read_board
from harness.board.pull_request import PullRequest, find_remote, open_pull_request
from harness.board.readme import READS_HIGH, plural, verdict_sentence
from harness.board.submission import SIZE_PAIRS, Submission, sizes_asked
from harness.cli import options, training
from harness.cli.options import flag, log, open_track, option, show, show_json
from harness.core.errors import LlmbenchError
from harness.core.events import RunEvent
from harness.core.project import DEFAULT_TRACK, Project
from harness.core.runs import RunIdentity, finished
from harness.core.terminal import stderr_console
from harness.core.track import Track
from harness.lab import history
from harness.lab import submit as filing
from harness.lab.arms import (
    Arms,
    Entry,
    choose_arms,
    contest_seeds,
    entered,
    recall_entry,
    record_recipe,
    remember_entry,
    run_command,
)
from harness.lab.contest import Contest, run_contest
from harness.lab.store import RunStore
from harness.rule.verdict import Stage
from harness.show.describe import experts_table, judged_sentence
from harness.show.documents import RunBaselineDocument, RunCandidateDocument, SubmitDocument
from harness.show.live import LiveRuns
from harness.show.report import flag_lines
from harness.show.tables import runs_table
from harness.show.trackers import open_logbook


def run_baseline(
    track: options.TrackName = DEFAULT_TRACK,
    pairs: Annotated[
        int | None, option("N", "Number of seeds. Default: as many as judging a candidate needs.", min=1)
    ] = None,
    jobs: options.Jobs = None,
    executor: options.ExecutorName = "local",
    settings: options.Settings = None,
    log_to: options.Trackers = None,
    as_json: options.Json = False,
) -> None:
    """Train the record's recipe on the track's public seeds. Runs that are saved already are not trained again."""
    project, plain_track = open_track(track)
    contest_track = open_track(track, settings)[1] if settings else plain_track
    board = read_board(project)
    check_record_sources(project, board.holder(plain_track))
    recipe, count = record_recipe(board, plain_track), pairs or contest_track.rule.record_runs
    if count > len(contest_track.seeds):
        most = len(contest_track.seeds)
        raise LlmbenchError(
            f"each pair needs its own public seed, and the track {track} has {most} of them; give --pairs {most} or "
            f"less"
        )
    seeds = contest_track.seeds[:count]
    logbook = open_logbook(log_to or (), project, contest_track, log)
    with logbook, training.watched_store(project, contest_track, jobs, also=logbook, executor=executor) as store:
        asked = [store.identify(recipe, seed) for seed in seeds]
        about = training.about_time(store, asked)
        log(f"{recipe} on {track}: {plural(len(seeds), 'seed')}, {plural(store.jobs, 'run')} at a time{about}")
        runs = store.make(asked)
    scored = finished(runs)
    if as_json:
        show_json(RunBaselineDocument(track=track, exploratory=bool(settings), recipe=recipe, runs=tuple(runs)))
    else:
        parts = (runs_table(recipe, scored), experts_table(recipe, scored), training.exploratory_line(contest_track))
        show(*filter(None, parts))
    if len(scored) < len(runs):
        raise LlmbenchError(f"{len(runs) - len(scored)} of {len(runs)} runs failed; the lines above say why")


def run_candidate(
    variant: options.Variants = None,
    track: options.TrackName = DEFAULT_TRACK,
    lane: options.Lane = "loss",
    without: options.Without = None,
    screen: options.Screen = None,
    max_pairs: options.MaxPairs = None,
    jobs: options.Jobs = None,
    executor: options.ExecutorName = "local",
    settings: options.Settings = None,
    log_to: options.Trackers = None,
    as_json: options.Json = False,
) -> None:
    """Judge a candidate, which is the record's recipe plus VARIANT, in two stages: screen and confirmation.

    The screen trains one to four runs on public seeds, and compares them with saved runs of the record. It drops most
    candidates. If the candidate passes, the confirmation follows: it trains record and candidate in pairs on new seeds.
    Only the confirmation can accept a candidate.
    """
    project, plain_track = open_track(track)
    contest_track = open_track(track, settings)[1] if settings else plain_track
    board, entry = read_board(project), training.make_entry(variant, without, lane, jobs, settings, executor)
    arms = choose_arms(board, plain_track, entry)
    check_record_sources(project, board.standing(plain_track, arms.lane))
    candidate = history.Candidate.read(project, arms, entry)
    attempt = history.attempt_number(project, board, plain_track, candidate.sources)
    training.check_limit(max_pairs, contest_track.rule)
    stages: tuple[Stage, ...] = ("screen", "confirmation")
    if screen is not None:
        stages = stages[:1] if screen else stages[1:]
    if screen and not arms.has_screen(contest_track.rule):
        raise LlmbenchError(f"the track {track} has no screen for --lane {lane}; leave --screen out")
    exploring = training.exploratory_line(contest_track)
    logbook = open_logbook(log_to or (), project, contest_track, log)
    ledger = history.record_invalid(project, board, plain_track, candidate)
    for judged in [] if exploring else history.judged_before(project, board, plain_track, candidate)[:2]:
        log(f"Judged before: {judged_sentence(judged)}.")

    def observe(run: RunIdentity, event: RunEvent) -> None:
        logbook(run, event)
        if not exploring:
            ledger(run, event)

    has_screen = arms.has_screen(contest_track.rule)
    live = LiveRuns(stderr_console(), contest_track, arms, stages if has_screen else ("confirmation",))
    with logbook, training.watched_store(project, contest_track, jobs, arms, observe, executor, live) as store:
        remember_entry(project, plain_track, entry)

        def keep(contest: Contest) -> None:
            """Save each verdict at once, so that a later interruption does not lose it."""
            if not exploring:
                history.record_attempt(project, board, plain_track, candidate, contest)

        announce = training.announcer(store, arms)
        contest = run_contest(store, arms, stages=stages, max_pairs=max_pairs, announce=announce, screened=keep)
        keep(contest)
        seeds = contest_seeds(project, contest_track, arms, contest.verdict.stage)
        logbook.log_verdict(store.identify(arms.candidate, seeds[0]), contest.verdict)
    verdict, flags = contest.verdict, [] if exploring else _flags(project, board, plain_track, contest)
    if as_json:
        show_json(
            RunCandidateDocument(
                track=track,
                exploratory=bool(settings),
                record=arms.record,
                candidate=arms.candidate,
                attempt=None if exploring else attempt,
                screen=contest.screen,
                failed=contest.failures,
                flags=tuple(flags),
                **dict(verdict),
            )
        )
    else:
        remark = exploring or arms.remark or history.attempt_sentence(attempt, arms, board, plain_track)
        show_contest(contest, remark)
        show(*flag_lines(flags))
        if not exploring and not arms.remark and (line := _next_line(contest, board, plain_track, entry)):
            show(line)
    raise typer.Exit(options.DECISION_EXITS[verdict.decision])


def _flags(project: Project, board: Board, track: Track, contest: Contest) -> list[Flag]:
    """The flags (warnings for a reviewer) that `llmbench verify` would show if these pairs were submitted."""
    return find_flags(make_case(project, board, track, track, contest.verdict, *contest.used))


def show_contest(contest: Contest, remark: str) -> None:
    """Show the pairs, the numbers behind the verdict, the verdict, and how to continue."""
    verdict = contest.verdict
    training.show_pairs(contest)
    show(remark, "")
    show(verdict_sentence(verdict), style=options.DECISION_STYLES[verdict.decision])
    if verdict.decision == "accepted":
        show(READS_HIGH)
    if verdict.next_look is not None and verdict.stage == "confirmation":
        show(f"The next test needs {verdict.next_look} pairs; continue with --max-pairs {verdict.next_look} or more.")
    if contest.passed:
        show("To continue with the confirmation, which decides, run the same command without --screen.")


def _next_line(contest: Contest, board: Board, track: Track, entry: Entry) -> str:
    """A sentence with the command to run after this verdict; empty if the verdict is undecided or a run failed."""
    there = "" if track.name == DEFAULT_TRACK else f" --track {track.name}"
    if board.holder(track) is None and track.name != DEFAULT_TRACK:
        return (
            f"No base of the track {track.name} has been submitted yet, so this result cannot be submitted. Next, on "
            f"{DEFAULT_TRACK}: `{run_command(None, entry)}`; to submit the base of {track.name}: `llmbench submit "
            f"--baseline{there}`"
        )
    if contest.verdict.decision == "accepted":
        sizes = " and ".join(sizes_asked(track, entry.lane, contest.verdict))
        first = f". It first trains {SIZE_PAIRS} pairs on {sizes}, where a record must not be shown to be worse"
        return f"Next: `llmbench submit{there}`{first if sizes else ''}"
    if contest.verdict.decision == "rejected" and not contest.failed:
        return f"To submit the negative result: `llmbench submit --negative{there}`"
    return ""


def submit(
    variant: options.Variants = None,
    track: options.TrackName = DEFAULT_TRACK,
    baseline: Annotated[bool, flag("--baseline", "Submit the track's base model as its first record.")] = False,
    negative: Annotated[
        bool, flag("--negative", "Submit a candidate that did not beat the record (a negative result).")
    ] = False,
    lane: options.Lane = "loss",
    without: options.Without = None,
    name: Annotated[
        str | None, option("NAME", "Name of the folder, after its number. Default: made from track and variants.")
    ] = None,
    jobs: options.Jobs = None,
    executor: options.ExecutorName = "local",
    open_: Annotated[
        bool, flag("--open", "Also make a branch and a commit, push, and open the pull request with `gh`.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write the result of the last candidate, or of --variant, under submissions/ and print a pull request's text."""
    project, contest_track = open_track(track)
    filing.require_pinned(contest_track)
    if open_:
        find_remote(project)  # first, so that nothing is submitted if there is no remote
    board, named = read_board(project), training.make_entry(variant, without, lane, jobs, executor=executor)
    if baseline:
        filed = filing.file_opening(_finding_store(project, contest_track, named), board)
    else:
        asked = _entry_to_file(project, contest_track, board, named)
        entry, arms, judged = filing.find_contest(project, board, contest_track, asked, negative=negative)
        store = _finding_store(project, contest_track, entry, arms)
        filed = filing.file_candidate(store, board, entry, arms, judged, log, negative=negative)
    submission, markdown = filing.write_submission(project, contest_track, filed, name)
    folder = f"submissions/{submission.folder_name}"
    opened = open_pull_request(project, submission, markdown) if open_ else None
    if as_json:
        show_json(
            SubmitDocument(
                folder=folder,
                submission=submission,
                markdown=markdown,
                branch=opened.branch if opened else None,
                pull_request=opened.address if opened else None,
                commands=opened.commands if opened else (),
            )
        )
        return
    sys.stdout.write(markdown)
    log(f"Written: {folder}, leaderboard.csv and the board in README.md.")
    _log_opened(opened, submission)


def _entry_to_file(project: Project, track: Track, board: Board, named: Entry) -> Entry:
    """The candidate that the options name; without such options, the last candidate that was run. Raises LlmbenchError
    if its result cannot be submitted."""
    if named.added or named.removed:
        entry = named
    elif named.lane != "loss":
        raise LlmbenchError(
            "without --variant and --without, the last candidate is submitted in the lane in which it was run, so "
            "--lane cannot change it; name a candidate with --variant or --without, or leave --lane out"
        )
    else:
        entry = recall_entry(project, track)
        entry = entry.model_copy(update={"jobs": named.jobs or entry.jobs})
    filing.refuse_exploration(track, entry.settings)
    filing.require_holder(board, track)
    if not entry.added and not entry.removed:
        command = f"llmbench run candidate --track {track.name} --variant NAME"
        elsewhere = "".join(
            f"; to submit the last candidate of {one}: `llmbench submit --track {one}`" for one in entered(project)
        )
        raise LlmbenchError(f"no candidate has been run on {track.name} yet; first run `{command}`{elsewhere}")
    return entry


def _finding_store(project: Project, track: Track, entry: Entry, arms: Arms | None = None) -> RunStore:
    """A store that only finds saved runs. It trains no runs, so no cluster is asked how many runs it can train."""
    jobs = entry.jobs or (None if entry.executor == "local" else 1)
    return training.open_store(project, track, jobs, arms, executor=entry.executor)


def _log_opened(opened: PullRequest | None, submission: Submission) -> None:
    """Say what to do after a submission was written, or which pull request was opened."""
    if opened is None:
        variants = [f"models/variants/{name}.py" for name in submission.added_variants]
        log(
            f"Commit {' and '.join(['these', *variants])}, nothing else, and open a pull request with the text above. "
            "`llmbench submit --open` would do that too."
        )
    elif opened.address is not None:
        log(f"Opened: {opened.address} from the branch {opened.branch}")
    else:
        log("GitHub's command-line tool `gh` is not installed, so nothing was pushed. These commands do it:")
        for command in opened.commands:
            log(f"  {command}", whole=True)
        if opened.page:
            log(f"Or push the branch, then open this page in a browser: {opened.page}")
