"""Reads the board, which is all submissions in the order of their numbers, and makes `leaderboard.csv` from them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from harness.board.metrics import metric_columns, rounded
from harness.board.readme import submission_markdown
from harness.board.rows import HOLDING, Row, format_csv, sections, with_board
from harness.board.submission import Claim, Submission, candidate_key, load_submission
from harness.core.errors import LlmbenchError
from harness.core.project import Project, read_text, submission_folders, write_changed
from harness.core.schema import Count, Strict
from harness.core.track import Track, explain_validation, load_track
from harness.rule.criteria import Lane
from harness.rule.replication import Outcome, State, state_after
from harness.rule.scaling import Interval, compute_multiple
from harness.variants.recipe import parse_recipe, recipe_sources

_EFFECTS: dict[Outcome, str] = {"confirmed": "confirms {}", "refuted": "refutes {}", "open": "leaves {} open"}
"""Outcome of a challenge (a re-run of a record) -> its text on the board. The record's number replaces the braces."""


def _edition(of: Track | Submission) -> tuple[str, str]:
    """Name of the track and digest of its file, which together identify a version of the track."""
    return (of.name, of.digest) if isinstance(of, Track) else (of.track, of.track_digest)


class Board:
    """The submissions of a checkout, sorted by their numbers: all of them, or only those before a certain number."""

    def __init__(self, submissions: Iterable[Submission]) -> None:
        self.submissions = tuple(sorted(submissions, key=lambda submission: submission.number))

    def holder(self, of: Track | Submission, *, without: Lane | None = None) -> Submission | None:
        """The submission that is now the record on this version of a track; None if this version has no submissions.

        It is the newest record that is not retracted or, if there is none, the submission of the base, the recipe
        without ideas. Records of the lane `without` are skipped. If a record is retracted, the later records stay
        valid, because their runs show that they beat its recipe.
        """
        edition = _edition(of)
        for submission in reversed(self.submissions):
            holding = submission.kind in HOLDING and _edition(submission) == edition
            if holding and submission.lane != without and self.state(submission.number) != "retracted":
                return submission
        return None

    def has_held(self, of: Track | Submission, sources: Mapping[str, str]) -> bool:
        """Whether a recipe with this code is, or once was, the record on this version of a track."""
        own = [s.candidate.sources for s in self.submissions if s.kind in HOLDING and _edition(s) == _edition(of)]
        return candidate_key(sources) in map(candidate_key, own)

    def challenges(self, number: int) -> list[Submission]:
        """The challenges (re-runs) of record `number`, in the order in which they were submitted."""
        return [s for s in self.submissions if s.challenge is not None and s.challenge.number == number]

    def state(self, number: int) -> State:
        """State of record `number`, such as `provisional`. Empty if the record is confirmed, or if `number` is no
        record."""
        found = self.find(number)
        if found is None or found.kind != "record":
            return ""
        return state_after([s.challenge.outcome for s in self.challenges(number) if s.challenge is not None])

    def confirmation(self, number: int) -> Submission | None:
        """The newest re-run that confirmed record `number`; None if none did. The board shows its gain."""
        found = [s for s in self.challenges(number) if s.challenge is not None and s.challenge.outcome == "confirmed"]
        return found[-1] if found else None

    def standing(self, of: Track | Submission, lane: Lane) -> Submission | None:
        """The submission that a candidate in this lane must beat; None if this version of a track has no submissions.

        It is the present record. The lane simplicity accepts a slightly worse loss for less code, so a candidate in the
        lane simplicity must beat the newest record of the other lanes. Otherwise each record could be slightly worse
        than the record before it, and after many records the loss much worse.
        """
        return self.holder(of, without="simplicity" if lane == "simplicity" else None)

    def editions(self, track: str) -> list[str]:
        """Digests of all versions of the track that have submissions, the oldest version first."""
        return [s.track_digest for s in self.submissions if s.kind == "opening" and s.track == track]

    def edition(self, track: str) -> str | None:
        """Digest of the newest version of the track that has submissions; None if no version has any submissions."""
        return next(reversed(self.editions(track)), None)

    def attempts(self, of: Track | Submission) -> set[str]:
        """Keys (digests of the code) of the candidates submitted since the present record. Candidates of retracted
        records count too."""
        holder, edition = self.holder(of), _edition(of)
        since = [s for s in self.submissions if holder is None or s.number > holder.number]
        tried = [s for s in since if s.kind in ("negative", "record") and _edition(s) == edition]
        return {candidate_key(s.candidate.sources) for s in tried}

    def find(self, number: int) -> Submission | None:
        """The submission with that number; None if there is none."""
        return next((submission for submission in self.submissions if submission.number == number), None)

    def refuse_copy(self, new: Submission) -> None:
        """Raises LlmbenchError if an earlier submission has the same runs and the same lane.

        Retracted submissions are skipped, because another check refuses a submission that uses their runs.
        """
        for old in self.submissions:
            if self.state(old.number) == "retracted" or _edition(old) != _edition(new):
                continue
            if (old.kind, old.lane, old.record, old.candidate) == (new.kind, new.lane, new.record, new.candidate):
                raise LlmbenchError(
                    f"these runs were already submitted, as {old.folder_name}, so there is nothing new to submit"
                )

    def before(self, number: int) -> Board:
        """The board that holds only the submissions before `number`."""
        return Board(submission for submission in self.submissions if submission.number < number)

    @property
    def next_number(self) -> int:
        return self.submissions[-1].number + 1 if self.submissions else 1


def read_board(project: Project) -> Board:
    """Read all submissions. Raises LlmbenchError if a submission has wrong or missing fields, or if two submissions
    have the same number."""
    return make_board(load_submission(folder) for folder in submission_folders(project))


def make_board(submissions: Iterable[Submission]) -> Board:
    """The board of all submissions of a checkout. Raises LlmbenchError if two submissions have the same number."""
    board = Board(submissions)
    for one, other in itertools.pairwise(board.submissions):
        if one.number == other.number:
            raise LlmbenchError(
                f"two submissions have the number {one.number}; delete the folder of the later one, and submit its "
                f"result again with `llmbench submit`"
            )
    return board


def make_row(board: Board, claim: Claim) -> Row:
    """The row of one submission in `leaderboard.csv`. Raises LlmbenchError if a run of the submission cannot be
    read."""
    submission, again = claim.submission, claim.submission.challenge
    confirmed = board.confirmation(submission.number)
    headline = (confirmed or submission).verdict
    return Row(
        number=submission.number,
        date=submission.date,
        track=submission.track,
        track_digest=submission.track_digest[:12],
        kind=submission.kind,
        state=board.state(submission.number) if again is None else _EFFECTS[again.outcome].format(again.number),
        lane=submission.lane,
        recipe=submission.candidate.recipe,
        beaten=submission.record.recipe if submission.record else "",
        confirmed_by=confirmed.number if confirmed else None,
        pairs=headline.pairs if headline else 0,
        **{name: rounded(getattr(headline, name, None)) for name in ("gain", "ci_low", "ci_high")},
        p_value=float(f"{headline.p_value:.3g}") if headline and headline.p_value is not None else None,
        statements=submission.candidate.statements,
        folder=submission.folder_name,
        **metric_columns(claim.finished["record"], claim.finished["candidate"], submission.verdict),
    )


def make_rows(project: Project) -> list[Row]:
    """The rows of `leaderboard.csv`, made from all submissions."""
    board = read_board(project)
    return [make_row(board, Claim(project.submissions / s.folder_name, s)) for s in board.submissions]


def rebuild(project: Project) -> list[Row]:
    """Write `leaderboard.csv` and the board in README.md anew from the submissions."""
    rows = make_rows(project)
    write_changed(project.leaderboard, format_csv(rows))
    if project.readme.exists():
        write_changed(project.readme, with_board(read_text(project.readme), rows, compute_multiples(project, rows)))
    return rows


class Curve(Strict):
    """The losses of the base recipe on several sizes of a track (smaller and larger models), as `llmbench ladder
    --save` writes them to a file."""

    compute: float
    """Number of floating-point operations of one training run on the track itself."""
    points: tuple[tuple[float, float], ...]
    """(compute, mean val loss in nats per token), for each size."""


def curve_path(project: Project, track: str) -> Path:
    return project.root / "benchmarks" / "ladder" / track / "curve.json"


def compute_multiples(project: Project, rows: Sequence[Row]) -> dict[str, float]:
    """Track -> factor by which the base's compute must grow until the base reaches the record's loss.

    The factor is computed from the base's losses on several sizes of the track. A track is left out if these losses are
    not stored, or if the track's record is better than the base on every size.
    """
    found = {}
    for track, title, (holder, *_) in sections(rows):
        path = curve_path(project, track)
        if title != "records" or holder.val_loss is None or not path.exists():
            continue
        try:
            curve = Curve.model_validate_json(read_text(path))
        except ValidationError as error:
            raise LlmbenchError(f"{path} is not valid ({explain_validation(error)}); restore it from git") from error
        start = dict(curve.points).get(curve.compute)
        if start is None:
            raise LlmbenchError(f"{path} does not contain the base's loss on {track}; restore the file")
        if holder.val_loss < min(loss for _, loss in curve.points):
            continue
        gain = start - holder.val_loss
        found[track] = compute_multiple(curve.points, curve.compute, Interval(gain, gain, gain)).value
    return found


class Standing(Strict):
    """What one submission shows about a variant that it added to the record or removed from the record."""

    track: str
    number: Count
    """The submission's number."""
    kind: str
    state: State
    removed: bool
    """Whether the submission removed the variant from the record."""
    confirmed_by: Count | None
    """Number of the newest re-run that confirmed this record. Gain and p-value are then those of the re-run."""
    gain: float | None
    """The verdict's gain in nats per token; in the lane `speed`, the logarithm of the time ratio record / candidate."""
    p_value: float | None
    holds: bool
    """Whether the variant is part of the present record of the track."""


def holder_row(project: Project, board: Board, track: Track) -> Row | None:
    """The row of the present record of `track`; None if the track, as its file is now, has no submissions."""
    holder = board.holder(track)
    return make_row(board, Claim(project.submissions / holder.folder_name, holder)) if holder else None


def standings(project: Project, board: Board) -> dict[str, list[Standing]]:
    """Variant -> one entry for each record or negative result that added or removed it, the newest first."""
    found: dict[str, list[Standing]] = defaultdict(list)
    held: dict[str, tuple[str, ...]] = {}
    for track in {submission.track for submission in board.submissions}:
        with suppress(LlmbenchError):  # the track's file was deleted
            holder = board.holder(load_track(project, track))
            held[track] = parse_recipe(holder.candidate.recipe) if holder else ()
    for submission in reversed(board.submissions):
        if submission.kind not in ("record", "negative") or submission.record is None:
            continue
        confirmed, after = board.confirmation(submission.number), {*parse_recipe(submission.candidate.recipe)}
        verdict = (confirmed or submission).verdict
        for name in sorted(after ^ {*parse_recipe(submission.record.recipe)}):
            standing = Standing(
                track=submission.track,
                number=submission.number,
                kind=submission.kind,
                state=board.state(submission.number),
                removed=name not in after,
                confirmed_by=confirmed.number if confirmed else None,
                gain=verdict.gain if verdict else None,
                p_value=verdict.p_value if verdict else None,
                holds=name in held.get(submission.track, ()),
            )
            found[name].append(standing)
    return found


def check_record_sources(project: Project, standing: Submission | None) -> None:
    """Raises LlmbenchError if a variant's file is no longer the one with which the record `standing` was trained."""
    if standing is None:
        return
    for name, source in recipe_sources(project, standing.candidate.recipe).items():
        if source.digest != standing.candidate.sources[name]:
            raise LlmbenchError(
                f"models/variants/{name}.py has changed since the record {standing.folder_name} was trained with it; "
                f"restore the file, and put your change into a new variant"
            )


def rebuild_texts(project: Project) -> list[Row]:
    """Rewrite all texts that are made from runs: the README of each submission, leaderboard.csv, and the board in
    README.md."""
    for submission in read_board(project).submissions:
        claim = Claim(project.submissions / submission.folder_name, submission)
        text = submission_markdown(submission, *claim.finished.values())
        write_changed(claim.folder / "README.md", text)
    return rebuild(project)
