"""The command that lists all verdicts of this machine and of the submissions."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

from harness.board.leaderboard import read_board
from harness.cli.options import Json, complete_tracks, open_track, option, show, show_json
from harness.compare.arms import top_of
from harness.compare.comparison import kept_comparisons
from harness.compare.store import STORE
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.lab.history import Judged, read_history
from harness.show.compare import compared_lines
from harness.show.describe import history_table
from harness.show.documents import HistoryDocument


def history(
    track: Annotated[str | None, option("NAME", "Only this track. Default: all tracks.", complete_tracks)] = None,
    as_json: Json = False,
) -> None:
    """List all verdicts of this machine and of the submissions, newest first.

    Each row shows the stage (screen or confirmation), the reason (`llmbench explain REASON` explains it), the gain with
    the number of pairs, the record that the candidate was compared with, and the number under which this result was
    submitted, or `no` if it was not submitted. The gain is in nats per token or, with --lane speed, the logarithm of
    the time ratio. To submit a result, use `llmbench submit --variant NAME`, with --negative if the variant did not
    beat the record.

    In the folder of your own trainer this command lists the comparisons that `llmbench compare` saved there.
    """
    here = Path.cwd()
    compared = kept_comparisons((top_of(here) or here) / STORE) if track is None else []
    verdicts: list[Judged] = []
    if track is not None or not compared or in_checkout():
        project = Project.find() if track is None else open_track(track)[0]
        verdicts = read_history(project, read_board(project), track)
    if as_json:
        show_json(HistoryDocument(verdicts=tuple(verdicts), comparisons=tuple(compared)))
        return
    if verdicts:
        show(history_table(verdicts))
    if compared:
        show(*compared_lines(compared))
    if not verdicts and not compared:
        show(
            "There is no verdict yet. Judge a variant with `llmbench run candidate --variant NAME`; "
            "`llmbench variants` lists them."
        )


def in_checkout() -> bool:
    """Whether the working directory is in this checkout of llmbench."""
    with suppress(LlmbenchError):
        return bool(Project.find())
    return False
