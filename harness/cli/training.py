"""Helpers of the commands that train: they check options, open the store of runs, and print progress and results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from harness.board.metrics import compare
from harness.board.readme import evidence, plural
from harness.cli.options import log, show
from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.events import RunEvent
from harness.core.project import Project
from harness.core.runs import RunIdentity
from harness.core.terminal import stderr_console
from harness.core.track import EXPLORATORY, Rule, Track, settings_of
from harness.data.cache import with_found_pins
from harness.data.prepare import prepare
from harness.lab.arms import Arms, Entry
from harness.lab.contest import Announce, Contest
from harness.lab.doctor import kept_run_seconds
from harness.lab.executor import EXECUTORS, Executor, LocalExecutor
from harness.lab.store import RETRIED, Observe, RunStore
from harness.player.device import require_device
from harness.rule.criteria import LANES
from harness.show.describe import experts_table
from harness.show.live import LiveRuns, live_preparation
from harness.show.report import duration, look_line, look_verdict_line
from harness.show.studies.campaign import LiveCampaign
from harness.show.tables import comparison_table, facts_table

Name = TypeVar("Name", bound=str)


def exploratory_line(track: Track) -> str | None:
    """The line printed before and after the runs of a track changed by `--set`; None for any other track."""
    given = " ".join(f"--set {setting}" for setting in settings_of(track))
    name = track.name.removeprefix(EXPLORATORY)
    return (
        f"EXPLORATORY: {name} with {given}; these runs cannot be submitted, and are not counted as an attempt."
        if given
        else None
    )


def make_entry(
    variant: list[str] | None,
    without: list[str] | None,
    lane: str,
    jobs: int | None,
    settings: list[str] | None = None,
    executor: str = "local",
) -> Entry:
    """The candidate that the options describe. Raises LlmbenchError for an unknown lane or executor."""
    return Entry(
        added=tuple(variant or ()),
        removed=tuple(without or ()),
        lane=_known("lane", lane, LANES),
        jobs=jobs,
        executor=_known("executor", executor, EXECUTORS),
        settings=tuple(settings or ()),
    )


def _known(kind: str, name: str, names: Sequence[Name]) -> Name:
    for known in names:
        if known == name:
            return known
    raise LlmbenchError(f"there is no {kind} '{name}'{did_you_mean(name, names)}; the {kind}s are {', '.join(names)}")


def open_store(
    project: Project,
    track: Track,
    jobs: int | None = None,
    arms: Arms | None = None,
    observe: Observe = lambda run, event: None,
    executor: str = "local",
) -> RunStore:
    """Opens the store, which finds saved runs and trains missing ones, on this machine or on a cluster.

    The store trains one run at a time if training times are compared.
    """
    timed = arms if arms is not None and arms.lane != "loss" else None
    local = _known("executor", executor, EXECUTORS) == "local"
    if timed and not local:
        raise LlmbenchError(
            f"with --lane {timed.lane} training times are compared, so all runs must be on the same machine; leave "
            f"--executor {executor} out"
        )
    if timed and jobs not in (None, 1):
        raise LlmbenchError(
            f"with --lane {timed.lane} training times are compared, so only one run may train at a time; "
            f"leave --jobs out"
        )
    kind: type[Executor] = LocalExecutor
    if not local:
        from harness.lab.ray.cluster import RayExecutor as kind  # noqa: N813
    return RunStore(
        project,
        with_found_pins(track),
        jobs=1 if timed else jobs or kind.room(track),
        executor=kind,
        observe=observe,
    )


@contextmanager
def watched_store(
    project: Project,
    track: Track,
    jobs: int | None,
    arms: Arms | None = None,
    also: Observe = lambda run, event: None,
    executor: str = "local",
    live: LiveRuns | LiveCampaign | None = None,
) -> Iterator[RunStore]:
    """Prepares the track's tokens and opens a store of runs. `live` shows the events of the runs; the function `also`
    is called with each event, too."""
    here = _known("executor", executor, EXECUTORS) == "local"
    if here:
        require_device(track)
    if line := exploratory_line(track):
        log(line)
    if (
        here or not track.data.pinned
    ):  # a cluster makes its own tokens; but if the track states no digests, those of tokens made here identify runs
        prepare_tokens(track)
    if not track.data.pinned:
        pin = f"`llmbench data pin --track {track.name}`"
        log(
            f"the track {track.name} states no digests of its tokens: runs can be trained, but not submitted; "
            f"{pin} writes the digests"
        )
    with live or LiveRuns(stderr_console(), track, arms) as shown:

        def observe(run: RunIdentity, event: RunEvent) -> None:
            shown(run, event)
            also(run, event)

        store = open_store(project, track, jobs, arms, observe, executor)
        if isinstance(shown, LiveRuns):
            shown.expect(usual_seconds(store), store.jobs)
        gpu = store.provenance.machine.gpu
        if here and (gpu or exploratory_line(track)):
            log(f"training on {gpu or 'the CPU, float32'}; evaluation in float32")
        yield store


def usual_seconds(store: RunStore) -> float | None:
    """Median seconds of the track's runs saved on this machine; None if there are none, or on a cluster."""
    local = store.executor is LocalExecutor
    return kept_run_seconds(store.project, store.track, store.jobs) if local else None


def about_time(store: RunStore, runs: Sequence[RunIdentity]) -> str:
    """Text on how long the runs not saved yet take, as `, about 12 min`; empty if all are saved or the time is
    unknown."""
    missing, run_s = [run for run in runs if (found := store.find(run)) is None or found.status in RETRIED], None
    if missing:
        run_s = usual_seconds(store)
    return "" if run_s is None else f", about {duration(math.ceil(len(missing) / store.jobs) * run_s)}"


def check_limit(max_pairs: int | None, rule: Rule) -> None:
    """Raises LlmbenchError if `max_pairs` is less than the number of pairs after which the rule may first decide."""
    if max_pairs is not None and max_pairs < rule.looks[0]:
        raise LlmbenchError(
            f"the confirmation cannot decide before {rule.looks[0]} pairs are trained; "
            f"give --max-pairs {rule.looks[0]} or more"
        )


def announcer(store: RunStore, arms: Arms) -> Announce:
    """Logs both recipes, and returns a function for progress.

    The function is called before each look, a number of pairs after which the rule may decide. It logs the result of
    the previous look, and the runs that the next look needs.
    """
    at_a_time = plural(store.jobs, "run")
    log(f"{arms.candidate} against {arms.record} on {store.track.name}, {at_a_time} at a time. {arms.remark}".rstrip())
    if arms.lane == "loss" and not arms.has_screen(store.track.rule):
        log(f"The track {store.track.name} has no screen (cheap first stage), so the confirmation begins at once.")

    run_s = usual_seconds(store)

    def announce(contest: Contest, look: int) -> None:
        if contest.candidates:
            log(look_verdict_line(contest.verdict))
        log(look_line(contest, look, store.track.rule, store.jobs, run_s))

    return announce


def show_pairs(contest: Contest) -> None:
    """Show the pairs as a table, the numbers behind the verdict, failed runs, and the reason if runs cannot be
    compared."""
    arms, verdict = contest.arms, contest.verdict
    records, candidates = contest.used
    if candidates:
        rows = compare(records, candidates, timed=verdict.stage == "confirmation")
        show(comparison_table(arms.record, arms.candidate, rows, Console().width), "", facts_table(evidence(verdict)))
        if table := experts_table(arms.candidate, candidates):
            show(table)
    failed = [f"{run.recipe} seed {run.seed} has no val loss ({run.status}): {run.reason}" for run in contest.failed]
    show(*failed or [f"these runs cannot be compared: {detail}" for detail in verdict.details])


def prepare_tokens(track: Track, *, force: bool = False) -> Path:
    """Make the track's tokens if they are missing, and show the progress on stderr. Returns their folder."""
    with live_preparation(stderr_console(), track.name) as live:
        return prepare(track, force=force, observe=live)
