"""The command that shows the board. A module that only one option needs is imported only with that option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console

from harness.board.leaderboard import compute_multiples, make_rows, read_board, rebuild_texts
from harness.board.rows import multiple_sentence, stored_rows
from harness.cli.options import Json, complete_tracks, flag, log, open_track, option, show, show_json
from harness.core.project import Project, write_changed
from harness.show.tables import board_tables

NEWEST = 20  # rows of a table that a terminal shows


def leaderboard(
    rebuild: Annotated[
        bool,
        flag("--rebuild", "Write leaderboard.csv, the board in README.md and the submissions' texts again."),
    ] = False,
    ideas: Annotated[bool, flag("--ideas", "Write docs/ideas.md and its pictures again from the submissions.")] = False,
    html: Annotated[Path | None, option("DIR", "Write the board as a static web site into this folder.")] = None,
    all_: Annotated[bool, flag("--all", "Show every row. Default: the newest twenty of each table.")] = False,
    track: Annotated[str | None, option("NAME", "Show only this track. Default: all tracks.", complete_tracks)] = None,
    as_json: Json = False,
) -> None:
    """Show the board: the records and the negative results of every track, from leaderboard.csv."""
    project = Project.find() if track is None else open_track(track)[0]
    rows = rebuild_texts(project) if rebuild else stored_rows(project) or make_rows(project)
    if ideas:
        from harness.show.ideas import PAGE, ideas_files

        for path, text in ideas_files(project, read_board(project)).items():
            write_changed(project.root / path, text)
        log(f"{PAGE} and its pictures were written again")
    if html is not None:
        from harness.show.site import write_site

        files = write_site(project, html)
        size_kb = sum(len(text.encode()) for text in files.values()) / 1000
        log(f"{html / 'index.html'}: {len(rows)} submissions, {len(files)} files, {size_kb:.0f} kB")
    if track is not None:
        rows = [row for row in rows if row.track == track]
    if as_json:
        from harness.show.documents import LeaderboardDocument

        show_json(LeaderboardDocument(rows=tuple(rows)))
    if as_json or ideas or html is not None:
        return
    if rebuild:
        log("leaderboard.csv, the board in README.md and the texts of the submissions were written again")
    if not rows:
        on = f" --track {track}" if track else ""
        show(
            f"The board is empty. Its first entry is a track's base model: "
            f"`llmbench run baseline{on}`, then `llmbench submit --baseline{on}`."
        )
    for place, table in enumerate(board_tables(rows, Console().width, None if all_ else NEWEST)):
        show(*([""] if place else []), table)
    for track, multiple in compute_multiples(project, rows).items():
        show(f"{track}: {multiple_sentence(multiple)} (docs/scale.md)")
