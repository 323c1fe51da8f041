"""Screens many candidates against one record: a cheap test on few seeds drops most of them.

First each candidate is trained on the first seed, then each remaining candidate on the second seed, and so on. This
order does not change the number of runs. But it shortens the end of a campaign, when few candidates remain and cores
would be idle. Decisions depend only on the results of the runs, not on which run ended first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from harness.core.errors import InterruptedRunError, LlmbenchError, UndecidedError
from harness.core.runs import FailedRun, RunIdentity
from harness.lab.arms import Entry
from harness.lab.contest import Contest, decide_stored, milestone_of
from harness.lab.history import Candidate, Judged
from harness.lab.store import RETRIED, Result, RunStore
from harness.referee.job import GiveUp
from harness.rule.verdict import Verdict

State = Literal[
    "waiting", "screening", "passed", "confirming", "accepted", "rejected", "undecided", "refused", "unreadable",
    "in_record", "crashed",
]  # fmt: skip
"""State of a candidate. `passed` means that it passed the screen; `accepted` and all states after it are final."""
BEFORE = "judged before"
"""Note for a verdict that is older than the campaign."""
AHEAD = 1 / 3
"""If a core is free, a candidate's next run may start before its unfinished run has shown whether the next one is
needed. This is done only if the unfinished run began less than this share of a run's time ago. About this share of the
candidates without a gain needs the next run."""
GOES_ON: tuple[State, ...] = ("waiting", "screening", "passed", "confirming")


@dataclass(eq=False)
class Contestant:
    """One variant that a campaign tests: its state, and its last verdict."""

    name: str
    entry: Entry
    state: State = "waiting"
    candidate: Candidate | None = None
    """The candidate and its record, as they were read from the files; None before that, and if a file is not valid."""
    contest: Contest | None = None
    """The runs and the verdict of the present stage, so far."""
    screen: Verdict | None = None
    """Verdict of the screen that the candidate passed."""
    earlier: tuple[Judged, ...] = ()
    """Older verdicts on the candidate, newest first."""
    note: str = ""
    """Why the candidate has no verdict, or why the verdict was not submitted."""
    submission: str = ""
    """Folder of the submission with the candidate's outcome."""
    crash: Exception | None = None
    wanted: list[int] = field(default_factory=list)
    """Seeds of the runs that the next decision needs and that have not started."""
    under_way: dict[int, float] = field(default_factory=dict)
    """Seed of each unfinished run -> its start on the monotonic clock, in seconds."""

    @property
    def met(self) -> Candidate:
        """The field `candidate`, for callers that know that it is not None."""
        assert self.candidate is not None
        return self.candidate

    @property
    def gains(self) -> list[float]:
        """The gain of each pair trained so far in the present stage: in the screen, or in the confirmation."""
        contest = self.contest
        if contest is None or contest.verdict.design == "stored":
            return []
        both = zip(contest.records, contest.candidates, strict=True)
        return [record.evaluation.val_loss - run.evaluation.val_loss for record, run in both]

    def end(self, state: State, note: str = "") -> None:
        """Set the contestant's state, so that the screen trains no further run of it."""
        self.state, self.note, self.wanted = state, note, []

    @contextmanager
    def alone(self, refused: State = "refused") -> Iterator[None]:
        """A context in which an error ends only the tests of this contestant, with the state `refused` or `crashed`.

        An interrupt or a disk error is raised, and so ends the tests of all contestants.
        """
        try:
            yield
        except InterruptedRunError:
            raise
        except LlmbenchError as error:
            if isinstance(error.__cause__, OSError):
                raise
            self.end(refused, str(error))
        except Exception as error:  # noqa: BLE001 - a bug with one candidate must not end the others
            self.crash = error
            self.end("crashed", f"{type(error).__name__}: {error}")


class Screening:
    """The screens of several contestants (variants that a campaign tests) against the same record."""

    def __init__(
        self,
        store: RunStore,
        contestants: Sequence[Contestant],
        may_start: Callable[[], bool],
        looked: Callable[[Contestant], None],
        usual_s: Callable[[], float],
    ) -> None:
        """Prepare the screens. `usual_s` returns how many seconds a run usually takes.

        `may_start` is called before each run, and says whether the run may start. `looked` is called with a contestant
        after each new pair of it, and when its screen ends.
        """
        self.store, self.may_start, self.looked, self.usual_s = store, may_start, looked, usual_s
        self.contestants = {contestant.met.arms.candidate: contestant for contestant in contestants}
        (self.record,) = {contestant.met.arms.record for contestant in contestants}
        self.seeds = list(store.track.seeds[: store.track.rule.screen_looks[-1]])
        self._record_runs = deque(store.identify(self.record, seed) for seed in self.seeds)
        self._open = False  # candidates start after the record's first run, with which their first run is compared

    def run(self) -> None:
        """Screen all contestants. If one has the state `screening` or `waiting` afterwards, `may_start` stopped it.

        Raises UndecidedError if a run of the record has no score, InterruptedRunError on Ctrl-C or SIGTERM.
        """
        self.store.feed(self._take, self._keep, self._milestone)

    def _take(self) -> RunIdentity | None:
        if self._record_runs:
            run = self._record_runs[0]
            return self._record_runs.popleft() if self._may(run) else None
        asked = self._needed() or self._ahead()
        if asked is None:
            return None
        place, contestant = asked
        seed = self.seeds[place]
        run = self.store.identify(contestant.met.arms.candidate, seed)
        if not self._may(run):
            return None
        contestant.wanted = [other for other in contestant.wanted if other != seed]
        contestant.under_way[seed] = time.monotonic()
        contestant.state = "screening"
        return run

    def _may(self, run: RunIdentity) -> bool:
        """Whether this run may start. A run that is stored already may always start, because it takes no time."""
        return not self._is_missing(run) or self.may_start()

    def _is_missing(self, run: RunIdentity) -> bool:
        found = self.store.find(run)
        return found is None or found.status in RETRIED

    def _needed(self) -> tuple[int, Contestant] | None:
        """The next run that a decision needs, as (index of its seed, contestant), lowest index first, or None."""
        waiting = [(self.seeds.index(one.wanted[0]), one) for one in self.contestants.values() if one.wanted]
        return min(waiting, key=lambda asked: asked[0], default=None)

    def _ahead(self) -> tuple[int, Contestant] | None:
        """A run that may be needed later, for a free core, as (index of its seed, contestant); None if there is none.

        The run is trained for nothing if an unfinished run of the same contestant already decides. The comment on AHEAD
        says when such a run may start.
        """
        found, latest = [], time.monotonic() - AHEAD * self.usual_s()
        for one in self.contestants.values():
            if one.state == "screening" and one.under_way and min(one.under_way.values()) > latest:
                found += [(self.seeds.index(seed), one) for seed in self._missing(one, self.seeds)[:1]]
        return min(found, key=lambda asked: asked[0], default=None)

    def _missing(self, contestant: Contestant, seeds: Sequence[int]) -> list[int]:
        """Those of `seeds` for which the contestant has neither a stored run nor one that is being trained."""
        recipe = contestant.met.arms.candidate
        missing = [seed for seed in seeds if self._is_missing(self.store.identify(recipe, seed))]
        return [seed for seed in missing if seed not in contestant.under_way]

    def _milestone(self, run: RunIdentity) -> GiveUp | None:
        contestant = self.contestants.get(run.recipe)
        return milestone_of(self.store, contestant.met.arms, run, self.seeds[0]) if contestant else None

    def _keep(self, run: RunIdentity, result: Result) -> None:
        if run.recipe == self.record:
            self._keep_record(result)
            return
        contestant = self.contestants[run.recipe]
        contestant.under_way.pop(run.seed, None)
        if contestant.state != "screening":  # it was decided before this run ended
            if isinstance(error := result.exception(), InterruptedRunError):
                raise error
            return
        with contestant.alone():
            result.result()
        if contestant.state == "screening":
            self._look(contestant)
        self.looked(contestant)

    def _keep_record(self, result: Result) -> None:
        made = result.result()
        if isinstance(made, FailedRun):
            raise UndecidedError(
                f"the record's run with seed {made.seed} has no val loss, so no candidate can be compared with it: "
                f"{made.status}: {made.reason}"
            )
        begins = not self._open and made.seed == self.seeds[0]
        self._open = self._open or begins
        if not self._open:
            return
        for contestant in self.contestants.values():
            waits = contestant.state in ("waiting", "screening") and not contestant.under_way and not contestant.wanted
            if waits:  # with this run there is one more pair
                self._look(contestant, begins=begins)
                if contestant.state not in ("waiting", "screening"):
                    self.looked(contestant)

    def _look(self, contestant: Contestant, *, begins: bool = False) -> None:
        """Test the pairs trained so far. Then note which runs the next decision needs, or end the screen.

        If `begins` is true, a run that was interrupted in an earlier command is trained again. If it is false and a run
        was interrupted, the contestant's screen ends.
        """
        with contestant.alone():
            contest = decide_stored(self.store, contestant.met.arms, "screen", self.seeds)
            verdict, contestant.contest = contest.verdict, contest
            if begins and "run_interrupted" in verdict.reasons:
                contestant.wanted = self._missing(contestant, self.seeds)[:1]
            elif contest.passed:
                contestant.screen = verdict
                contestant.end("passed")
            elif verdict.next_look is None:
                contestant.end("rejected" if verdict.decision == "rejected" else "undecided")
            else:
                contestant.wanted = self._missing(contestant, self.seeds[: verdict.next_look])
