"""The command that lists verdicts, of this machine and of the board."""

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
from harness.show.compare import compared_table
from harness.show.describe import history_table
from harness.show.documents import HistoryDocument


def history(
    track: Annotated[str | None, option("NAME", "Only this contest. Default: all of them.", complete_tracks)] = None,
    as_json: Json = False,
) -> None:
    """List what this machine judged and what the board holds, filed or not, newest first.

    Each verdict has the stage that came to it and its deciding reason, which `llmbench explain REASON` puts into a
    sentence; the gain in nats per token (in the lane speed the logarithm of the time ratio) and over how many pairs;
    the record that the candidate met; and the number of the submission that holds it. What is not filed can be:
    `llmbench submit --variant NAME`, with --negative for what did not break the record that it met.

    In the folder of a trainer of your own it lists what `llmbench compare` kept there.
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
        show(compared_table(compared))
    if not verdicts and not compared:
        show("Nothing was judged yet: `llmbench run candidate --variant NAME` does (`llmbench variants` lists them).")


def in_checkout() -> bool:
    """Whether the working directory lies in this checkout of llmbench."""
    with suppress(LlmbenchError):
        return bool(Project.find())
    return False
