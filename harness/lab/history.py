"""Every attempt on a track is counted, wins, losses and failures alike: with enough attempts one wins by chance.

`runs/TRACK/attempts.jsonl` gets one line for each candidate that got a verdict on this machine, and one for each run
of a candidate that broke a probe's rule, as soon as it ended: deleting its file and trying again is another attempt.
Together with the board's negative results they give the number of an attempt.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from harness.board.leaderboard import Board
from harness.board.submission import candidate_key
from harness.core.errors import LlmbenchError
from harness.core.events import Done, RunEvent
from harness.core.project import Project, read_text
from harness.core.runs import ABSENT, RunIdentity
from harness.core.schema import Count, Sha256, Strict
from harness.core.track import Track
from harness.lab.arms import Arms
from harness.lab.contest import Contest
from harness.lab.store import Observe

ATTEMPTS = "attempts.jsonl"


class Attempt(Strict):
    """One candidate and its verdict, or one invalid run of it."""

    date: str
    track_digest: Sha256
    holder: Count
    """Number of the submission that held the record; 0 where nobody did."""
    recipe: str
    sources: dict[str, Sha256]
    decision: str
    reasons: tuple[str, ...]
    pairs: Count
    gain: float | None
    seed: Count | None = ABSENT
    """Of an invalid run; None for a verdict."""


def record_attempt(project: Project, board: Board, track: Track, contest: Contest, sources: Mapping[str, str]) -> None:
    """Append one candidate and its verdict to this machine's attempts; an invalid run is there already."""
    invalid = any((run.status, run.recipe) == ("invalid", contest.arms.candidate) for run in contest.failed)
    if contest.verdict.pairs or not invalid:
        verdict = contest.verdict.model_dump(include={"decision", "reasons", "pairs", "gain"})
        _append(project, board, track, recipe=contest.arms.candidate, sources=dict(sources), **verdict)


def record_invalid(project: Project, board: Board, track: Track, candidate: str) -> Observe:
    """An observer of a store that appends each invalid run of `candidate` as soon as it has ended."""

    def observe(run: RunIdentity, event: RunEvent) -> None:
        if (
            isinstance(event, Done)
            and event.result.status == "invalid"
            and not event.reused
            and run.recipe == candidate
        ):
            failed = {"decision": "rejected", "reasons": ("candidate_failed",), "pairs": 0, "gain": None}
            _append(project, board, track, recipe=run.recipe, sources=run.sources, seed=run.seed, **failed)

    return observe


def _append(project: Project, board: Board, track: Track, *, recipe: str, **fields: Any) -> None:
    holder = board.holder(track)
    if holder is not None and holder.candidate.recipe == recipe:
        return  # a record that is measured again is no attempt
    attempt = Attempt(
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        track_digest=track.digest,
        holder=holder.number if holder else 0,
        recipe=recipe,
        **fields,
    )
    path = project.runs / track.name / ATTEMPTS
    line = attempt.model_dump_json() + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = path.read_bytes() if path.exists() else b""
        torn = bool(earlier) and not earlier.endswith(b"\n")  # by a kill while it was written
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + line)
    except OSError as error:
        raise LlmbenchError(f"cannot write {path}: {error.strerror}; free space or fix the permissions") from error


def attempt_number(project: Project, board: Board, track: Track, sources: Mapping[str, str]) -> int:
    """The candidate's place among those since the track's last record, from 1.

    Its own earlier tries do not count, except where a run was invalid: each time that one seed was.
    """
    holder, path = board.holder(track), project.runs / track.name / ATTEMPTS
    tried, invalid = board.attempts(track), Counter[tuple[str, int | None]]()
    for number, line in enumerate(read_text(path).splitlines() if path.exists() else (), start=1):
        try:
            attempt = Attempt.model_validate_json(line)
        except ValidationError as error:
            raise LlmbenchError(f"{path}:{number} is broken; restore that line or delete it") from error
        if (attempt.track_digest, attempt.holder) == (track.digest, holder.number if holder else 0):
            key = candidate_key(attempt.sources)
            invalid[key, attempt.seed] += 1
            tried.add(key if attempt.seed is None else f"{key} invalid {invalid[key, attempt.seed]}")
    return len(tried - {candidate_key(sources)}) + 1


def attempt_sentence(number: int, arms: Arms, board: Board, track: Track) -> str:
    """`attempt 7 on pocket since record 3`."""
    holder = board.holder(track)
    since = f"since record {holder.number}" if holder else "before any record"
    return f"{arms.candidate}: attempt {number} on {track.name} {since}"
