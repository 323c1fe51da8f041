"""The command line: parse, one call, print, exit code. Results go to stdout, everything else to stderr.

May import every room. A new command is a function in a module of its family and a line in COMMANDS, which says in
which module it is: that is imported when the command is run, so that `llmbench --help` answers at once.
"""

from __future__ import annotations

import gc
import sys
from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.core.errors import EXIT_USAGE, InterruptedRunError, LlmbenchError, one_line
from harness.core.terminal import complain

Commands = Mapping[str, tuple[Any, str]]
"""Command -> (its module and function, or a group's commands; what it does, short enough for 80 columns)."""


class _Commands(UserDict[str, Any]):
    """A group's commands; the module of a command is imported when the command is asked for."""

    def __getitem__(self, name: str) -> Any:
        place, text = self.data[name]
        if isinstance(place, str):
            module, _, function = place.rpartition(".")
            made = typer.Typer(add_completion=False, rich_markup_mode=None)
            made.command(name)(getattr(import_module(f"harness.cli.{module}"), function))
        else:
            made = _group(text, {"Commands": place}, add_completion=False)
        return typer.main.get_command(made)


def _group(text: str, sections: Mapping[str, Commands], **options: Any) -> typer.Typer:
    class Group(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Commands(command for lines in sections.values() for command in lines.items())

        def invoke(self, ctx: Any) -> Any:
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                raise InterruptedRunError("interrupted; run the same command again to go on") from error

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            """The commands in the help of the group; imports none of them."""
            for section, lines in sections.items():
                with formatter.section(section):
                    formatter.write_dl([(f"{name:11}", text) for name, (_, text) in lines.items()])

    made = typer.Typer(help=text, cls=Group, no_args_is_help=True, rich_markup_mode=None, **options)
    made.callback()(lambda: None)  # without one, typer takes it for a single command
    return made


COMMANDS: Mapping[str, Commands] = {
    "Compete": {
        "run": (
            {
                "baseline": ("run.run_baseline", "Train the record holder on the track's seeds."),
                "candidate": ("run.run_candidate", "Train a candidate and the record in pairs, and judge."),
            },
            "Train the record holder, or a candidate against it.",
        ),
        "campaign": ("studies.campaign.campaign", "Judge many candidates: screen all, confirm the best."),
        "submit": ("run.submit", "File the result, print or open the pull request."),
        "ablate": ("studies.ablate.ablate", "Leave out each variant of the record in turn."),
        "plan": ("studies.noise.plan", "Say how many pairs a gain needs, before you train."),
    },
    "Any trainer": {
        "compare": ("anywhere.compare.compare", "Compare two versions of your own trainer."),
        "judge": ("anywhere.judge.judge", "Apply the test to numbers that you have."),
        "init": ("anywhere.init.init", "Write llmbench.toml and a CI workflow for your trainer."),
    },
    "Look": {
        "leaderboard": ("leaderboard.leaderboard", "Show what won and what lost, or write it as a site."),
        "history": ("history.history", "List what was judged, here and on the board."),
        "variants": ("inspect.variants", "List the ideas so far, or show one."),
        "tracks": ("inspect.tracks", "List the contests, or show one."),
        "explain": ("board.explain", "Say what a reason code or a flag means."),
    },
    "Check": {
        "verify": ("board.verify", "Recompute a claim's numbers, or train it again."),
        "challenge": ("challenge.challenge", "Train a record again, file the result."),
    },
    "Set up": {
        "doctor": ("inspect.doctor", "Say what this machine can run, and how fast."),
        "data": (
            {
                "prepare": ("data.data_prepare", "Make the tokens, check them against the digests."),
                "pin": ("data.data_pin", "Make the tokens, write their digests into the track."),
                "info": ("data.data_info", "Show source, splits, digests, and where they are."),
            },
            "Make and inspect a track's tokens.",
        ),
        "noise": ("studies.noise.noise", "Measure how far results differ by chance."),
        "schema": ("inspect.schema", "Print the JSON Schema of what --json prints."),
    },
}
app = _group(
    "Pretraining records that hold: train a baseline and a variant under one budget, let statistics decide.\n\n"
    "First steps: `llmbench run baseline`, then `llmbench run candidate --variant NAME` with a name out of "
    "`llmbench variants`, then `llmbench submit`.\n\n"
    "Exit codes: 0 accepted or fine, 2 wrong input, 3 rejected, 4 undecided or not comparable, 1 a bug of ours.",
    COMMANDS,
    name="llmbench",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"llmbench {version('llmbench')}\n")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """What goes before a command."""


def main() -> None:
    """The one error boundary: an expected error is one sentence and its exit code."""
    gc.set_threshold(100_000)  # a board's objects stay: walking them every 700 took half the time of reading it
    try:
        app(standalone_mode=True, prog_name="llmbench")
    except LlmbenchError as error:
        complain(f"llmbench: {error}")
        sys.exit(error.exit_code)
    except PermissionError as error:  # of a folder above the file, which the reader of the file does not see
        complain(one_line(f"llmbench: cannot reach {error.filename}: {error.strerror}; fix the permissions"))
        sys.exit(EXIT_USAGE)
