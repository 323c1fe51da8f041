"""The README cannot drift: its board, its example and its commands are those of the program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import typer

from harness.board.leaderboard import make_rows
from harness.board.rows import with_board
from harness.cli import app
from harness.core.project import Project
from harness.core.track import Track
from harness.variants.check import check_source
from harness.variants.recipe import apply_recipe
from harness.variants.source import VariantSource

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_board_in_the_readme_is_the_board(project: Project) -> None:
    assert with_board(README, make_rows(project)) == README, "run `llmbench leaderboard --rebuild`"


def test_the_example_variant_is_complete_short_and_builds(smoke: Track) -> None:
    text = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert len(text.splitlines()) < 20
    check_source(text, Path("models/variants/example.py"))
    source = VariantSource("example", Path("models/variants/example.py"), text)
    apply_recipe({"example": source}, smoke.model, smoke.optim).build()


def test_every_command_in_the_readme_exists() -> None:
    for words in sorted(set(re.findall(r"`llmbench ([a-z]+(?: baseline| candidate| prepare| info)?)", README))):
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", *words.split(), "--help"], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, words


def test_every_link_in_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_committed_board_verifies() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "verify"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_judgement_in_the_readme_is_what_the_program_prints() -> None:
    for command, shown in re.findall(r"```\n\$ llmbench (judge [^\n]+)\n(.*?)```", README, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", *command.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "110"},
        )
        assert [line.rstrip() for line in done.stdout.splitlines()] == shown.splitlines()
        return
    raise AssertionError("README shows no judgement")


def test_the_help_names_every_command_in_whole_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    listed = re.findall(r"^  ([a-z]+) +[A-Z].*\.$", done.stdout, re.MULTILINE)
    assert set(listed) == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert "..." not in done.stdout.partition("Compete:")[2]
    assert "list[" not in "".join(help_of(*words) for words in (("run", "candidate"), ("submit",), ("judge",)))


def help_of(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout
