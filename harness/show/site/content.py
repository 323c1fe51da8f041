"""The content of the pages: the board, tracks with their rules, and single submissions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.board.leaderboard import Board, compute_multiples, make_row, read_board
from harness.board.metrics import Comparison, compare
from harness.board.rows import Row, change_of
from harness.board.submission import ArmName, Claim
from harness.core.project import Project
from harness.core.runs import FailedRun, FinishedRun, finished
from harness.core.track import Track, load_track, track_names
from harness.show.ideas import Idea, read_ideas

ARMS: tuple[ArmName, ...] = ("record", "candidate")
PLOT_WIDTH = 56  # width of a board's intervals in pixels, as in style.css


@dataclass(frozen=True)
class SubmissionPage:
    """The page of one submission. All numbers are recomputed from its runs; numbers in its files are not shown."""

    board: Board
    claim: Claim
    row: Row

    @property
    def runs(self) -> dict[ArmName, list[FinishedRun | FailedRun]]:
        """Arm (`record` or `candidate`) -> its runs, in the order of their seeds."""
        return self.claim.runs

    @property
    def page(self) -> str:
        return f"submissions/{self.row.folder}.html"

    @property
    def change(self) -> str:
        return f"{change_of(self.row)} again" if self.row.kind == "challenge" else change_of(self.row)

    @property
    def result(self) -> str:
        """The kind of result, by which a reader of the page can filter."""
        return "retracted" if self.row.state == "retracted" else self.row.kind

    @property
    def outdated(self) -> bool:
        """Whether the track has changed, so that the submission is on an earlier version of it."""
        edition = self.board.edition(self.row.track)
        return edition is not None and not edition.startswith(self.row.track_digest)

    @property
    def holds(self) -> bool:
        """Whether the submission is the present record of its version of the track."""
        holder = self.board.holder(self.claim.submission)
        return holder is not None and holder.number == self.row.number

    @property
    def finished(self) -> dict[ArmName, list[FinishedRun]]:
        """Arm (`record` or `candidate`) -> its runs that have a val loss. An arm without such runs is left out."""
        return {arm: scored for arm, runs in self.runs.items() if (scored := finished(runs))}

    @property
    def curves(self) -> list[tuple[str, list[FinishedRun]]]:
        """(recipe, runs) of record and candidate, for the learning curves; empty if a run has no curve."""
        if not all(run.training.curve for runs in self.finished.values() for run in runs):
            return []
        return [(self.row.beaten if arm == "record" else self.row.recipe, runs) for arm, runs in self.finished.items()]

    @property
    def comparisons(self) -> list[Comparison]:
        """The rows of the table Without / With: means of each metric over the pairs that the verdict used."""
        verdict, arms = self.claim.verdict, self.finished
        if verdict is None or not verdict.pairs or len(arms) < 2:
            return []
        return compare(*verdict.used(arms["record"], arms["candidate"]), timed=verdict.stage == "confirmation")

    @property
    def seeds(self) -> Mapping[int, Mapping[ArmName, FinishedRun | FailedRun]]:
        """Seed -> arm (`record` or `candidate`) -> the run of this arm with this seed."""
        found: dict[int, dict[ArmName, FinishedRun | FailedRun]] = defaultdict(dict)
        for arm, runs in self.runs.items():
            for run in runs:
                found[run.seed][arm] = run
        return found

    @cached_property
    def sources(self) -> dict[str, str]:
        """Variant -> page that shows its source: the page of the first submission that added this source."""
        found = {}
        for name, digest in self.claim.submission.candidate.sources.items():
            brought = (
                f"submissions/{other.folder_name}.html"
                for other in self.board.submissions
                if other.candidate.sources.get(name) == digest
                and (other.record is None or other.record.sources.get(name) != digest)
            )
            found[name] = next(brought, self.page)
        return found


@dataclass(frozen=True)
class TrackPage:
    """The page of one track, with the submissions to the track, newest first."""

    track: Track
    submissions: tuple[SubmissionPage, ...]
    ideas: tuple[Idea, ...]
    """Ideas that were judged on the newest version of the track, the largest gain first."""
    multiple: float | None
    """The base needs this many times the compute for the record's loss; None if the base's losses are not known."""

    @property
    def page(self) -> str:
        return f"tracks/{self.track.name}.html"

    @property
    def current(self) -> list[SubmissionPage]:
        """The submissions to the newest version of the track that has submissions."""
        return [page for page in self.submissions if not page.outdated]

    @property
    def history(self) -> str | None:
        """Path of the picture of the record over time; None if no submission has a loss."""
        return f"tracks/{self.track.name}-history.svg" if any(c.row.val_loss for c in self.current) else None

    @property
    def cost(self) -> str | None:
        """Path of the picture of gains against added statements; None if no gain was measured in nats."""
        priced = [c for c in self.current if c.row.kind != "challenge" and c.row.lane != "speed"]
        return f"tracks/{self.track.name}-cost.svg" if any(c.row.gain is not None for c in priced) else None

    @property
    def gains(self) -> str | None:
        """Path of the picture of all gains; None if no gain was measured in nats."""
        return f"tracks/{self.track.name}-ideas.svg" if self.cost is not None else None

    @property
    def holder(self) -> SubmissionPage | None:
        return next((page for page in self.current if page.holds), None)

    @property
    def opening(self) -> SubmissionPage | None:
        return next((page for page in self.current if page.row.kind == "opening"), None)

    @cached_property
    def intervals(self) -> dict[int, list[int]]:
        """Number of a submission -> pixels from the left to its interval's low end, its gain, the high end, and zero.

        All submissions to the track have the same scale. Submissions that claim a shorter time (lane `speed`) are left
        out, because their gains are not in nats.
        """
        found: dict[int, tuple[float, ...]] = {}
        for page in self.submissions:
            row = page.row
            if row.lane != "speed" and row.gain is not None and row.ci_low is not None and row.ci_high is not None:
                found[row.number] = (row.ci_low, row.gain, row.ci_high, 0.0)
        low, high = min(map(min, found.values()), default=0.0), max(map(max, found.values()), default=1.0)
        scale = (PLOT_WIDTH - 8) / ((high - low) or 1.0)
        return {number: [round(4 + scale * (value - low)) for value in values] for number, values in found.items()}


def read_submissions(project: Project) -> list[SubmissionPage]:
    """All submissions, with numbers recomputed from their runs. Raises LlmbenchError if a submission is not valid."""
    board = read_board(project)
    claims = [Claim(project.submissions / submission.folder_name, submission) for submission in board.submissions]
    return [SubmissionPage(board, claim, make_row(board, claim)) for claim in claims]


def read_tracks(project: Project, submissions: Sequence[SubmissionPage]) -> list[TrackPage]:
    """All tracks; tracks with submissions come first.

    A track that was removed from `tracks/` is read from a submission.
    """
    loaded = {name: load_track(project, name) for name in track_names(project)}
    frozen = {page.claim.track.name: page.claim.track for page in submissions}
    judged = [(page.claim, page.row) for page in submissions]
    ideas = read_ideas(project, submissions[0].board, judged) if submissions else {}
    multiples = compute_multiples(project, [page.row for page in submissions])
    pages = [
        TrackPage(
            track,
            tuple(page for page in reversed(submissions) if page.claim.track.name == name),
            tuple(ideas.get(name, ())),
            multiples.get(name),
        )
        for name, track in sorted((frozen | loaded).items())
    ]
    return sorted(pages, key=lambda page: not page.submissions)
