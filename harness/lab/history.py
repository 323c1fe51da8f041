"""All verdicts of this machine and of all submissions, so that every attempt to beat the record is counted.

`runs/TRACK/attempts.jsonl` gets one line for each verdict on a candidate on this machine. It also gets a line for each
invalid run of a candidate (the trained model fails a test, a probe) as soon as the run ends, because deleting that run
and training it again is another attempt. These lines and the submitted negative results give the number of attempts
since the last record. The number matters, because with enough attempts some candidate wins by chance.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from harness.board.leaderboard import Board
from harness.board.submission import Submission, candidate_key
from harness.core.errors import LlmbenchError
from harness.core.events import Done, RunEvent
from harness.core.project import Project, exists, read_text
from harness.core.runs import ABSENT, RunIdentity
from harness.core.schema import Count, Recipe, Sha256, Strict
from harness.core.track import Track, load_track, track_names
from harness.lab.arms import Arms, Entry, source_digests
from harness.lab.contest import Contest
from harness.lab.store import Observe
from harness.rule.criteria import Lane
from harness.rule.verdict import Stage

ATTEMPTS = "attempts.jsonl"


@dataclass(frozen=True)
class Candidate:
    """A candidate as it was before its runs: what the user asked for, both recipes, and the digests of their code."""

    arms: Arms
    entry: Entry
    record_sources: Mapping[str, str]
    """Variant of the record -> digest of its file, in the order of the recipe."""
    sources: Mapping[str, str]

    @classmethod
    def read(cls, project: Project, arms: Arms, entry: Entry) -> Candidate:
        """Read the variants' present files. Raises LlmbenchError if a file is missing or not valid."""
        return cls(arms, entry, *(source_digests(project, recipe) for recipe in (arms.record, arms.candidate)))


class Met(Strict):
    """The record that an attempt was compared with, and what is needed to find the attempt's runs again."""

    stage: Stage
    record: Recipe
    """Recipe of the record that the candidate was compared with."""
    record_sources: dict[str, Sha256]
    entry: Entry


class Attempt(Strict):
    """One line of attempts.jsonl: a candidate with its verdict, or one invalid run of a candidate."""

    date: str
    """UTC time of the verdict or run. Lines from older versions of llmbench have only the date."""
    track_digest: Sha256
    holder: Count
    """Number of the submission that held the record; 0 if there was none."""
    recipe: str
    sources: dict[str, Sha256]
    decision: str
    reasons: tuple[str, ...]
    pairs: Count
    gain: float | None
    seed: Count | None = ABSENT
    """Seed of an invalid run; None for a verdict."""
    met: Met | None = ABSENT
    """What the candidate was compared with; None in lines from older versions of llmbench."""


class Judged(Strict):
    """The last verdict on a candidate against one record, by the screen or by the confirmation."""

    date: str
    """UTC time of the verdict. Submissions, and lines from older versions of llmbench, have only the date."""
    track: str
    track_digest: Sha256
    """Digest of the track's file, which names its version."""
    candidate: str
    record: str | None
    """Recipe of the record that the candidate was compared with; None in lines from older versions of llmbench."""
    lane: Lane | None
    stage: Stage | None
    decision: str
    reasons: tuple[str, ...]
    """Reason codes, the deciding ones first."""
    gain: float | None
    pairs: Count
    number: Count | None
    """Number of the submission that holds the verdict; None if it is not submitted."""
    state: str
    """State of the submitted record, such as `provisional`; empty if it is confirmed, or the candidate is no record."""
    here: bool
    """Whether the candidate was judged on this machine."""
    sources: dict[str, Sha256]
    record_sources: dict[str, Sha256] | None
    entry: Entry | None
    """What the user asked for; None if the candidate was not judged on this machine."""

    @property
    def contest(self) -> tuple[str | None, ...] | None:
        """A key that is the same for the screen and the confirmation of one candidate against one record.

        None if the record is unknown.
        """
        if self.record_sources is None:
            return None
        sources = map(candidate_key, (self.record_sources, self.sources))
        return self.track_digest, self.lane, self.record, self.candidate, *sources


def record_attempt(project: Project, board: Board, track: Track, candidate: Candidate, contest: Contest) -> None:
    """Append a line with a candidate's verdict to attempts.jsonl.

    A verdict that is due only to an invalid run is not appended, because `record_invalid` has already appended a line
    for that run.
    """
    invalid = any((run.status, run.recipe) == ("invalid", contest.arms.candidate) for run in contest.failed)
    if contest.verdict.pairs or not invalid:
        verdict = contest.verdict.model_dump(include={"decision", "reasons", "pairs", "gain"})
        _append(project, board, track, candidate, contest.verdict.stage, **verdict)


def record_invalid(project: Project, board: Board, track: Track, candidate: Candidate) -> Observe:
    """Returns a function that is given the events of runs, and appends a line for each invalid run of `candidate`."""

    def observe(run: RunIdentity, event: RunEvent) -> None:
        if (
            isinstance(event, Done)
            and event.result.status == "invalid"
            and not event.reused
            and run.recipe == candidate.arms.candidate
        ):
            screened = candidate.arms.has_screen(track.rule) and run.seed in track.seeds
            failed = {"decision": "rejected", "reasons": ("candidate_failed",), "pairs": 0, "gain": None}
            _append(project, board, track, candidate, "screen" if screened else "confirmation", seed=run.seed, **failed)

    return observe


def _append(project: Project, board: Board, track: Track, candidate: Candidate, stage: Stage, **fields: Any) -> None:
    holder, arms = board.holder(track), candidate.arms
    if holder is not None and holder.candidate.recipe == arms.candidate:
        return  # training the record's own recipe again is no attempt to beat it
    attempt = Attempt(
        date=datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        track_digest=track.digest,
        holder=holder.number if holder else 0,
        recipe=arms.candidate,
        sources=dict(candidate.sources),
        met=Met(stage=stage, record=arms.record, record_sources=dict(candidate.record_sources), entry=candidate.entry),
        **fields,
    )
    path = project.runs / track.name / ATTEMPTS
    line = attempt.model_dump_json() + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = path.read_bytes() if exists(path) else b""
        torn = bool(earlier) and not earlier.endswith(b"\n")  # a kill during a write can cut a line
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + line)
    except OSError as error:
        raise LlmbenchError(f"cannot write {path}: {error.strerror}; free space or fix the permissions") from error


def _read_attempts(project: Project, track: str) -> list[Attempt]:
    """This machine's attempts on a track, oldest first. Raises LlmbenchError if a line of the file is not valid."""
    path, found = project.runs / track / ATTEMPTS, []
    for number, line in enumerate(read_text(path).splitlines() if exists(path) else (), start=1):
        try:
            found.append(Attempt.model_validate_json(line))
        except ValidationError as error:
            raise LlmbenchError(f"{path}:{number}: this line cannot be read; restore or delete it") from error
    return found


def attempt_number(project: Project, board: Board, track: Track, sources: Mapping[str, str]) -> int:
    """Number of different candidates judged since the track's last record, including the one with code `sources`.

    Each candidate counts once, plus the largest number of invalid runs that it had on a single seed.
    """
    holder = board.holder(track)
    tried, invalid = board.attempts(track), Counter[tuple[str, int | None]]()
    for attempt in _read_attempts(project, track.name):
        if (attempt.track_digest, attempt.holder) == (track.digest, holder.number if holder else 0):
            key = candidate_key(attempt.sources)
            invalid[key, attempt.seed] += 1
            tried.add(key if attempt.seed is None else f"{key} invalid {invalid[key, attempt.seed]}")
    return len(tried - {candidate_key(sources)}) + 1


def attempt_sentence(number: int, arms: Arms, board: Board, track: Track) -> str:
    """The number of an attempt as text: `base+x: attempt 7 on pocket since submission 3, the present record`."""
    holder = board.holder(track)
    since = f"since submission {holder.number}, the present record" if holder else "before its first record"
    return f"{arms.candidate}: attempt {number} on {track.name} {since}"


def read_history(project: Project, board: Board, track: str | None = None) -> list[Judged]:
    """All verdicts of this machine and of all submissions, newest first; only those on `track` if it is given.

    If the same candidate was judged against the same record more than once, the list has only the last verdict of the
    screen and the last one of the confirmation. A passed screen is left out if a confirmation followed. Challenges
    (re-runs of a record) are not in the list, but they decide the state of a record, such as `provisional`. Raises
    LlmbenchError if a line of attempts.jsonl is not valid.
    """
    found: dict[Any, Judged] = {}
    logs = sorted(path.parent.name for path in project.runs.glob(f"*/{ATTEMPTS}"))
    for name in logs if track is None else (track,):
        for place, attempt in enumerate(_read_attempts(project, name)):
            one = _judged_here(attempt, name)
            key: Any = (name, place) if one.contest is None else (one.contest, one.stage)
            found.pop(key, None)  # so that a newer verdict also gets a later place in the list
            found[key] = one
    for submission in board.submissions:
        filed = _judged_by(submission, board.state(submission.number))
        if filed is None or track not in (None, filed.track):
            continue
        own = found.get((filed.contest, filed.stage))
        if own is not None and own.number is None and own.decision == filed.decision:
            found[filed.contest, filed.stage] = own.model_copy(update={"number": filed.number, "state": filed.state})
        else:
            found[filed.number] = filed
    confirmed = {one.contest for one in found.values() if one.stage == "confirmation"}
    judged = [one for one in found.values() if not (_waits(one) and one.contest in confirmed)]
    return sorted(judged, key=lambda one: (one.date, one.number or 0))[::-1]


def _waits(one: Judged) -> bool:
    return (one.stage, one.decision) == ("screen", "undecided")


def _judged_here(attempt: Attempt, track: str) -> Judged:
    met = attempt.met
    return Judged(
        **attempt.model_dump(include={"date", "track_digest", "sources", "decision", "reasons", "gain", "pairs"}),
        track=track,
        candidate=attempt.recipe,
        record=met.record if met else None,
        lane=met.entry.lane if met else None,
        stage=met.stage if met else None,
        number=None,
        state="",
        here=True,
        record_sources=met.record_sources if met else None,
        entry=met.entry if met else None,
    )


def _judged_by(submission: Submission, state: str) -> Judged | None:
    """A submission's verdict on its candidate; None if the submission is neither a record nor a negative result."""
    verdict, record = submission.verdict, submission.record
    if submission.kind not in ("record", "negative") or verdict is None or record is None:
        return None
    return Judged(
        **submission.model_dump(include={"date", "track", "track_digest", "lane", "number"}),
        **verdict.model_dump(include={"stage", "decision", "reasons", "gain", "pairs"}),
        candidate=submission.candidate.recipe,
        record=record.recipe,
        state=state,
        here=False,
        sources=submission.candidate.sources,
        record_sources=record.sources,
        entry=None,
    )


def judged_before(project: Project, board: Board, track: Track, candidate: Candidate) -> list[Judged]:
    """All verdicts on the code that `candidate` adds and removes, on this version of the track, newest first."""
    change = _change(candidate.record_sources, candidate.sources)
    return [
        one
        for one in read_history(project, board, track.name)
        if one.track_digest == track.digest
        and one.record_sources is not None
        and _change(one.record_sources, one.sources) == change
    ]


def _change(record: Mapping[str, str], candidate: Mapping[str, str]) -> tuple[str, str]:
    """Two keys: one for the code that the candidate adds to the record, one for the code that it removes.

    Variants that are in both recipes do not change the keys.
    """
    added = {name: digest for name, digest in candidate.items() if name not in record}
    removed = {name: digest for name, digest in record.items() if name not in candidate}
    return candidate_key(added), candidate_key(removed)


def find_unfiled(project: Project, board: Board, track: Track, entry: Entry) -> list[Judged]:
    """This machine's verdicts that are not submitted, on the candidate of `entry` and on this version of the track."""
    asked = (entry.added, entry.removed, entry.lane)
    return [
        one
        for one in read_history(project, board, track.name)
        if one.number is None
        and one.track_digest == track.digest
        and one.entry is not None
        and (one.entry.added, one.entry.removed, one.entry.lane) == asked
    ]


def unfiled_standings(project: Project, board: Board) -> dict[tuple[str, str], list[Judged]]:
    """(variant, digest of its file) -> this machine's verdicts on it that are not submitted, on the present tracks."""
    editions, found = set[str](), defaultdict[tuple[str, str], list[Judged]](list)
    for name in track_names(project):
        with suppress(LlmbenchError):  # a track that is not valid is reported by the command that needs it
            editions.add(load_track(project, name).digest)
    for one in read_history(project, board):
        if one.number is None and one.record_sources is not None and one.track_digest in editions:
            for variant in one.sources.items() ^ one.record_sources.items():
                found[variant].append(one)
    return found
