"""What the commands share: options, the opened track, a store, and how to print."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.core.errors import EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED, LlmbenchError, did_you_mean
from harness.core.project import Project
from harness.core.terminal import put, stderr_console

if TYPE_CHECKING:
    from harness.core.events import RunEvent
    from harness.core.runs import RunIdentity
    from harness.core.track import Rule, Track
    from harness.lab.arms import Arms, Entry
    from harness.lab.contest import Contest
    from harness.lab.executor import Executor, ExecutorName
    from harness.lab.store import Observe, RunStore
    from harness.rule.verdict import Verdict
    from harness.show.documents import Document


def complete_tracks() -> list[str]:
    """Names of tracks for the shell; none where there is no checkout around."""
    with suppress(LlmbenchError):
        return sorted(path.stem for path in Project.find().tracks.glob("*.toml"))
    return []


def complete_variants() -> list[str]:
    """Names of variants for the shell."""
    with suppress(LlmbenchError):
        return sorted(path.stem for path in Project.find().variants.glob("[a-z]*.py"))
    return []


def complete_submissions() -> list[str]:
    """Folders under submissions/ for the shell."""
    with suppress(LlmbenchError):
        return sorted(f"submissions/{path.name}" for path in Project.find().submissions.glob("[0-9]*"))
    return []


def complete_records() -> list[str]:
    """Numbers of records for the shell."""
    from harness.board.rows import stored_rows

    with suppress(LlmbenchError):
        return [str(row.number) for row in stored_rows(Project.find()) or () if row.kind == "record"]
    return []


TrackOption = Annotated[
    str,
    typer.Option(
        "--track", metavar="NAME", help="The contest; `llmbench tracks` lists them.", autocompletion=complete_tracks
    ),
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; logs stay on stderr.")]


JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, help="Runs at a time; moves no loss, but times. Default: as the cores allow."
    ),
]


ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Where runs are made: local, or ray, on a running Ray cluster (docs/ray.md).",
        autocompletion=lambda: ["local", "ray"],
    ),
]


VariantOption = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        help="A variant to add to the record (`llmbench variants`); repeat it for several.",
        autocompletion=complete_variants,
    ),
]


ConfirmOption = Annotated[
    bool,
    typer.Option(
        "--confirm", help="Use the confirmation seeds, which the candidate's source decides, not the public ones."
    ),
]


LaneOption = Annotated[
    str,
    typer.Option(
        "--lane",
        metavar="NAME",
        help="What is claimed: loss, speed (same loss in less time) or simplicity (less code).",
        autocompletion=lambda: ["loss", "speed", "simplicity"],
    ),
]


WithoutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--without",
        metavar="NAME",
        help="Simplicity lane: a variant to take out of the record; repeat it for several.",
        autocompletion=complete_variants,
    ),
]


MaxPairsOption = Annotated[
    int | None,
    typer.Option("--max-pairs", metavar="N", min=1, help="Stop after this many pairs. Default: the rule's last look."),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Explore with another value of the track, as model.num_layers=2; repeat it. Enters no board.",
    ),
]


LogOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="TRACKER",
        help="Also send curves and scores to tensorboard, trackio or wandb; repeat it for several.",
        autocompletion=lambda: ["tensorboard", "trackio", "wandb"],
    ),
]


DECISION_STYLES = {"accepted": "bold green", "rejected": "bold red", "undecided": "bold yellow"}


DECISION_EXITS = {"accepted": EXIT_OK, "rejected": EXIT_REJECTED, "undecided": EXIT_UNDECIDED}


def open_track(track: str, settings: Sequence[str] = ()) -> tuple[Project, Track]:
    """The checkout around the working directory and its track of that name, with settings. Raises LlmbenchError."""
    from harness.core.track import load_track

    project = Project.find()
    return project, load_track(project, track, settings)


def exploratory_line(track: Track) -> str | None:
    """What is said of an exploratory track's runs, before and after them; None of a contest."""
    from harness.core.track import EXPLORATORY, settings_of

    given = " ".join(f"--set {setting}" for setting in settings_of(track))
    name = track.name.removeprefix(EXPLORATORY)
    return f"EXPLORATORY: {name} with {given}; these runs enter no board and count as no attempt." if given else None


def make_entry(
    variant: list[str] | None,
    without: list[str] | None,
    lane: str,
    confirm: bool,
    jobs: int | None,
    settings: list[str] | None = None,
    executor: str = "local",
) -> Entry:
    """The options that name a candidate, as one record. Raises LlmbenchError for a lane that does not exist."""
    from harness.lab.arms import Entry
    from harness.rule.verdict import LANES

    if lane not in LANES:
        raise LlmbenchError(f"there is no lane '{lane}'{did_you_mean(lane, LANES)}; lanes are {', '.join(LANES)}")
    chosen = next(known for known in LANES if known == lane)
    return Entry(
        added=tuple(variant or ()),
        removed=tuple(without or ()),
        lane=chosen,
        confirm=confirm,
        jobs=jobs,
        executor=known_executor(executor),
        settings=tuple(settings or ()),
    )


def known_executor(name: str) -> ExecutorName:
    """`name`, where runs can be made. Raises LlmbenchError for any other."""
    from harness.lab.executor import EXECUTORS

    for known in EXECUTORS:
        if known == name:
            return known
    raise LlmbenchError(
        f"there is no executor '{name}'{did_you_mean(name, EXECUTORS)}; executors are {', '.join(EXECUTORS)}"
    )


def open_store(
    project: Project,
    track: Track,
    jobs: int | None = None,
    arms: Arms | None = None,
    observe: Observe | None = None,
    executor: str = "local",
) -> RunStore:
    """A store that uses the cores, GPUs or cluster there are; where times are compared, for one run at a time."""
    from harness.data.cache import with_found_pins
    from harness.lab.executor import LocalExecutor
    from harness.lab.store import RunStore, ignore_events

    timed = arms is not None and arms.lane != "loss"
    if timed and known_executor(executor) != "local":
        raise LlmbenchError(
            f"the lane {arms.lane if arms else ''} compares times on one machine; leave --executor {executor} out"
        )
    if timed and jobs not in (None, 1):
        raise LlmbenchError(
            f"the lane {arms.lane if arms else ''} compares times of runs that ran alone; leave --jobs out"
        )
    kind: type[Executor] = LocalExecutor
    if known_executor(executor) == "ray":
        from harness.lab.ray.cluster import RayExecutor as kind  # noqa: N813
    return RunStore(
        project,
        with_found_pins(track),
        jobs=1 if timed else jobs or kind.room(track),
        executor=kind,
        timed_contest=f"{arms.record} against {arms.candidate}" if timed and arms else "",
        observe=observe or ignore_events,
    )


@contextmanager
def watched_store(
    project: Project,
    track: Track,
    jobs: int | None,
    arms: Arms | None = None,
    also: Observe | None = None,
    executor: str = "local",
) -> Iterator[RunStore]:
    """A store whose runs are shown on stderr, and told to `also`, and whose tokens are prepared."""
    from harness.player.device import require_device
    from harness.show.live import LiveRuns

    here = known_executor(executor) == "local"
    if here:
        require_device(track)
    if line := exploratory_line(track):
        log(line)
    if here or not track.data.pinned:  # the machines of a cluster make their own, here they tell runs apart
        prepare_tokens(track)
    if not track.data.pinned:
        log(
            f"{track.name} is not pinned: it can be trained, but nothing can be filed "
            f"(`llmbench data pin --track {track.name}`)"
        )
    with LiveRuns(stderr_console(), track, arms) as live:

        def observe(run: RunIdentity, event: RunEvent) -> None:
            live(run, event)
            if also is not None:
                also(run, event)

        store = open_store(project, track, jobs, arms, observe, executor)
        gpu = store.provenance.machine.gpu
        if here and (gpu or exploratory_line(track)):
            log(f"training on {gpu or 'the CPU, float32'}; evaluation in float32")
        yield store


def pairs_limit(max_pairs: int | None, rule: Rule) -> int:
    """How many pairs a contest may train: the rule's last look unless the user wants fewer."""
    if max_pairs is not None and max_pairs < rule.looks[0]:
        raise LlmbenchError(f"the first look needs {rule.looks[0]} pairs; give --max-pairs {rule.looks[0]} or more")
    return max_pairs or rule.looks[-1]


def watched_contest(store: RunStore, arms: Arms, seeds: Sequence[int], max_pairs: int) -> Contest:
    """Train and judge look by look; what each look costs is announced before it."""
    from harness.core.runs import Pair
    from harness.lab.contest import run_contest
    from harness.show.report import look_line, look_verdict_line

    def announce(pairs: Sequence[Pair], look: int, verdict: Verdict) -> None:
        if pairs:
            log(look_verdict_line(verdict))
        log(look_line(pairs, look, store.jobs))

    log(f"{arms.candidate} against {arms.record} on {store.track.name}, {store.jobs} at a time. {arms.remark}".rstrip())
    return run_contest(store, arms, seeds=seeds, max_pairs=max_pairs, announce=announce)


def show_pairs(contest: Contest) -> None:
    """The table of the pairs, the evidence, what failed, and what must not be compared."""
    from harness.board.readme import compare, evidence
    from harness.show.describe import experts_table
    from harness.show.tables import comparison_table, facts_table

    arms, verdict = contest.arms, contest.verdict
    if pairs := contest.pairs[: verdict.pairs]:
        rows = compare([pair.record for pair in pairs], [pair.candidate for pair in pairs])
        show(comparison_table(arms.record, arms.candidate, rows))
        show("")
        show(facts_table(evidence(verdict)))
        if table := experts_table(arms.candidate, [pair.candidate for pair in pairs]):
            show(table)
    for run in contest.failed:
        show(f"{run.recipe} seed {run.seed} {run.status}: {run.reason}")
    for detail in verdict.details if not contest.failed else ():
        show(f"differs: {detail}")


def prepare_tokens(track: Track, *, force: bool = False) -> Path:
    """Make the track's tokens where they are not there, with progress on stderr; returns their folder."""
    from harness.data.prepare import prepare
    from harness.show.live import LivePreparation

    with LivePreparation(stderr_console(), track.name) as live:
        return prepare(track, force=force, observe=live)


def log(text: str, *, whole: bool = False) -> None:
    """One line to standard error; `whole` where it is there to be copied."""
    put(stderr_console(), text, whole=whole)


def show(what: Any, style: str = "") -> None:
    """Text as it is, tables by rich, to standard output."""
    from rich.console import Console

    if isinstance(what, str):
        put(Console(), what, style)
    else:
        Console().print(what, highlight=False)


def show_verdict(verdict: Verdict) -> None:
    """What was decided, and why; in its colour where there are colours."""
    from harness.board.readme import verdict_sentence

    show(verdict_sentence(verdict), DECISION_STYLES[verdict.decision])


def show_json(document: Document) -> None:
    """The one document of `--json`, to standard output."""
    sys.stdout.write(document.model_dump_json(indent=1) + "\n")
