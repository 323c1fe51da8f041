"""The command that writes the settings of `llmbench compare` into the git repository of a trainer."""

from __future__ import annotations

import json
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Annotated

from harness.cli.options import Json, flag, log, option, show, show_json
from harness.compare.arms import top_of
from harness.compare.settings import FILE, make_settings
from harness.core.errors import LlmbenchError
from harness.core.project import write_atomic
from harness.show.documents import InitDocument

WORKFLOW = Path(".github/workflows/llmbench.yml")
COMMAND = "python train.py --seed {seed}"
TO_FILL_IN = "https://URL-OF-YOUR-LLMBENCH-REPOSITORY"
SETTINGS_TEXT = """\
# What `llmbench compare RECORD CANDIDATE` compares: two revisions of this repository, with one command.
# Every key is also an option of the command (`llmbench compare --help`). An option overrides the key.

run = {run}  # {{seed}} is replaced by the run's seed, {{out}} by a folder for its files
metric = {metric}  # its last match in the output counts; one group around the number
# metric_file = "{{out}}/log.jsonl"  # if it is given, metric is a key in this file
# lower_is_better = false
# curve = 'step (\\d+).* val loss ([0-9.]+)'  # for the picture; does not affect the verdict
# seed_variable = "SEED"       # environment variable that gives the trainer its seed
# setup = "pip install -r requirements.txt"  # runs once in the worktree of each revision
# link = ["data"]              # files outside git to link into each worktree
# timeout = "2h"               # longest time of one run
# looks = [3, 4, 6, 8]         # numbers of pairs after which the test may decide
# alpha = 0.01                 # probability of accepting a candidate without a gain, one-sided
# margin = 0.0                 # the value that the gain must exceed
# price = 0.0                  # gain that each added statement must bring, on top of margin
# max_slowdown = 0.05          # largest time ratio candidate / record, minus one

# [also]                       # further numbers to show; they do not affect the verdict
# accuracy = 'accuracy ([0-9.]+)'
"""
WORKFLOW_TEXT = """\
# Compares a pull request with its base, as llmbench.toml says, and puts the table into the job's summary.
name: llmbench

on:
  pull_request:

permissions:
  contents: read

jobs:
  compare:
    runs-on: ubuntu-latest
    timeout-minutes: 350
    steps:
      - uses: actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2
        with:
          fetch-depth: 0 # both revisions
          persist-credentials: false
      - uses: actions/setup-python@a26af69be951a213d495a4c3e4e4022e16d87065 # v5.6.0
        with:
          python-version: "3.11"
      - run: python -m pip install {install} # add the packages that the trainer needs
      # A rejected or undecided candidate (exit codes 3 and 4) is a result; anything else fails the job.
      - run: |
          code=0
          llmbench compare "$BASE" HEAD --markdown >> "$GITHUB_STEP_SUMMARY" || code=$?
          case $code in 0|3|4) ;; *) exit $code ;; esac
        env:
          BASE: ${{{{ github.event.pull_request.base.sha }}}}
"""


def init(
    run: Annotated[str, option("COMMAND", "The training command. It must contain {seed}.")] = COMMAND,
    metric: Annotated[
        str, option("REGEX|NAME", "The number to compare, as in `llmbench compare --metric`.")
    ] = "val loss ([0-9.]+)",
    force: Annotated[bool, flag("--force", "Overwrite existing files.")] = False,
    as_json: Json = False,
) -> None:
    """Write llmbench.toml and a GitHub workflow that compares each pull request with its base.

    Both files are written into the git repository that contains this folder. After that, `llmbench compare main .`
    compares your files with the branch main.
    """
    folder = top_of(Path.cwd())
    if folder is None:
        raise LlmbenchError(
            "this folder is in no git repository, so there are no revisions to compare; run `git init` first"
        )
    make_settings({"run": run, "metric": metric})
    texts = {
        folder / FILE: SETTINGS_TEXT.format(run=_toml(run), metric=_toml(metric)),
        folder / WORKFLOW: WORKFLOW_TEXT.format(install=installed_from()),
    }
    there = [path for path in texts if path.exists()]
    if there and not force:
        raise LlmbenchError(f"{there[0]} exists already; edit it, or overwrite it with --force")
    for path, text in texts.items():
        write_atomic(path, text)
    if as_json:
        show_json(InitDocument(files=tuple(map(str, texts))))
        return
    for path in texts:
        log(f"wrote {path}")
    if TO_FILL_IN in texts[folder / WORKFLOW]:
        log(
            f"this llmbench was installed from a folder, which GitHub cannot reach; "
            f"in {WORKFLOW}, replace {TO_FILL_IN} with the address of its repository"
        )
    show(f"Check {FILE}. Then run `llmbench compare main .`, which compares your files with the branch main.")


def _toml(text: str) -> str:
    """The text as a TOML string, with quotes and escapes."""
    return f"'{text}'" if "'" not in text and text.isprintable() else json.dumps(text, ensure_ascii=False)


def installed_from() -> str:
    """The argument of `pip install` that installs this version of llmbench, from its repository or package index.

    If llmbench was installed from a local folder, other machines cannot install it from there. Then the user has to
    fill in the address of a repository, because the name llmbench on a package index could belong to another project.
    """
    found = json.loads(distribution("llmbench").read_text("direct_url.json") or "{}")
    if commit := found.get("vcs_info", {}).get("commit_id"):
        return f'"llmbench @ git+{found["url"]}@{commit}"'
    return f'"llmbench @ git+{TO_FILL_IN}"' if found else f"llmbench=={version('llmbench')}"
