"""Checks each submission against those before it, and the tables of the board against all submissions.

All numbers are recomputed from the stored runs. A problem is one sentence that names a file and says what is wrong with
it. If a submission has no problems, its numbers follow from its runs. This does not prove that the runs were trained in
the way that their files state. To test this, train them again with `llmbench verify FOLDER --rerun`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from harness.board.challenge import challenge_problems
from harness.board.check_claim import evidence_problems, markdown_problems
from harness.board.flags import Flag, find_flags, read_case
from harness.board.leaderboard import Board, check_record_sources, compute_multiples, make_row, make_rows
from harness.board.rows import BOARD_END, BOARD_START, Row, format_csv, with_board
from harness.board.submission import Claim, Submission, candidate_key, load_submission
from harness.core.errors import LlmbenchError
from harness.core.project import Project, folder_number, read_bytes, read_text
from harness.core.track import load_track
from harness.rule.reasons import explain
from harness.variants.recipe import BASE


@dataclass(frozen=True)
class Checked:
    """The result of checking one folder of submissions/ or another file, such as leaderboard.csv."""

    problems: list[str]
    flags: list[Flag] = field(default_factory=list)
    """Unusual facts that a reviewer should look at. Only a submission without problems has flags."""
    row: Row | None = None
    """The submission's row on the board; None if its files cannot be read."""


def check_board(project: Project) -> dict[str, Checked]:
    """Check all submissions and their numbers, the tracks, `leaderboard.csv` and the board in README.md.

    Returns name of folder or file -> result.
    """
    board = readable_board(project)
    found = {folder.name: check_folder(project, folder, board) for folder in _folders(project)}
    rows = [checked.row for checked in found.values() if checked.row]
    numbers = [submission.number for submission in board.submissions]
    if numbers != list(range(1, len(numbers) + 1)):
        gap = next(place for place, number in enumerate(numbers, start=1) if place != number)
        twice = numbers[gap - 1]
        what, cure = f"{gap} is missing", "restore that submission"
        if twice < gap:
            what = f"{twice} is used twice"
            cure = "delete the folder of the later one, and submit its result again with `llmbench submit`"
        found["submissions"] = Checked([f"the submissions must have the numbers 1, 2, 3, ..., but {what}; {cure}"])
    for track in sorted({submission.track for submission in board.submissions}):
        found[f"tracks/{track}.toml"] = Checked(collect(_edition_problems(project, board, track)))
    sound = not any(checked.problems for checked in found.values())
    found[project.leaderboard.name] = Checked(collect(_table_problems(project, rows if sound else None)))
    return found


def readable_board(project: Project, until: Path | None = None) -> Board:
    """All submissions whose `submission.json` can be read or, with `until`, only the submissions up to the number of
    the folder `until`."""
    readable, last = [], folder_number(until) if until else None
    for folder in _folders(project):
        if last is None or (folder_number(folder) or 0) <= last:
            with suppress(LlmbenchError):
                readable.append(load_submission(folder))
    return Board(readable)


def _folders(project: Project) -> list[Path]:
    paths = project.submissions.iterdir() if project.submissions.is_dir() else ()
    visible = (path for path in paths if not path.name.startswith("."))
    return sorted(visible, key=lambda path: (folder_number(path) or 0, path.name))


def check_folder(project: Project, folder: Path, board: Board) -> Checked:
    """Check one submission: its own files, and whether it fits the submissions of `board` before it."""
    links = [path.relative_to(folder.parent) for path in (folder, *sorted(folder.rglob("*"))) if os.path.islink(path)]
    found = [f"{link} is a link; replace it with the file itself" for link in links]
    row, flags = None, []
    try:
        claim = Claim(folder, load_submission(folder))
        earlier = board.before(claim.submission.number)
        found.extend(evidence_problems(claim))
        found.extend(_standing_problems(claim, earlier))
        found.extend(challenge_problems(project, claim, earlier))
        if not found:  # the README is made from the numbers, so a wrong number would only be reported twice
            found.extend(markdown_problems(claim))
        row = make_row(board, claim)
        if not found:
            flags = find_flags(read_case(project, claim, earlier))
    except LlmbenchError as error:
        found.append(str(error))
    return Checked(found, flags, row)


def knowledge_of(project: Project, names: Iterable[str]) -> dict[str, float]:
    """Submission -> upper bound, in nats per token, on the gain that text of val stored in its new variants can give.

    Submissions without new variants are left out.
    """
    claims = [Claim(folder, load_submission(folder)) for folder in (project.submissions / name for name in names)]
    return {claim.folder.name: known for claim in claims if (known := claim.knowledge_nats) is not None}


def collect(problems: Iterator[str]) -> list[str]:
    """The problems as a list. If the iterator raises an LlmbenchError, the error's message is the last problem."""
    found: list[str] = []
    try:
        found.extend(problems)
    except LlmbenchError as error:
        found.append(str(error))
    return found


def _edition_problems(project: Project, board: Board, track: str) -> Iterator[str]:
    """Checks that the track's file is the version that the newest submissions use, and that the record's variants are
    unchanged."""
    current = load_track(project, track)
    if board.edition(track) != current.digest:
        yield (
            f"tracks/{track}.toml has changed since its baseline was submitted; restore the file, or start a new "
            f"board for the changed track with `llmbench run baseline --track {track}` and `llmbench submit "
            f"--baseline --track {track}`"
        )
    check_record_sources(project, board.holder(current))


def _table_problems(project: Project, checked: Sequence[Row] | None) -> Iterator[str]:
    """Checks that leaderboard.csv and the board in README.md are exactly what the submissions give.

    `checked` holds the rows of all submissions; it is None if another check failed. If it is None, the rows are made
    again, and an LlmbenchError is raised if a row cannot be made.
    """
    rows = make_rows(project) if checked is None else checked
    stored, rebuilt = read_bytes(project.leaderboard), format_csv(rows).encode()
    if stored != rebuilt:
        lines = enumerate(zip_longest(stored.splitlines(), rebuilt.splitlines()), start=1)
        place = next((f"line {number}" for number, (old, new) in lines if old != new), "its line ends")
        yield (
            f"{project.leaderboard.name} does not match the submissions (first difference: {place}); "
            f"run `llmbench leaderboard --rebuild`, and never edit this file by hand"
        )
    if project.readme.exists():
        text = read_text(project.readme)
        if text.count(BOARD_START) != 1 or text.count(BOARD_END) != 1:
            yield (
                f"README.md must contain exactly once each of the two comments that enclose the board, "
                f"`{BOARD_START.strip()}` and `{BOARD_END}`; restore them"
            )
        elif with_board(text, rows, compute_multiples(project, rows)) != text:
            yield "the board in README.md does not match the submissions; run `llmbench leaderboard --rebuild`"


def _standing_problems(claim: Claim, earlier: Board) -> Iterator[str]:
    """Checks that the submission was compared with the record at that time, and that its kind (record or negative
    result) fits its verdict."""
    submission = claim.submission
    name = submission.folder_name
    if submission.kind == "opening":
        yield from _opening_problems(claim, earlier)
    if submission.kind not in ("record", "negative"):
        return  # challenge.py checks which record a challenge repeats
    present = earlier.holder(submission)
    if submission.lane == "simplicity" and present and submission.candidate.statements >= present.candidate.statements:
        yield (
            f"{name}: not_simpler: in the lane simplicity a candidate must have fewer statements than the record, but "
            f"it has {submission.candidate.statements}, and the record {present.folder_name} has "
            f"{present.candidate.statements}"
        )
    if submission.record is None or submission.verdict is None:
        yield (
            f"{name}: a submission of the kind {submission.kind} must have runs of the record and a verdict; submit "
            f"the result again with `llmbench submit`"
        )
        return
    if stale := stale_problem(submission, earlier):
        yield stale
    others = earlier.attempts(submission) - {candidate_key(submission.candidate.sources)}
    if submission.attempt <= len(others):
        yield (
            f"{name}: attempt is {submission.attempt}, but {len(others)} other candidates were submitted since the "
            f"last record, so attempt must be {len(others) + 1} or more"
        )
    found = f"shown to lose on {submission.lost_on[0]}" if submission.lost_on else submission.verdict.decision
    if (submission.kind == "record") != (found == "accepted") or found == "undecided":
        said = f"it is {found}" if submission.lost_on else f"its verdict is {found}"
        yield f"{name}: its kind is {submission.kind}, but {said}; submit the result again with `llmbench submit`"


def _opening_problems(claim: Claim, earlier: Board) -> Iterator[str]:
    opening = claim.submission
    name, track = opening.folder_name, opening.track
    if opening.track_digest in earlier.editions(track):
        yield f"{name}: this version of {track} already has a first submission; remove this one"
    stated = opening.record, opening.verdict, opening.attempt, opening.lane, opening.candidate.recipe
    if stated != (None, None, 1, "loss", BASE):
        yield (
            f"{name}: the first submission of a track must have the base recipe, attempt 1 and the lane loss, "
            f"and neither a record nor a verdict"
        )
    if len(opening.candidate.runs) < (fewest := claim.track.rule.record_runs):
        yield f"{name} needs {fewest} seeds or more, because a later comparison may use that many runs of this record"


def stale_problem(submission: Submission, board: Board) -> str | None:
    """A sentence if the submission no longer fits `board`, for example because of a new record; None if it fits."""
    name, track, arm = submission.folder_name, submission.track, submission.record
    if arm is None or submission.kind not in ("record", "negative"):
        return None
    if board.edition(track) != submission.track_digest:
        return (
            f"{name} was measured on another version of {track} than the submissions on the present board; run the "
            f"candidate again"
        )
    if submission.kind == "negative" and board.has_held(submission, arm.sources):
        return None  # a negative result stays valid if the record changes
    holder = board.standing(submission, submission.lane)
    if holder is None:
        return f"{name}: this version of {track} has no board; first run `llmbench submit --baseline --track {track}`"
    if (holder.candidate.recipe, holder.candidate.sources) != (arm.recipe, arm.sources):
        return (
            f"{name}: stale_record: {explain('stale_record')} It was measured against "
            f"{arm.recipe}, but the record is now {holder.candidate.recipe} ({holder.folder_name})"
        )
    return None
