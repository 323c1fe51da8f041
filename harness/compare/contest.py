"""Runs the pairs of a comparison until the rule decides. Finished runs are kept and reused."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

from harness.compare.arms import ArmName, Arms, seeds_of
from harness.compare.comparison import NAME, Comparison, decide_trials
from harness.compare.places import Places
from harness.compare.settings import OUT, SEED, Settings
from harness.compare.store import Step, Tell, TrialStore
from harness.compare.trial import FailedTrial, FinishedTrial, now
from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.project import write_atomic
from harness.rule.verdict import Verdict

Group = tuple[tuple[ArmName, int], ...]


class Contest:
    """A comparison in progress: which runs exist, which are still needed, and the verdict so far."""

    def __init__(self, settings: Settings, arms: Arms, places: Places, store: Path, tell: Tell) -> None:
        self.settings, self.arms, self.places = settings, arms, places
        self.declared = settings.declared()
        self.seeds = seeds_of(settings, arms.record, arms.candidate)
        self.trials: dict[tuple[ArmName, int], FinishedTrial | FailedTrial] = {}
        self.interrupted = False
        self.store, self._tell = TrialStore(settings, arms, places, store, tell), tell
        self._refuse_one_file_for_two_runs()
        self.verdict = self._decide()

    def _refuse_one_file_for_two_runs(self) -> None:
        file, alone = self.settings.metric_file, len({*self.arms.folders.values()}) == 2
        if file is None or OUT in file or self.places.jobs == 1 or (alone and (SEED in file or self._at_a_time == 1)):
            return
        raise LlmbenchError(
            f"two runs at a time would both write '{file}'; put {{out}}, the run's own folder, into this path and into "
            f"the command, as in `python train.py --seed {{seed}} --out {{out}}`, or give --jobs 1"
        )

    @property
    def _at_a_time(self) -> int:
        """Number of pairs that run at a time; in the design `stored`, which has no pairs, number of runs."""
        return max(1, self.places.jobs // (1 if self.declared.design == "stored" else 2))

    @property
    def folder(self) -> Path:
        """The folder of the comparison's file. Its name is a digest of the arms, the settings and the machine."""
        arms = (self.arms.record, self.arms.candidate)
        words = [word for arm in arms for word in (arm.command, arm.sources)]
        own = self.settings.model_dump_json(exclude={"run", "record", "candidate"})
        return self.store.folder / "comparisons" / self.store.key("comparison", own, *words)[:12]

    def run(self) -> Comparison:
        """Make the missing runs until the rule decides, write the comparison's file, and return its content.

        Raises InterruptedRunError on Ctrl-C or SIGTERM, and LlmbenchError if a command cannot be started.
        """
        self._take_kept()
        if self._goes_on():
            with self._stopped_by_signals():
                self._make_runs()
            self.verdict = self._decide()  # the verdict in the file must follow from all runs in the file
        if self.interrupted:
            count = sum(isinstance(trial, FinishedTrial) for trial in self.trials.values())
            raise InterruptedRunError(
                f"interrupted; {count} finished run{' is' if count == 1 else 's are'} kept, unfinished runs are lost; "
                f"run the same command again to continue"
            )
        return self._keep()

    def _keep(self) -> Comparison:
        """Write the comparison to its folder, and return it."""
        order = {(arm, seed): place for arm, seeds in self.seeds.items() for place, seed in enumerate(seeds)}
        runs = sorted(self.trials.values(), key=lambda run: (run.arm != "record", order[run.arm, run.seed]))
        found = Comparison(
            llmbench=version("llmbench"),
            date=now(),
            settings=self.settings,
            declared=self.declared,
            record=self.arms.record,
            candidate=self.arms.candidate,
            added_statements=self.arms.added_statements,
            jobs=self.places.jobs,
            executor=self.places.executor,
            record_seeds=self.seeds["record"],
            candidate_seeds=self.seeds["candidate"],
            runs=tuple(runs),
            verdict=self.verdict,
        )
        write_atomic(self.folder / NAME, found.model_dump_json(indent=1) + "\n")
        return found

    def _decide(self) -> Verdict:
        return decide_trials(
            self.settings, self.declared, self.seeds, [*self.trials.values()], self.arms.added_statements
        )

    def _take_kept(self) -> None:
        """Use finished runs that earlier commands kept, in the order of the seeds, until the rule decides."""
        for group in self._groups():
            for arm, seed in group:
                kept = self.store.kept(arm, seed)
                if isinstance(kept, FinishedTrial):
                    self.trials[arm, seed] = kept
                    self._tell(Step(arm, seed, "kept", kept))
            if not all(one in self.trials for one in group):
                break
            self.verdict = self._decide()
            if not self._goes_on():
                break

    def _groups(self) -> Iterator[Group]:
        """The groups of runs that are made together: pairs or, in the design `stored`, single runs.

        In one pair the record's run comes first, in the next pair the candidate's run.
        """
        record: list[tuple[ArmName, int]] = [("record", seed) for seed in self.seeds["record"]]
        candidate: list[tuple[ArmName, int]] = [("candidate", seed) for seed in self.seeds["candidate"]]
        if self.declared.design == "stored":
            yield from ((one,) for one in (*record[: self.settings.stored_runs], *candidate))
            return
        pairs = zip_longest(record[: self.declared.looks[-1]], candidate[: self.declared.looks[-1]])
        for place, pair in enumerate(pairs):
            yield pair if place % 2 == 0 else pair[::-1]

    # --- running ---------------------------------------------------------------------------------------------------

    def _make_runs(self) -> None:
        """Make the groups of runs until the rule decides, as many at a time as there are free places (see
        places.py)."""
        waiting, active = iter(self._groups()), set[Future[None]]()
        with ThreadPoolExecutor(self._at_a_time) as pool, ThreadPoolExecutor(self.places.jobs) as runners:
            try:
                while self._goes_on():
                    while len(active) < self._at_a_time and (group := next(waiting, None)) is not None:
                        active.add(pool.submit(self._make_group, group, runners))
                    if not active:
                        break
                    done, active = wait(active, timeout=0.2, return_when=FIRST_COMPLETED)
                    self._raise_errors(done)
                    if done:
                        self._look()
            finally:
                self.places.stopping.set()  # stops unfinished runs, which are no longer needed
                wait(active)
                self._raise_errors(active)

    def _goes_on(self) -> bool:
        return self.verdict.decision == "undecided" and not self.verdict.details and not self.interrupted

    @staticmethod
    def _raise_errors(futures: Iterable[Future[None]]) -> None:
        """Raise the first error of the finished groups. A run that was stopped is not an error here."""
        for one in futures:
            error = one.exception()
            if error is not None and not isinstance(error, InterruptedRunError):
                raise error

    def _look(self) -> None:
        before = self.verdict
        self.verdict = self._decide()
        if self.verdict != before and (self.verdict.look != before.look or self.verdict.decision != "undecided"):
            self._tell(self.verdict)

    def _make_group(self, group: Group, runners: ThreadPoolExecutor) -> None:
        """Make the missing runs of a group: at the same time if enough places are free, else one after another."""
        missing = [one for one in group if one not in self.trials]
        futures = [runners.submit(self.store.obtain, arm, seed) for arm, seed in missing]
        errors = []
        for future, one in zip(futures, missing, strict=True):
            try:
                self.trials[one] = future.result()
            except LlmbenchError as error:
                errors.append(error)
                self.places.stopping.set()
        if errors:
            raise min(errors, key=lambda error: isinstance(error, InterruptedRunError))

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """While this context is open, SIGINT and SIGTERM stop the runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            self.interrupted = True
            self.places.stopping.set()

        signals = (signal.SIGINT, signal.SIGTERM)
        earlier = [signal.signal(number, stop) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, earlier, strict=True):
                signal.signal(number, handler)
