"""The README cannot drift: its board, its example and its commands are those of the program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from harness.catalog import apply_recipe
from harness.leaderboard import make_rows
from harness.project import Project
from harness.rows import with_board
from harness.sources import VariantSource
from harness.syntax import check_source
from harness.track import Track

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
