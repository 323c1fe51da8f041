"""What the commands share: options, completion, the opened track, and how to print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.board.readme import verdict_sentence
from harness.board.rows import stored_rows
from harness.core.errors import EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED, LlmbenchError
from harness.core.project import Project
from harness.core.terminal import put, stderr_console
from harness.core.track import Track, load_track
from harness.lab.executor import EXECUTORS
from harness.rule.verdict import LANES, Verdict
from harness.show.documents import Document
from harness.show.trackers import TRACKERS


def _complete(pattern: str, name: Callable[[Path], str]) -> Callable[[], list[str]]:
    """Completes the names of the checkout's files that match `pattern`; outside a checkout nothing."""

    def complete() -> list[str]:
        with suppress(LlmbenchError):
            return sorted(map(name, Project.find().root.glob(pattern)))
        return []

    return complete


complete_tracks = _complete("tracks/*.toml", lambda path: path.stem)
complete_variants = _complete("models/variants/[a-z]*.py", lambda path: path.stem)
complete_submissions = _complete("submissions/[0-9]*", lambda path: f"submissions/{path.name}")


def complete_records() -> list[str]:
    """Numbers of records for the shell."""
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
        "--jobs", metavar="N", min=1, help="Runs at a time; affects timings, not losses. Default: as the cores allow."
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Where runs are made: local, or ray, on a running Ray cluster (docs/ray.md).",
        autocompletion=lambda: list(EXECUTORS),
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
        autocompletion=lambda: list(LANES),
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
        autocompletion=lambda: list(TRACKERS),
    ),
]
DECISION_STYLES = {"accepted": "bold green", "rejected": "bold red", "undecided": "bold yellow"}
DECISION_EXITS = {"accepted": EXIT_OK, "rejected": EXIT_REJECTED, "undecided": EXIT_UNDECIDED}


def open_track(track: str, settings: Sequence[str] = ()) -> tuple[Project, Track]:
    """The checkout around the working directory and its track of that name, with settings. Raises LlmbenchError."""
    project = Project.find()
    return project, load_track(project, track, settings)


def log(text: str, *, whole: bool = False) -> None:
    """One line to standard error; `whole` where it is there to be copied."""
    put(stderr_console(), text, whole=whole)


def show(what: Any, style: str = "") -> None:
    """Text as it is, or a table of rich, to standard output."""
    if isinstance(what, str):
        put(Console(), what, style)
    else:
        Console().print(what, highlight=False)


def show_verdict(verdict: Verdict) -> None:
    """What was decided, and why; in colour on a terminal that has colours."""
    show(verdict_sentence(verdict), DECISION_STYLES[verdict.decision])


def show_json(document: Document) -> None:
    """The one document of `--json`, to standard output."""
    sys.stdout.write(document.model_dump_json(indent=1) + "\n")
