"""Shared by the tests of the board."""

from __future__ import annotations

from harness.board.check_board import check_board
from harness.core.project import Project


def verify_board(project: Project) -> dict[str, list[str]]:
    """Folder or file name -> the problems that `verify --all` finds."""
    return {name: checked.problems for name, checked in check_board(project).items()}
