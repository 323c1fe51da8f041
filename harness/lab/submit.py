"""Writes a submission: its verdict, its runs and the variants' code. If one file fails, nothing is written."""

from __future__ import annotations

import datetime
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.board.check_board import check_folder
from harness.board.curves import curves_png
from harness.board.leaderboard import Board, check_record_sources, read_board, rebuild
from harness.board.readme import submission_markdown, verdict_sentence
from harness.board.submission import (
    SUBMISSION_NAME,
    Arm,
    ArmName,
    Challenge,
    Kind,
    Submission,
    knowledge_per_token,
    run_file,
    sizes_asked,
)
from harness.core.audit import Audit
from harness.core.errors import LlmbenchError, RejectedError, UndecidedError
from harness.core.project import Project, make_folder, read_bytes, sha256, write_atomic
from harness.core.runs import FailedRun, FinishedRun, dump_json, finished
from harness.core.terminal import patiently
from harness.core.track import ExploratoryTrack, Track, settings_of
from harness.lab.arms import Arms, Entry, choose_arms, run_command
from harness.lab.contest import Contest, decide_stored, decide_trained, has_passed_screen
from harness.lab.history import Judged, attempt_number, find_unfiled
from harness.lab.rerun import audit_model
from harness.lab.sizes import NO_SIZES, OtherSizes, measure_sizes
from harness.lab.store import RunStore, only_one
from harness.rule.replication import OWN_FAILURES
from harness.rule.verdict import Verdict
from harness.variants.recipe import BASE, recipe_cost, recipe_sources
from harness.variants.source import read_variant, variant_names


@dataclass(frozen=True)
class Filing:
    """The content of a submission before it gets a number."""

    kind: Kind
    name: str
    arms: Arms
    runs: Mapping[ArmName, Sequence[FinishedRun | FailedRun]]
    attempt: int = 1
    verdict: Verdict | None = None
    challenge: Challenge | None = None
    audit: Audit | None = None
    sizes: OtherSizes = NO_SIZES


def refuse_exploration(track: Track, settings: Sequence[str]) -> None:
    """Raises LlmbenchError if `--set` changed values of the track: runs with such values cannot be submitted."""
    if settings or isinstance(track, ExploratoryTrack):
        given = " ".join(f"--set {setting}" for setting in settings or settings_of(track))
        raise LlmbenchError(
            f"runs with {given} cannot be submitted, because --set changes the track; train them again without it"
        )


def file_opening(store: RunStore, board: Board) -> Filing:
    """The runs of a track's base, its first submission. Raises LlmbenchError if it has one, or if seeds are missing."""
    track, holder = store.track, board.holder(store.track)
    if holder is not None:
        raise LlmbenchError(
            f"{track.name} has its baseline already, and {holder.folder_name} is the record; submit a candidate instead"
        )
    found = [store.find(store.identify(BASE, seed)) for seed in track.seeds[: track.rule.record_runs]]
    runs = [run for run in found if isinstance(run, FinishedRun)]
    if len(runs) < (fewest := track.rule.record_runs):
        raise LlmbenchError(
            f"the baseline must be trained with {fewest} seeds before you submit it, and only {len(runs)} of them are "
            f"done; run `llmbench run baseline --track {track.name}`"
        )
    return Filing("opening", f"{track.name}-baseline", Arms("", BASE), {"record": (), "candidate": runs})


def require_holder(board: Board, track: Track) -> Submission:
    """The submission whose candidate is the track's record. Raises LlmbenchError if the track has no submission yet."""
    holder = board.holder(track)
    if holder is None:
        raise LlmbenchError(
            f"the track {track.name} has no record yet, because nobody has submitted its baseline; submit it with "
            f"`llmbench submit --baseline --track {track.name}`"
        )
    return holder


def require_pinned(track: Track) -> None:
    """Raises LlmbenchError if the track's file does not contain the digests (SHA-256) of its tokens."""
    if not track.data.pinned:
        raise LlmbenchError(
            f"tracks/{track.name}.toml has no digests of its tokens, so others could not check that they train on "
            f"the same tokens; run `llmbench data pin --track {track.name}` and commit the file first"
        )


def find_contest(
    project: Project, board: Board, track: Track, entry: Entry, *, negative: bool
) -> tuple[Entry, Arms, Judged | None]:
    """What to submit for `entry`, the user's request: `entry` completed, the two recipes, and the last verdict.

    `entry` gets missing options from its runs; the verdict is the last one not submitted yet. A candidate becomes a
    record only against the present record. A negative result is submitted with the record that it was compared with,
    even if that was replaced. Raises LlmbenchError if that recipe never was the record, or if a variant has changed.
    """
    unfiled = find_unfiled(project, board, track, entry)
    judged = next((one for one in unfiled if one.decision != "undecided"), next(iter(unfiled), None))
    if judged is not None and judged.entry is not None:
        own = judged.entry
        executor = own.executor if entry.executor == "local" else entry.executor
        entry = entry.model_copy(update={"jobs": entry.jobs or own.jobs, "executor": executor})
    if not negative or judged is None or judged.decision != "rejected" or judged.record is None:
        return entry, choose_arms(board, track, entry), judged
    command, record_sources = run_command(track, entry), judged.record_sources or {}
    for name, digest in {**record_sources, **judged.sources}.items():
        if name not in variant_names(project) or read_variant(project, name).digest != digest:
            raise LlmbenchError(
                f"models/variants/{name}.py is not the file with which {judged.candidate} was judged against "
                f"{judged.record} on {judged.date[:10]}; restore that file, or judge the present file with `{command}`"
            )
    if not board.has_held(track, record_sources):
        raise LlmbenchError(
            f"{judged.candidate} was judged against {judged.record}, which was never the record of this version of "
            f"{track.name}; run `{command}`, which judges the candidate against the present record"
        )
    return entry, Arms(judged.record, judged.candidate, entry.lane), judged


def file_candidate(
    store: RunStore,
    board: Board,
    entry: Entry,
    arms: Arms,
    judged: Judged | None,
    tell: Callable[[str], None],
    *,
    negative: bool,
) -> Filing:
    """The content of a candidate's submission: a negative result if `negative` is true, else a record.

    `judged` is the candidate's last verdict that was not submitted. A record's model is tested once more (an audit).
    Raises LlmbenchError if nothing can be submitted; RejectedError or UndecidedError if `negative` is false and the
    candidate did not beat the record.
    """
    track, holder = store.track, require_holder(board, store.track)
    standing = board.standing(track, entry.lane) or holder
    if arms.candidate == standing.candidate.recipe:
        raise RejectedError(f"{arms.candidate} is already the record ({holder.folder_name}); name another variant")
    if arms.record == standing.candidate.recipe:
        check_record_sources(store.project, standing)
    contest = decide_trained(store, arms)
    (records, candidates), verdict = contest.used, contest.verdict
    if contest.failed and not candidates:
        raise RejectedError(
            f"{contest.failed[0].recipe} has no val loss, so there is nothing to submit: {contest.failed[0].reason}"
        )
    command = run_command(track, entry)
    if not contest.candidates:
        _refuse_moved(judged, arms, standing, command)
        raise UndecidedError(f"{arms.candidate}: {verdict_sentence(verdict)} Run `{command}` first")
    if verdict.decision == "undecided":
        forced = verdict.stage == "confirmation" and arms.has_screen(track.rule) and not has_passed_screen(store, arms)
        on = f"{command} --no-screen" if forced else command
        raise UndecidedError(f"{arms.candidate}: {verdict_sentence(verdict)} Run `{on}` to train more pairs")
    sizes = measure_sizes(store, arms, sizes_asked(track, entry.lane, verdict), tell, negative=negative)
    if negative and verdict.decision == "accepted" and not sizes.lost:
        raise LlmbenchError(f"{arms.candidate} beats the record; submit it without --negative")
    if not negative and verdict.decision == "rejected":
        raise RejectedError(
            f"{arms.candidate}: {verdict_sentence(verdict)} To submit it as a negative result, add --negative"
        )
    cost = recipe_cost(recipe_sources(store.project, arms.candidate))
    if entry.lane == "simplicity" and cost >= holder.candidate.statements:
        raise RejectedError(
            f"{arms.candidate} has {cost} statements, but in the lane simplicity it must have fewer than the record "
            f"{holder.candidate.recipe}, which has {holder.candidate.statements}; remove more code"
        )
    audit, first = None, candidates[0]
    if not negative:
        at_most = f"at most {first.training.train_s:.0f} s"
        tell(f"testing that the model of {first.recipe} with seed {first.seed} sees no later tokens: {at_most}")
        with patiently("testing the model"):
            audit = audit_model(store, first)
    return Filing(
        kind="negative" if negative else "record",
        name="-".join((track.name, *entry.added, *(f"without-{name}" for name in entry.removed))),
        arms=arms,
        runs={"record": records, "candidate": candidates},
        attempt=attempt_number(store.project, board, track, first.sources),
        verdict=verdict,
        audit=audit,
        sizes=sizes,
    )


def _refuse_moved(judged: Judged | None, arms: Arms, standing: Submission, command: str) -> None:
    """Raises UndecidedError or RejectedError if the last verdict, `judged`, shows why the candidate has no runs."""
    if judged is None:
        return
    record, on = standing.candidate.recipe, judged.date[:10]
    if arms.record != record:
        raise UndecidedError(
            f"the runs of {arms.candidate} against {arms.record} are missing or were made by another version of "
            f"llmbench; run `{command}`, which judges the candidate against the present record {record}"
        )
    if judged.record == record:
        return
    was = f"{judged.candidate} was {judged.decision} against {judged.record} on {on}, but the record is now {record}"
    if judged.decision == "accepted":
        raise UndecidedError(
            f"{was} ({standing.folder_name}); run `{command}`, which judges the candidate against that record"
        )
    if judged.decision == "rejected":
        raise RejectedError(
            f"{was}; submit that verdict with --negative, or judge the candidate again with `{command}`"
        )


def file_challenge(store: RunStore, target: Submission, answer: Challenge, attempt: int, contest: Contest) -> Filing:
    """The content of a challenge (a re-run of a record): the runs that its verdict uses, and at most one failed run.

    Raises UndecidedError if the re-run is undecided, or if a run failed in a way that the recipe may not have caused.
    """
    if contest.verdict.pairs:  # leave out runs that were trained in advance and that the verdict does not use
        seeds = [run.seed for run in contest.candidates[: contest.verdict.pairs]]
        contest = decide_stored(store, contest.arms, "confirmation", seeds)
    failed, verdict = contest.failed[:1], contest.verdict
    if verdict.decision == "undecided" or any(run.status not in OWN_FAILURES for run in failed):
        raise UndecidedError(
            f"{target.folder_name}: {verdict_sentence(verdict)} Nothing is submitted; the trained runs are kept. Run "
            f"the challenge again, with more pairs (--max-pairs) or on a machine where no run fails"
        )
    beside = [store.find(store.identify(contest.arms.record, run.seed)) for run in failed]
    records = [*contest.records, *(run for run in beside if isinstance(run, FinishedRun))]
    return Filing(
        kind="challenge",
        name=f"challenge-{target.number:04d}",
        arms=contest.arms,
        runs={"record": records, "candidate": [*contest.candidates, *failed]},
        attempt=attempt,
        verdict=verdict,
        challenge=answer,
    )


def write_submission(project: Project, track: Track, filing: Filing, name: str | None) -> tuple[Submission, str]:
    """Write the submission's folder under the next free number, and rebuild leaderboard.csv.

    Returns the submission, and the text of its README. The folder is written under a temporary name, verified, and then
    renamed. A lock ensures that two calls at the same time get different numbers. If the submission is not valid or
    cannot be written, raises LlmbenchError and writes nothing.
    """
    if name is not None and not re.match(SUBMISSION_NAME, name):
        raise LlmbenchError(f"the name '{name}' may have only lower case letters, digits, '-', '_' and '+'; change it")
    make_folder(project.submissions)
    refuse_exploration(track, ())
    with only_one(project.runs / ".submit.lock", lambda: None):
        for left in project.submissions.glob(".new-*"):  # left by a call that was killed
            shutil.rmtree(left, ignore_errors=True)
        board = read_board(project)
        records, candidates = (finished(filing.runs[arm]) for arm in ("record", "candidate"))
        named = [(filing.arms.record, records), (filing.arms.candidate, candidates)]
        files = {"curves.png": curves_png([(recipe, runs) for recipe, runs in named if runs])}
        files |= {"track.toml": read_bytes(project.tracks / f"{track.name}.toml"), **filing.sizes.files}
        submission = Submission(
            number=board.next_number,
            name=name or filing.name,
            date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            kind=filing.kind,
            lane=filing.verdict.lane if filing.verdict else "loss",
            track=track.name,
            track_digest=track.digest,
            record=_freeze(project, filing, "record", files) if records else None,
            candidate=_freeze(project, filing, "candidate", files),
            attempt=filing.attempt,
            verdict=filing.verdict,
            files={"curves.png": sha256(files["curves.png"]), "track.toml": sha256(files["track.toml"])},
            challenge=filing.challenge,
            audit=filing.audit,
            sizes=filing.sizes.results or None,
        )
        board.refuse_copy(submission)
        added = (files[f"sources/{name}.py"].decode() for name in submission.added_variants)
        submission = submission.model_copy(update={"knowledge_nats": knowledge_per_token(added, track)})
        markdown = submission_markdown(submission, records, candidates)
        files |= {"README.md": markdown.encode(), "submission.json": dump_json(submission).encode()}
        try:
            with tempfile.TemporaryDirectory(prefix=".new-", dir=project.submissions) as scratch:
                folder = Path(scratch) / submission.folder_name
                for file, content in files.items():
                    write_atomic(folder / file, content)
                if problems := check_folder(project, folder, board).problems:
                    raise LlmbenchError(
                        f"the submission would not pass `llmbench verify`, so nothing was written: {problems[0]}"
                    )
                folder.rename(project.submissions / submission.folder_name)
        except OSError as error:
            raise LlmbenchError(
                f"cannot write the submission ({error.strerror}), so nothing was written; "
                f"free space or fix the permissions"
            ) from error
        rebuild(project)
    return submission, markdown


def _freeze(project: Project, filing: Filing, name: ArmName, files: dict[str, bytes]) -> Arm:
    """One of the two recipes of the submission. Adds its runs and its variants' code to `files` (path -> content)."""
    recipe = filing.arms.record if name == "record" else filing.arms.candidate
    runs = {str(run.seed): dump_json(run).encode() for run in filing.runs[name]}
    sources = recipe_sources(project, recipe)
    files |= {run_file(name, int(seed)): content for seed, content in runs.items()}
    files |= {f"sources/{variant}.py": source.text.encode() for variant, source in sources.items()}
    return Arm(
        recipe=recipe,
        sources={variant: source.digest for variant, source in sources.items()},
        statements=recipe_cost(sources),
        runs={seed: sha256(content) for seed, content in runs.items()},
    )
