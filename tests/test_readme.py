"""The README cannot drift: its board, its example and what it shows are those of the program."""

from __future__ import annotations

import re

import typer

from harness.board.leaderboard import compute_multiples, make_rows
from harness.board.rows import with_board
from harness.cli import app
from harness.core.project import Project
from tests.make import ROOT
from tests.sandbox import HERE

README = (ROOT / "README.md").read_text()


def test_the_board_in_the_readme_is_the_board(project: Project) -> None:
    rows = make_rows(project)
    assert with_board(README, rows, compute_multiples(project, rows)) == README, "run `llmbench leaderboard --rebuild`"


def test_it_is_read_in_two_minutes() -> None:
    assert len(README.splitlines()) <= 150


def test_the_example_variant_is_short() -> None:
    assert len(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0].splitlines()) < 20


def test_the_help_names_every_command_in_whole_lines() -> None:
    told = HERE("--help", environment={"COLUMNS": "80"}).stdout
    listed = re.findall(r"^  ([a-z]+) +[A-Z].*\.$", told, re.MULTILINE)
    assert set(listed) == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert "..." not in told.partition("Compete:")[2]
    for words in (("run", "candidate"), ("submit",), ("judge",)):
        assert "list[" not in HERE(*words, "--help").stdout
