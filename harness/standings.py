"""Where a track and a variant stand: what the board says of each."""

from __future__ import annotations

from collections import defaultdict

from harness.catalog import parse_recipe
from harness.errors import LlmbenchError
from harness.leaderboard import Board, make_row
from harness.project import Project
from harness.rows import Row
from harness.submission import Claim, Submission
from harness.track import Count, Strict, Track, load_track


class Standing(Strict):
    """What one submission says of a variant that it added to a record, or took out of it."""

    track: str
    number: Count
    """Of the submission."""
    kind: str
    state: str
    """Of a record: empty, `disputed` or `retracted`."""
    removed: bool
    """Whether the candidate was the record without this variant."""
    gain: float | None
    """What the verdict's gain is: nats per token, or the logarithm of a time ratio in the lane `speed`."""
    p_value: float | None
    holds: bool
    """Whether the variant is part of the recipe that holds the track's present edition."""


def holder_of(project: Project, board: Board, track: Track) -> Row | None:
    """The board's row of the submission that holds `track`; None where nobody opened its present edition."""
    holder = board.holder(track)
    return make_row(board, Claim(project.submissions / holder.folder_name, holder)) if holder else None


def standings(project: Project, board: Board) -> dict[str, list[Standing]]:
    """Variant -> what the board says of it, newest first; empty for a variant that was never judged."""
    found: dict[str, list[Standing]] = defaultdict(list)
    for submission in reversed(board.submissions):
        if submission.kind in ("record", "negative") and submission.record is not None:
            before, after = (set(parse_recipe(a.recipe)) for a in (submission.record, submission.candidate))
            for name in sorted(before ^ after):
                found[name].append(_standing(project, board, submission, name))
    return found


def _standing(project: Project, board: Board, submission: Submission, name: str) -> Standing:
    verdict = submission.verdict
    return Standing(
        track=submission.track,
        number=submission.number,
        kind=submission.kind,
        state=board.state(submission.number),
        removed=name not in submission.candidate.sources,
        gain=verdict.gain if verdict else None,
        p_value=verdict.p_value if verdict else None,
        holds=name in _held(project, board, submission.track),
    )


def _held(project: Project, board: Board, track: str) -> set[str]:
    """Variants of the recipe that holds the present edition of `track`; none of a track that is no more."""
    try:
        holder = board.holder(load_track(project, track))
    except LlmbenchError:
        return set()
    return set(parse_recipe(holder.candidate.recipe)) if holder else set()
