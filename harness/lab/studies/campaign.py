"""Judges many candidates against one record: screens all, then confirms those that passed, the best first.

It can submit the results. If a new record is submitted meanwhile, the unfinished candidates are screened again against
the new record; dropped candidates stay dropped. All state is in `runs/`, so that the same command continues a campaign
that was killed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from harness.board.leaderboard import check_record_sources, read_board
from harness.board.readme import plural
from harness.board.rows import HOLDING
from harness.board.submission import candidate_key
from harness.core.errors import LlmbenchError, RejectedError
from harness.core.events import RunEvent
from harness.core.project import exists, read_text, sha256, write_atomic
from harness.core.runs import RunIdentity
from harness.core.schema import Count, Sha256, Strict
from harness.lab import submit as filing
from harness.lab.arms import Entry, choose_arms, record_recipe
from harness.lab.contest import Contest, run_stage
from harness.lab.history import Candidate, judged_before, read_history, record_attempt, record_invalid
from harness.lab.store import Observe, RunStore, only_one
from harness.lab.studies.pace import Pace
from harness.lab.studies.screening import BEFORE, GOES_ON, Contestant, Screening
from harness.variants.recipe import parse_recipe

Tell = Callable[[str], None]
"""Called with a line of text for the user."""


class Begun(Strict):
    """State of a campaign that has not ended, as it is written to a file."""

    asked: str
    track_digest: Sha256
    since: Count
    """Number of the submission that held the record when the campaign began; 0 for none. Candidates that were dropped
    since then stay dropped."""


class Campaign:
    """One campaign; `contestants` holds the progress of each candidate."""

    def __init__(
        self,
        store: RunStore,
        names: Sequence[str],
        entry: Entry,
        *,
        asked: str = "",
        files: bool = False,
        budget_s: float | None = None,
        tell: Tell = lambda line: None,
    ) -> None:
        """Prepare to judge each of the variants `names` by itself, with the options of `entry`.

        `asked` identifies this campaign among the campaigns on the track. With `files`, results are submitted. No run
        is started that would end later than `budget_s` seconds from now. Raises LlmbenchError if results cannot be
        submitted, because the track has no record yet, or states no digests of its tokens.
        """
        self.store = replace(store, observe=self._observe)
        self.project, self.track = store.project, store.track
        self.files, self.tell, self._shown = files, tell, store.observe
        self.board = read_board(self.project)
        if files:
            filing.require_pinned(self.track)
            filing.require_holder(self.board, self.track)
        added = [entry.model_copy(update={"added": (name,)}) for name in names]
        self.contestants = [Contestant(*each) for each in zip(names, added, strict=True)]
        self.record = record_recipe(self.board, self.track)
        self._ledgers = dict[str, Observe]()
        self.out_of_time = False
        self._folders, self._faced = self._list_folders(), self._holder_number()
        key = sha256(asked.encode())[:8]
        self._begun = self.project.runs / self.track.name / f"campaign-{key}.json"
        self._since = self._begin(asked)
        self._pace = Pace(self.store, budget_s)

    # --- the course of a campaign --------------------------------------------------------------------------------

    def run(self) -> None:
        """Judge all candidates.

        An unexpected exception with one candidate is stored as its `crash`; the caller raises it at the end. Raises
        InterruptedRunError on Ctrl-C or SIGTERM, UndecidedError if a run of the record has no score.
        """
        while self._goes_on():
            self._face_record()
            if not self._screen() and not self._confirm():
                break
        if not any(one.state in ("waiting", "screening", "passed") for one in self.contestants):
            self._begun.unlink(missing_ok=True)
        self._has_moved()  # reads the board again if it has changed
        self.record = record_recipe(self.board, self.track)

    def _goes_on(self) -> list[Contestant]:
        return [one for one in self.contestants if one.state in GOES_ON]

    def _face_record(self) -> None:
        """Prepare unfinished candidates for the present record. End those on which an older verdict is still valid."""
        check_record_sources(self.project, self.board.standing(self.track, "loss"))
        before, self._faced = self._faced, self._holder_number()
        self.record = record_recipe(self.board, self.track)
        held = parse_recipe(self.record)
        if self._faced != before:
            left = f"{plural(len(self._goes_on()), 'candidate')} still to judge"
            self.tell(f"the record of {self.track.name} is now {self.record} (submission {self._faced:04d}); {left}")
        self._ledgers.clear()
        for one in self._goes_on():
            one.state, one.contest, one.screen = "waiting", None, None
            one.wanted, one.under_way = [], {}
            if one.name in held:
                self._end_in_record(one)
                continue
            with one.alone("unreadable"):
                one.candidate = Candidate.read(self.project, choose_arms(self.board, self.track, one.entry), one.entry)
                self._ledgers[one.met.arms.candidate] = record_invalid(self.project, self.board, self.track, one.met)
                self._recall(one)

    def _end_in_record(self, one: Contestant) -> None:
        """End a candidate that is part of the record: as accepted if it became a record since this campaign began."""
        for submission in self.board.submissions:
            new = (
                submission.kind == "record" and submission.track == self.track.name and submission.number > self._since
            )
            if new and submission.added_variants == [one.name]:
                history = read_history(self.project, self.board, self.track.name)
                one.earlier = tuple(judged for judged in history if judged.number == submission.number)
                one.submission = submission.folder_name
                one.end("accepted", BEFORE)
                return
        one.end("in_record", f"part of the record {self.record}")

    def _recall(self, one: Contestant) -> None:
        """End a candidate that was judged before. If its verdict must still be submitted, it goes on."""
        one.earlier = tuple(judged_before(self.project, self.board, self.track, one.met))
        present, met = candidate_key(one.met.record_sources), self._records_met(one)
        for judged in one.earlier:
            against = candidate_key(judged.record_sources or {})
            if judged.decision == "undecided" or judged.lane not in (None, "loss") or against not in met:
                continue
            if against == present and self.files and judged.number is None:
                return
            if against == present or judged.decision == "rejected":
                one.end("accepted" if judged.decision == "accepted" else "rejected", BEFORE)
                if judged.number is not None and (found := self.board.find(judged.number)):
                    one.submission = found.folder_name
                one.earlier = (judged, *(other for other in one.earlier if other is not judged))
                self._file(one)
                return

    def _screen(self) -> bool:
        """Screen the waiting candidates, then submit the rejected ones. Returns whether the record changed."""
        waiting = [one for one in self.contestants if one.state == "waiting"]
        if not waiting:
            return self._has_moved()
        if not waiting[0].met.arms.has_screen(self.track.rule):
            for one in waiting:
                one.end("passed")
            return False
        self.tell(
            f"screening {plural(len(waiting), 'candidate')} against {self.record} on {self.track.name}, "
            f"{self.store.jobs} runs at a time"
        )
        Screening(self.store, waiting, self._may_start, self._looked, lambda: self._pace.run_s).run()
        for one in waiting:
            self._file(one)
        return self._has_moved()

    def _confirm(self) -> bool:
        """Confirm the candidates that passed the screen, the largest gain minus price first, until the record changes.

        Returns whether the record changed.
        """
        survivors = [one for one in self.contestants if one.state == "passed"]
        for one in sorted(survivors, key=lambda one: -(one.screen.units or 0.0) if one.screen else 0.0):
            if self._has_moved():
                return True
            max_pairs = self._pace.affordable(one)
            if max_pairs == 0:
                self.out_of_time = True
                continue
            one.state, one.contest = "confirming", None
            self.tell(f"{one.name}: confirmation against {self.record}")
            with one.alone():
                one.contest = run_stage(
                    self.store, one.met.arms, "confirmation", max_pairs=max_pairs, announce=self._announcer(one)
                )
                one.contest = replace(one.contest, screen=one.screen)
                one.end(one.contest.verdict.decision)
            self._looked(one)
            self._file(one)
        return self._has_moved()

    def _announcer(self, one: Contestant) -> Callable[[Contest, int], None]:
        def announce(contest: Contest, look: int) -> None:
            one.contest = contest
            if contest.candidates:
                so_far = statistics.fmean(one.gains) if one.gains else 0.0
                self.tell(f"{one.name}: gain so far {so_far:+.4f}; its next decision needs {look} pairs")

        return announce

    # --- outcomes ------------------------------------------------------------------------------------------------

    def _looked(self, one: Contestant) -> None:
        """Called after each new pair of a candidate and at its end. Prints the candidate's state, saves its verdict."""
        gains, verdict = one.gains, one.contest.verdict if one.contest else None
        so_far = f"gain {statistics.fmean(gains):+.4f} over {plural(len(gains), 'pair')}" if gains else "no pair yet"
        if one.state in GOES_ON and one.state != "passed":
            self.tell(f"{one.name}: {so_far}")
            return
        why = f" ({verdict.reasons[0]})" if verdict else ""
        self.tell(f"{one.name}: {one.state}{why}, {so_far}" if not one.note else f"{one.name}: {one.state}: {one.note}")
        if one.contest is None or verdict is None or one.state in ("refused", "crashed"):
            return
        key = (candidate_key(one.met.record_sources), verdict.stage, verdict.decision, verdict.reasons)
        before = {
            (candidate_key(judged.record_sources or {}), judged.stage, judged.decision, judged.reasons)
            for judged in one.earlier
        }
        if key not in before:
            record_attempt(self.project, self.board, self.track, one.met, one.contest)

    def _file(self, one: Contestant) -> None:
        """Submit a new result. If the record has changed, an accepted candidate is screened against it instead."""
        if not self.files or one.submission or one.state not in ("accepted", "rejected"):
            return
        lock, rejected = self.project.runs / self.track.name / ".filing.lock", one.state == "rejected"
        with (
            one.alone(one.state),
            only_one(
                lock,
                lambda: self.tell("another llmbench process is submitting a result; waiting until it has finished"),
            ),
        ):
            if self._has_moved() and not rejected:
                one.state = "waiting"
                return
            if found := self._filed(one):
                one.submission = found
                return
            entry, arms, judged = filing.find_contest(
                self.project, self.board, self.track, one.entry, negative=rejected
            )
            try:
                filed = filing.file_candidate(self.store, self.board, entry, arms, judged, self.tell, negative=rejected)
            except RejectedError as error:  # a candidate without a score
                one.note = f"not submitted: {error}"
                return
            submission, _ = filing.write_submission(self.project, self.track, filed, None)
            one.submission, one.note = submission.folder_name, BEFORE if one.note == BEFORE else ""
            self.tell(f"{one.name}: submitted as submissions/{one.submission}")

    def _filed(self, one: Contestant) -> str:
        """Folder name of the submission with this result; empty if there is no such submission."""
        met = self._records_met(one)
        for judged in judged_before(self.project, self.board, self.track, one.met):
            same = candidate_key(judged.record_sources or {}) in met and judged.decision == one.state
            if same and judged.number is not None and (found := self.board.find(judged.number)):
                return found.folder_name
        return ""

    # --- the board -----------------------------------------------------------------------------------------------

    def _records_met(self, one: Contestant) -> set[str]:
        """Keys of the record that the candidate is compared with, and of all records since the campaign began."""
        edition = (self.track.name, self.track.digest)
        held = [
            submission.candidate.sources
            for submission in self.board.submissions
            if submission.kind in HOLDING
            and (submission.track, submission.track_digest) == edition
            and submission.number >= self._since
        ]
        return {candidate_key(one.met.record_sources), *map(candidate_key, held)}

    def _has_moved(self) -> bool:
        """Whether the track now has another record than the one that candidates are compared with."""
        if (folders := self._list_folders()) != self._folders:
            with suppress(LlmbenchError):  # a folder that is still being written
                self.board = read_board(self.project)
                self._folders = folders
        return self._holder_number() != self._faced

    def _list_folders(self) -> list[str]:
        return sorted(path.name for path in self.project.submissions.glob("[0-9]*"))

    def _holder_number(self) -> int:
        holder = self.board.holder(self.track)
        return holder.number if holder else 0

    def _begin(self, asked: str) -> int:
        """Number of the submission that held the record when this campaign began, perhaps in an earlier command."""
        begun = Begun(asked=asked, track_digest=self.track.digest, since=self._faced)
        if exists(self._begun):
            with suppress(ValueError):
                kept = Begun.model_validate_json(read_text(self._begun))
                if kept.track_digest == begun.track_digest:
                    if kept.since != begun.since:
                        self.tell(
                            f"continuing the campaign that began when submission {kept.since:04d} held the record; "
                            f"candidates that it dropped stay dropped; to judge all again, delete {self._begun}"
                        )
                    return kept.since
        write_atomic(self._begun, begun.model_dump_json() + "\n")
        return begun.since

    def _observe(self, run: RunIdentity, event: RunEvent) -> None:
        self._shown(run, event)
        if run.recipe in self._ledgers:
            self._ledgers[run.recipe](run, event)
        self._pace.observe(event)

    def _may_start(self) -> bool:
        """Whether another run of a screen may start: it would end in time, and the record has not changed."""
        self.out_of_time = self.out_of_time or not self._pace.has_time(1)
        return not self.out_of_time and not self._has_moved()

    def seconds_left(self) -> float:
        """Estimate of the seconds that the campaign still takes."""
        return self._pace.seconds_left(self.contestants)
