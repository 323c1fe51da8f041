"""What the pages show: the board's lines, a track's rule in plain words, all of one submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.board.leaderboard import Board, make_rows, read_board
from harness.board.metrics import Comparison, compare
from harness.board.readme import evidence, verdict_sentence
from harness.board.rows import Row
from harness.board.submission import ArmName, Claim, Submission, frozen_source, load_frozen_track, load_runs
from harness.core.errors import LlmbenchError
from harness.core.project import Project, read_text
from harness.core.runs import FailedRun, FinishedRun
from harness.core.track import Track, load_track, track_names
from harness.rule.reasons import explain
from harness.rule.verdict import Verdict
from harness.show.describe import track_facts
from harness.show.plots import change_of
from harness.variants.source import VARIANT_NAME

ARMS: tuple[ArmName, ...] = ("record", "candidate")


PLOT_WIDTH = 96  # pixels of the interval's picture in a board


@dataclass(frozen=True)
class Interval:
    """A gain and its interval as places on a line, in pixels from its left end."""

    low: float
    gain: float
    high: float
    zero: float


@dataclass(frozen=True)
class SeedLine:
    """Both arms of one seed; a run that is not there or has no score is None."""

    seed: int
    record: FinishedRun | None
    candidate: FinishedRun | None
    failure: str

    @property
    def gain(self) -> float | None:
        """Val loss, record minus candidate, nats per token."""
        if self.record is None or self.candidate is None:
            return None
        return self.record.evaluation.val_loss - self.candidate.evaluation.val_loss


@dataclass(frozen=True)
class SubmissionPage:
    """One submission with everything that is recomputed from its runs. Nothing that it only states is shown."""

    project: Project
    board: Board
    submission: Submission
    row: Row
    track: Track
    """As it was when the claim was made."""
    verdict: Verdict | None
    runs: Mapping[str, Sequence[FinishedRun | FailedRun]]
    """Arm -> its runs in the order of their seeds."""

    @property
    def page(self) -> str:
        return f"submissions/{self.row.folder}.html"

    @property
    def picture(self) -> str | None:
        """The learning curves; None where a run has none."""
        curves = [run.training.curve for runs in self.finished.values() for run in runs]
        return f"submissions/{self.row.folder}.svg" if curves and all(curves) else None

    @property
    def change(self) -> str:
        return f"{change_of(self.row)} again" if self.row.kind == "challenge" else change_of(self.row)

    @property
    def result(self) -> str:
        """What a reader filters by."""
        return "retracted" if self.row.state == "retracted" else self.row.kind

    @property
    def outdated(self) -> bool:
        """Whether its track has a later edition."""
        edition = self.board.edition(self.row.track)
        return edition is not None and not edition.startswith(self.row.track_digest)

    @property
    def holds(self) -> bool:
        """Whether its candidate is the record of its edition."""
        holder = self.board.holder_of(self.submission.track, self.submission.track_digest)
        return holder is not None and holder.number == self.row.number

    @property
    def challenges(self) -> list[Submission]:
        return self.board.challenges(self.row.number)

    @property
    def finished(self) -> dict[str, list[FinishedRun]]:
        """Arm -> its runs that have a score; arms without any are left out."""
        arms = {arm: [run for run in runs if isinstance(run, FinishedRun)] for arm, runs in self.runs.items()}
        return {arm: runs for arm, runs in arms.items() if runs}

    @property
    def curves(self) -> list[tuple[str, list[FinishedRun]]]:
        """(recipe, runs) of each arm, for the picture."""
        recipes = {"record": self.row.beaten, "candidate": self.row.recipe}
        return [(recipes[arm], runs) for arm, runs in self.finished.items()]

    @property
    def sentence(self) -> str:
        """What was decided, and why, in words."""
        if self.verdict is None:
            return f"{self.row.recipe} opens the track {self.row.track}: no record to compare with."
        return verdict_sentence(self.verdict).partition(": ")[2]

    @property
    def added_statements(self) -> int:
        """Statements beyond the record's, counted on the frozen sources."""
        return self.verdict.added_statements if self.verdict else 0

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(code, explain(code)) for code in self.verdict.reasons] if self.verdict else []

    @property
    def evidence(self) -> list[tuple[str, str]]:
        return evidence(self.verdict) if self.verdict else []

    @property
    def comparisons(self) -> list[Comparison]:
        """The Without / With table over the pairs that the verdict used."""
        used = self.verdict.pairs if self.verdict else 0
        arms = self.finished
        return compare(arms["record"][:used], arms["candidate"][:used]) if used and len(arms) == 2 else []

    @property
    def seeds(self) -> list[SeedLine]:
        by_arm = {arm: {run.seed: run for run in runs} for arm, runs in self.runs.items()}
        lines = []
        for seed in dict.fromkeys(run.seed for runs in self.runs.values() for run in runs):
            both = {arm: runs.get(seed) for arm, runs in by_arm.items()}
            failed = [run for run in both.values() if isinstance(run, FailedRun)]
            failure = "; ".join(f"{run.recipe} {run.status}: {run.reason}" for run in failed)
            record, candidate = (run if isinstance(run := both.get(arm), FinishedRun) else None for arm in ARMS)
            lines.append(SeedLine(seed, record, candidate, failure))
        return lines

    @property
    def shown(self) -> list[str]:
        """Variants whose source stands on this page: those that no earlier submission brought."""
        return [name for name, page in self._pages.items() if page in (None, self.page)]

    @property
    def linked(self) -> list[tuple[str, str]]:
        """(variant, page that shows its source) of the others."""
        return [(name, page) for name, page in self._pages.items() if page not in (None, self.page)]

    @property
    def _pages(self) -> dict[str, str | None]:
        """Variant -> page of the first submission whose candidate had this very text and whose record had not."""
        found = {}
        for name, digest in self.submission.candidate.sources.items():
            if not VARIANT_NAME.match(name):
                raise LlmbenchError(f"submissions/{self.row.folder}: '{name}' is no name of a variant; fix sources")
            brought = (
                f"submissions/{other.folder_name}.html"
                for other in self.board.submissions
                if other.candidate.sources.get(name) == digest
                and (other.record is None or other.record.sources.get(name) != digest)
            )
            found[name] = next(brought, None)
        return found

    def source(self, variant: str) -> str:
        """A variant's frozen file."""
        return read_text(frozen_source(self.project.submissions / self.row.folder, variant))

    def source_name(self, variant: str) -> str:
        return f"submissions/{self.row.folder}/sources/{variant}.py"


@dataclass(frozen=True)
class TrackPage:
    """One track and what was submitted to it, newest first."""

    track: Track
    submissions: tuple[SubmissionPage, ...]

    @property
    def page(self) -> str:
        return f"tracks/{self.track.name}.html"

    @property
    def current(self) -> list[SubmissionPage]:
        """Those of the edition that was opened last."""
        return [page for page in self.submissions if not page.outdated]

    @property
    def history(self) -> str | None:
        """The picture of the record's way; None where there is none to draw."""
        return f"tracks/{self.track.name}-history.svg" if any(c.row.val_loss for c in self.current) else None

    @property
    def cost(self) -> str | None:
        """The picture of what gains cost; None where no gain was measured in nats."""
        priced = [c for c in self.current if c.row.kind != "challenge" and c.row.lane != "speed"]
        return f"tracks/{self.track.name}-cost.svg" if any(c.row.gain is not None for c in priced) else None

    @property
    def holder(self) -> SubmissionPage | None:
        return next((page for page in self.current if page.holds), None)

    @property
    def opening(self) -> SubmissionPage | None:
        return next((page for page in self.current if page.row.kind == "opening"), None)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What `llmbench tracks NAME` says, (name, value) a line."""
        return track_facts(self.track)

    @property
    def rule(self) -> list[tuple[str, str]]:
        return rule_in_words(self.track)

    @cached_property
    def intervals(self) -> dict[int, Interval]:
        """Number -> its interval; all of a track on one scale. Gains of the lane `speed` are times and have none."""
        found = {}
        for page in self.submissions:
            row = page.row
            if row.lane != "speed" and row.gain is not None and row.ci_low is not None and row.ci_high is not None:
                found[row.number] = (row.ci_low, row.gain, row.ci_high, 0.0)
        low = min((min(values) for values in found.values()), default=0.0)
        high = max((max(values) for values in found.values()), default=1.0)
        scale = (PLOT_WIDTH - 8) / ((high - low) or 1.0)
        return {
            number: Interval(*(round(4 + scale * (value - low), 1) for value in values))
            for number, values in found.items()
        }


def read_submissions(project: Project) -> list[SubmissionPage]:
    """Every submission, its numbers recomputed from its runs. Raises LlmbenchError where one is broken."""
    board, pages = read_board(project), []
    for submission, row in zip(board.submissions, make_rows(project), strict=True):
        folder = project.submissions / submission.folder_name
        pages.append(
            SubmissionPage(
                project=project,
                board=board,
                submission=submission,
                row=row,
                track=load_frozen_track(folder, submission),
                verdict=Claim(folder, submission).verdict,
                runs={arm: load_runs(folder, submission, arm) for arm in ARMS},
            )
        )
    return pages


def read_tracks(project: Project, submissions: Sequence[SubmissionPage]) -> list[TrackPage]:
    """All tracks, those that have submissions first. One that is gone from `tracks/` is shown as it was frozen."""
    loaded = {name: load_track(project, name) for name in track_names(project)}
    frozen = {page.track.name: page.track for page in submissions}
    pages = [
        TrackPage(track, tuple(page for page in reversed(submissions) if page.track.name == name))
        for name, track in sorted((frozen | loaded).items())
    ]
    return sorted(pages, key=lambda page: not page.submissions)


def rule_in_words(track: Track) -> list[tuple[str, str]]:
    """A track's rule for people: (what, sentence)."""
    rule = track.rule
    looks = " and ".join((", ".join(map(str, rule.looks[:-1])), str(rule.looks[-1])) if rule.looks[1:] else "")
    looks = looks or str(rule.looks[0])
    design = (
        "the difference of each pair is tested (paired t), because runs of one seed go up and down together here"
        if rule.design == "paired"
        else "the two arms are tested as two samples (Welch's t), which is right whatever the runs of a pair share"
    )
    return [
        (
            "A pair",
            f"The record and the candidate train with the same seed, on the same {track.budget.tokens:,} tokens in the "
            f"same order; every parameter that both have starts from the same value.",
        ),
        (
            "Looks",
            f"The verdict may fall after {looks} pairs. Each look spends a {100 * rule.alpha_look:.2g} % chance of a "
            f"false accept, all together {100 * rule.alpha:.2g} %; {design}.",
        ),
        (
            "Lane loss",
            f"The mean gain in val loss must be shown to exceed {rule.loss_per_statement:g} nats for each statement "
            f"that the candidate adds, and it may be at most {100 * rule.max_slowdown:g} % slower.",
        ),
        (
            "Lane speed",
            f"The training time must be shown to fall by more than {100 * rule.speed_per_statement:g} % for each added "
            f"statement, with a val loss shown to be within {rule.loss_tolerance:g} nats of the record's; all runs had "
            f"the machine to themselves.",
        ),
        (
            "Lane simplicity",
            f"Fewer statements, with a val loss shown to be within {rule.loss_tolerance:g} nats and a time within "
            f"{100 * rule.time_tolerance:g} % of the last record that won by its loss or its speed.",
        ),
        (
            "Stopping early",
            f"A look stops a candidate whose gain is too small for any later look, and its first run is given up after "
            f"{100 * rule.milestone:g} % of the steps where it is {rule.milestone_deficit:g} nats behind.",
        ),
    ]
