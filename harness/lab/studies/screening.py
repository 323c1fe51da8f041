"""The screens of many candidates against one record, whose runs are made one by one, whichever candidate needs one.

First runs come first, then second looks, then later ones: how many runs there are does not depend on the order, but
this one leaves the shortest end, in which few candidates remain and cores would wait for their looks. What is decided
depends on the runs' numbers alone, never on which ended first.
"""

from __future__ import annotations

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
"""`passed` is a survivor of the screen; from `accepted` on it is final."""
BEFORE = "judged before"
"""Note on a verdict that was there before the campaign."""
GOES_ON: tuple[State, ...] = ("waiting", "screening", "passed", "confirming")


@dataclass(eq=False)
class Contestant:
    """One variant of a campaign: how far it is, and what was decided of it last."""

    name: str
    entry: Entry
    state: State = "waiting"
    candidate: Candidate | None = None
    """Against the record that it met last; None before that, and where it cannot be read."""
    contest: Contest | None = None
    """Of the stage that it has come to, so far."""
    screen: Verdict | None = None
    """Of the screen that it has passed."""
    earlier: tuple[Judged, ...] = ()
    """Verdicts on it that were there before, newest first."""
    note: str = ""
    """Why it has no verdict, or was not filed."""
    submission: str = ""
    """Folder that holds its outcome."""
    crash: Exception | None = None
    wanted: list[int] = field(default_factory=list)
    """Seeds that its look still needs and that nobody makes yet."""
    under_way: set[int] = field(default_factory=set)

    @property
    def met(self) -> Candidate:
        """Its candidate, where it has been read."""
        assert self.candidate is not None
        return self.candidate

    @property
    def gains(self) -> list[float]:
        """Of the pairs of its stage so far."""
        contest = self.contest
        if contest is None or contest.verdict.design == "stored":
            return []
        both = zip(contest.records, contest.candidates, strict=True)
        return [record.evaluation.val_loss - run.evaluation.val_loss for record, run in both]

    def end(self, state: State, note: str = "") -> None:
        """It needs no further run."""
        self.state, self.note, self.wanted = state, note, []

    @contextmanager
    def alone(self, refused: State = "refused") -> Iterator[None]:
        """Within, what goes wrong is this contestant's: the others go on. A stop and a broken disk are everybody's."""
        try:
            yield
        except InterruptedRunError:
            raise
        except LlmbenchError as error:
            if isinstance(error.__cause__, OSError):
                raise
            self.end(refused, str(error))
        except Exception as error:  # noqa: BLE001 - a bug that one candidate meets must not lose the others
            self.crash = error
            self.end("crashed", f"{type(error).__name__}: {error}")


class Screening:
    """One round: all of these contestants against the record that they met."""

    def __init__(
        self,
        store: RunStore,
        contestants: Sequence[Contestant],
        may_start: Callable[[], bool],
        looked: Callable[[Contestant], None],
    ) -> None:
        """`may_start` is asked before each run; `looked` hears of each contestant that has one more pair or an end."""
        self.store, self.may_start, self.looked = store, may_start, looked
        self.contestants = {contestant.met.arms.candidate: contestant for contestant in contestants}
        (self.record,) = {contestant.met.arms.record for contestant in contestants}
        self.seeds = list(store.track.seeds[: store.track.rule.screen_looks[-1]])
        self._record_runs = deque(store.identify(self.record, seed) for seed in self.seeds)
        self._open = False  # a candidate's first run may be given up where the record's one was better

    def run(self) -> None:
        """Screen all. Who is still `screening` or `waiting` then was not allowed to start its next run.

        Raises UndecidedError where a run of the record has no score, InterruptedRunError on Ctrl-C or SIGTERM.
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
        contestant.under_way.add(seed)
        contestant.state = "screening"
        return run

    def _may(self, run: RunIdentity) -> bool:
        """Whether it may start; what is stored takes no time."""
        return not self._is_missing(run) or self.may_start()

    def _is_missing(self, run: RunIdentity) -> bool:
        found = self.store.find(run)
        return found is None or found.status in RETRIED

    def _needed(self) -> tuple[int, Contestant] | None:
        """The run that comes next: the earliest seed that a look needs, of the first contestant that needs it."""
        waiting = [(self.seeds.index(one.wanted[0]), one) for one in self.contestants.values() if one.wanted]
        return min(waiting, key=lambda asked: asked[0], default=None)

    def _ahead(self) -> tuple[int, Contestant] | None:
        """Where no run is needed, one that may be needed next, rather than a core that waits."""
        found = []
        for one in self.contestants.values():
            if one.under_way and one.state == "screening":
                found += [(self.seeds.index(seed), one) for seed in self._missing(one, self.seeds)[:1]]
        return min(found, key=lambda asked: asked[0], default=None)

    def _missing(self, contestant: Contestant, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds whose run is neither there nor under way."""
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
        contestant.under_way.discard(run.seed)
        if contestant.state != "screening":  # an earlier look has decided
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
                f"the record has no score on seed {made.seed}, so nothing can be screened: {made.status}: {made.reason}"
            )
        begins = not self._open and made.seed == self.seeds[0]
        self._open = self._open or begins
        if not self._open:
            return
        for contestant in self.contestants.values():
            waits = contestant.state in ("waiting", "screening") and not contestant.under_way and not contestant.wanted
            if waits:  # for this run, which makes one more pair
                self._look(contestant, begins=begins)
                if contestant.state not in ("waiting", "screening"):
                    self.looked(contestant)

    def _look(self, contestant: Contestant, *, begins: bool = False) -> None:
        """Judge the pairs that are there; ask for what the next look needs, or end the screen.

        What was interrupted before this command began is made again; what is interrupted now is an end.
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
