"""Helpers that commands share: options, shell completion, opening a track, and printing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness.board.rows import stored_rows
from harness.core.errors import EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED, LlmbenchError
from harness.core.project import Project
from harness.core.terminal import put, stderr_console
from harness.core.track import Track, load_track
from harness.rule.criteria import LANES
from harness.show.trackers import TRACKERS

if TYPE_CHECKING:
    from harness.show.documents import Document


Complete = Callable[[], list[str]]


def _complete(pattern: str, name: Callable[[Path], str]) -> Complete:
    """Makes a function for shell completion. It returns `name(path)` of each checkout file that matches `pattern`."""

    def complete() -> list[str]:
        with suppress(LlmbenchError):
            return sorted(map(name, Project.find().root.glob(pattern)))
        return []

    return complete


complete_tracks = _complete("tracks/*.toml", lambda path: path.stem)
complete_variants = _complete("models/variants/[a-z]*.py", lambda path: path.stem)
complete_submissions = _complete("submissions/[0-9]*", lambda path: f"submissions/{path.name}")


def complete_records() -> list[str]:
    """The numbers of the records, for shell completion."""
    with suppress(LlmbenchError):
        return [str(row.number) for row in stored_rows(Project.find()) or () if row.kind == "record"]
    return []


def complete_executors() -> list[str]:
    """The names of the executors, for shell completion."""
    from harness.lab.executor import (
        EXECUTORS,
    )  # not at the top: it imports the code that trains, which `leaderboard` does not need

    return list(EXECUTORS)


def flag(name: str, text: str) -> Any:
    """An option without a value."""
    return typer.Option(name, help=text)


def option(metavar: str, text: str, complete: Complete | Iterable[str] | None = None, *names: str, **more: Any) -> Any:
    """An option with a value; the shell completes the value. By default the option has the parameter's name."""
    return typer.Option(*names, metavar=metavar, help=text, autocompletion=_completion(complete), **more)


def argument(metavar: str, text: str, complete: Complete | Iterable[str] | None = None) -> Any:
    """A positional argument; the shell completes its value."""
    return typer.Argument(metavar=metavar, help=text, autocompletion=_completion(complete))


def _completion(names: Complete | Iterable[str] | None) -> Complete | None:
    return names if names is None or callable(names) else lambda: list(names)


Json = Annotated[bool, flag("--json", "Print one JSON document on stdout; logs stay on stderr.")]
Screen = Annotated[
    bool | None,
    flag(
        "--screen/--no-screen",
        "Run only the screen (the cheap first stage), or skip it. Default: the screen, then the confirmation.",
    ),
]
Jobs = Annotated[
    int | None,
    option(
        "N", "Runs trained at a time. Losses do not depend on it, times do. Default: as many as the cores allow.", min=1
    ),
]
MaxPairs = Annotated[
    int | None, option("N", "Stop after this many pairs, even if undecided. Default: the track's maximum.", min=1)
]
TrackName = Annotated[str, option("NAME", "Name of the track; `llmbench tracks` lists all.", complete_tracks)]
ExecutorName = Annotated[
    str,
    option("NAME", "Where to train: local, or ray for a running Ray cluster (docs/ray.md).", complete_executors),
]
Variants = Annotated[
    list[str] | None,
    option("NAME", "A variant to add to the record's recipe. Repeat the option to add several.", complete_variants),
]
Without = Annotated[
    list[str] | None,
    option(
        "NAME",
        "With --lane simplicity: a variant to remove from the record's recipe. Repeat the option to remove several.",
        complete_variants,
    ),
]
Lane = Annotated[
    str,
    option(
        "NAME",
        "What the candidate claims: loss (a lower one), speed (the same loss in less time) or simplicity (about the "
        "same loss with less code).",
        LANES,
    ),
]
Settings = Annotated[
    list[str] | None,
    option(
        "KEY=VALUE",
        "Change a value of the track, such as model.num_layers=2, to explore. Repeat the option to change several. "
        "Such runs cannot be submitted.",
        None,
        "--set",
    ),
]
Trackers = Annotated[
    list[str] | None,
    option(
        "TRACKER",
        "Also send curves and scores to tensorboard, trackio or wandb. Repeat the option to use several.",
        TRACKERS,
        "--log",
    ),
]
DECISION_STYLES = {"accepted": "bold green", "rejected": "bold red", "undecided": "bold yellow"}
DECISION_EXITS = {"accepted": EXIT_OK, "rejected": EXIT_REJECTED, "undecided": EXIT_UNDECIDED}


def open_track(track: str, settings: Sequence[str] = ()) -> tuple[Project, Track]:
    """The checkout of the working directory, and the track changed by `settings`. Raises LlmbenchError if the working
    directory is in no checkout."""
    project = Project.find()
    return project, load_track(project, track, settings)


def log(text: str, *, whole: bool = False) -> None:
    """Write a line to standard error. With `whole` the line is not wrapped, so that it can be copied."""
    put(stderr_console(), text, whole=whole)


def show(*things: Any, style: str = "") -> None:
    """Print texts and rich tables, one below another, to standard output."""
    for thing in things:
        if isinstance(thing, str):
            put(Console(), thing, style)
        else:
            Console().print(thing, highlight=False)


def show_json(document: Document) -> None:
    """Print the JSON document that `--json` asks for to standard output."""
    sys.stdout.write(document.model_dump_json(indent=1) + "\n")
