"""The command line: parse, one call, print, exit code. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import gc
import sys

import typer

from harness.cli.again import challenge
from harness.cli.board import explain, judge, leaderboard, verify
from harness.cli.catalogue import data_info, data_pin, data_prepare, doctor, schema, tracks, variants
from harness.cli.claim import run_baseline, run_candidate, submit
from harness.cli.study import noise, plan
from harness.errors import EXIT_USAGE, LlmbenchError, one_line

app = typer.Typer(
    name="llmbench",
    help="Pretraining records that hold: train a baseline and a variant under one budget, let statistics decide.\n\n"
    "First steps: `llmbench run baseline`, then `llmbench run candidate --variant NAME` with a name out of "
    "`llmbench variants`, then `llmbench submit`.\n\n"
    "Exit codes: 0 accepted or fine, 2 wrong input, 3 rejected, 4 undecided or not comparable, 1 a bug of ours.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (submit, verify, challenge, judge, explain, noise, plan, leaderboard, variants, tracks, doctor, schema):
    app.command()(command)

run_app = typer.Typer(
    help="Train the record holder, or a candidate against it.", no_args_is_help=True, rich_markup_mode=None
)
run_app.command("baseline")(run_baseline)
run_app.command("candidate")(run_candidate)
app.add_typer(run_app, name="run")

data_app = typer.Typer(help="Make and inspect a track's tokens.", no_args_is_help=True, rich_markup_mode=None)
data_app.command("prepare")(data_prepare)
data_app.command("pin")(data_pin)
data_app.command("info")(data_info)
app.add_typer(data_app, name="data")


def main() -> None:
    """The one error boundary: an expected error is one sentence and its exit code."""
    gc.set_threshold(100_000)  # a board's objects stay: walking them every 700 took half the time of reading it
    try:
        app(standalone_mode=True)
    except LlmbenchError as error:
        sys.stderr.write(f"llmbench: {error}\n")
        sys.exit(error.exit_code)
    except PermissionError as error:  # a folder on the way, of which no reader of a file knows
        sys.stderr.write(one_line(f"llmbench: cannot reach {error.filename}: {error.strerror}; fix the permissions"))
        sys.stderr.write("\n")
        sys.exit(EXIT_USAGE)
