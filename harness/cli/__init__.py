"""The command line: a command parses its options, calls the code of another folder, prints the result, and sets the
exit code.

Results go to stdout, everything else to stderr. May import every folder of harness/. To add a command, write a function
in a module of this folder, and name it in COMMANDS. A command's module is imported only when the command runs, so that
`llmbench --help` answers at once.
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
"""Command -> (its module and function, or the commands of its group; a help text that fits into 80 columns)."""


class _Commands(UserDict[str, Any]):
    """The commands of a group; a command's module is imported when the command is used."""

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
                raise InterruptedRunError("interrupted; run the same command again to continue") from error

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            """List the commands in the group's help, without importing them."""
            for section, lines in sections.items():
                with formatter.section(section):
                    formatter.write_dl([(f"{name:11}", text) for name, (_, text) in lines.items()])

    made = typer.Typer(help=text, cls=Group, no_args_is_help=True, rich_markup_mode=None, **options)
    made.callback()(lambda: None)  # without a callback, typer makes no group of it
    return made


COMMANDS: Mapping[str, Commands] = {
    "Compete": {
        "run": (
            {
                "baseline": ("run.run_baseline", "Train the record's recipe on the track's public seeds."),
                "candidate": ("run.run_candidate", "Train a candidate beside the record and judge it."),
            },
            "Train the record, or a candidate that may beat it.",
        ),
        "campaign": ("studies.campaign.campaign", "Judge many candidates: test all cheaply, confirm the best."),
        "submit": ("run.submit", "Write a result under submissions/ for a pull request."),
        "ablate": ("studies.ablate.ablate", "Measure what each variant of the record contributes."),
        "ladder": ("studies.ladder.ladder", "Measure ideas on smaller and larger models of a track."),
        "plan": ("studies.noise.plan", "Estimate the chance that a gain is accepted, and the time."),
    },
    "Your own trainer": {
        "compare": ("anywhere.compare.compare", "Compare two versions of your own trainer."),
        "judge": ("anywhere.judge.judge", "Test whether a candidate wins, from numbers you have."),
        "init": ("anywhere.init.init", "Write llmbench.toml and a CI workflow for your trainer."),
    },
    "Show": {
        "leaderboard": ("leaderboard.leaderboard", "Show records and negative results; write a web site of them."),
        "history": ("history.history", "List all verdicts of this machine and of the submissions."),
        "variants": ("inspect.variants", "List the variants, or show one."),
        "tracks": ("inspect.tracks", "List the tracks (fixed training tasks), or show one."),
        "explain": ("board.explain", "Explain the reason code of a verdict, or a reviewer's flag."),
    },
    "Check": {
        "verify": ("board.verify", "Recompute a submission's numbers, or train it again."),
        "challenge": ("challenge.challenge", "Train a record again on new seeds and submit the result."),
    },
    "Set up": {
        "doctor": ("inspect.doctor", "Show what this machine can run, and how fast."),
        "data": (
            {
                "prepare": ("data.data_prepare", "Tokenize the text and check the tokens' digests."),
                "pin": ("data.data_pin", "Tokenize the text and write the digests into the track's file."),
                "info": ("data.data_info", "Show the text's source, and splits and digests of the tokens."),
            },
            "Make and inspect a track's tokens.",
        ),
        "noise": ("studies.noise.noise", "Measure how much results vary by chance."),
        "schema": ("inspect.schema", "Print the JSON Schema of what --json prints."),
    },
}
app = _group(
    "Decide whether a pretraining idea beats the record: train both with the same budget and test the gain.\n\n"
    "First steps: `llmbench run baseline`, then `llmbench run candidate --variant NAME` with a name from "
    "`llmbench variants`, then `llmbench submit`.\n\n"
    "Exit codes: 0 accepted or fine, 2 wrong input, 3 rejected, 4 undecided or not comparable, 1 a bug of llmbench.",
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
    """Options before a command."""


def main() -> None:
    """Run the command line. The only place that turns an expected error into one sentence and an exit code."""
    gc.set_threshold(100_000)  # collections after every 700 objects took half of a board's reading time
    try:
        app(standalone_mode=True, prog_name="llmbench")
    except LlmbenchError as error:
        complain(f"llmbench: {error}")
        sys.exit(error.exit_code)
    except PermissionError as error:  # for a folder above a file; code that reads files does not catch it
        complain(one_line(f"llmbench: cannot reach {error.filename}: {error.strerror}; fix the permissions"))
        sys.exit(EXIT_USAGE)
