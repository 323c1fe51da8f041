"""The command that lists verdicts, of this machine and of the board."""

from __future__ import annotations

from typing import Annotated

from harness.board.leaderboard import read_board
from harness.cli.options import Json, complete_tracks, open_track, option, show, show_json
from harness.core.project import Project
from harness.lab.history import read_history
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
    """
    project = Project.find() if track is None else open_track(track)[0]
    verdicts = read_history(project, read_board(project), track)
    if as_json:
        show_json(HistoryDocument(verdicts=tuple(verdicts)))
    elif verdicts:
        show(history_table(verdicts))
    else:
        show("Nothing was judged yet: `llmbench run candidate --variant NAME` does (`llmbench variants` lists them).")
