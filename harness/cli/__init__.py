"""The command line: parse, one call, print, exit code. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import gc
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.board import explain, judge, leaderboard, verify
from harness.cli.challenge import challenge
from harness.cli.inspect import data_info, data_pin, data_prepare, doctor, schema, tracks, variants
from harness.cli.noise import noise, plan
from harness.cli.run import run_baseline, run_candidate, submit
from harness.core.errors import EXIT_USAGE, LlmbenchError, one_line
from harness.core.terminal import complain

SECTIONS: dict[str, dict[str, str]] = {
    "Compete": {
        "run": "Train the record holder, or a candidate against it.",
        "submit": "File what came of it, print or open the pull request.",
        "plan": "Say what a gain costs to show, before you train.",
    },
    "Look": {
        "leaderboard": "Show what won and what lost, or write it as a site.",
        "variants": "List the ideas so far, or show one.",
        "tracks": "List the contests, or show one.",
        "explain": "Say what a reason code or a flag means.",
    },
    "Check": {
        "verify": "Recompute a claim's numbers, or train it again.",
        "challenge": "Train a record again, file what comes of it.",
        "judge": "Apply the test to anyone's per-seed numbers.",
    },
    "Set up": {
        "doctor": "Say what this machine can run, and how fast.",
        "data": "Make and inspect a track's tokens.",
        "noise": "Measure what luck alone does on a track.",
        "schema": "Print the JSON Schema of what --json prints.",
    },
}
"""Section of the help -> command -> what it does, short enough for a line of 80 columns."""


class Sections(TyperGroup):
    """Commands under the headings of `SECTIONS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """What `llmbench --help` ends with."""
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:11}", text) for name, text in commands.items()])


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"llmbench {version('llmbench')}\n")
        raise typer.Exit


def _group(text: str, **options: Any) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, **options)


app = _group(
    "Pretraining records that hold: train a baseline and a variant under one budget, let statistics decide.\n\n"
    "First steps: `llmbench run baseline`, then `llmbench run candidate --variant NAME` with a name out of "
    "`llmbench variants`, then `llmbench submit`.\n\n"
    "Exit codes: 0 accepted or fine, 2 wrong input, 3 rejected, 4 undecided or not comparable, 1 a bug of ours.",
    name="llmbench",
    cls=Sections,
    pretty_exceptions_enable=False,
)


run_app = _group("Train the record holder, or a candidate against it.")


run_app.command("baseline", short_help="Train the record holder on the track's seeds.")(run_baseline)


run_app.command("candidate", short_help="Train a candidate and the record in pairs, and judge.")(run_candidate)


data_app = _group("Make and inspect a track's tokens.")


data_app.command("prepare", short_help="Make the tokens, check them against the digests.")(data_prepare)


data_app.command("pin", short_help="Make the tokens, write their digests into the track.")(data_pin)


data_app.command("info", short_help="Show source, splits, digests, and where they are.")(data_info)


for group, name in ((run_app, "run"), (data_app, "data")):
    app.add_typer(group, name=name)


for command in (submit, plan, leaderboard, variants, tracks, explain, verify, challenge, judge, doctor, noise, schema):
    app.command()(command)


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
    except PermissionError as error:  # a folder on the way, of which no reader of a file knows
        complain(one_line(f"llmbench: cannot reach {error.filename}: {error.strerror}; fix the permissions"))
        sys.exit(EXIT_USAGE)
