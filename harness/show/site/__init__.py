"""The leaderboard as a static web site. It needs no network and no server; scripts only sort and filter tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.board.curves import draw_curves
from harness.board.metrics import METRICS
from harness.board.readme import evidence
from harness.board.rows import COLUMNS, format_csv, multiple_sentence
from harness.core.errors import LlmbenchError, one_line
from harness.core.project import Project, read_text, write_atomic
from harness.rule.reasons import explain
from harness.show.describe import track_facts
from harness.show.ideas import HEADS as IDEA_HEADS
from harness.show.ideas import LEFT as IDEA_LEFT
from harness.show.ideas import MOST_SHOWN, draw_ideas
from harness.show.plots import draw_cost, draw_history, to_svg
from harness.show.site.content import ARMS, SubmissionPage, TrackPage, read_submissions, read_tracks
from harness.show.svg import SHEET

HERE = Path(__file__).resolve().parent
MANIFEST = "llmbench-site.txt"
"""Name of the file that lists all files of the site. A later call may replace or remove the files listed."""
FIRST_LINE = "Written by `llmbench leaderboard --html`, which may replace or remove these files:"


def render_site(project: Project) -> dict[str, str]:
    """Path inside the site -> text of each file. The same submissions give the same bytes.

    Files come before the pages that link to them, so that they can be written in this order. Raises LlmbenchError if
    a submission or a track is not valid.
    """
    submissions = read_submissions(project)
    tracks = read_tracks(project, submissions)
    files = {name: read_text(HERE / name) for name in ("style.css", "board.js")}
    files["leaderboard.csv"] = format_csv([page.row for page in submissions])
    files["style.css"] += SHEET
    return files | draw_pictures(tracks) | render_pages(submissions, tracks)


def draw_pictures(tracks: Sequence[TrackPage]) -> dict[str, str]:
    """Path -> SVG of each picture that is stored in a separate file, because it is large or two pages show it."""
    files = {}
    for track in tracks:
        rows = [page.row for page in track.current]
        added = {p.row.number: p.claim.verdict.added_statements if p.claim.verdict else 0 for p in track.current}
        if track.history is not None:
            files[track.history] = to_svg(partial(draw_history, rows))
        if track.cost is not None:
            files[track.cost] = to_svg(partial(draw_cost, rows, added, track.track.rule.loss_per_statement))
        if track.gains is not None:
            files[track.gains] = to_svg(partial(draw_ideas, track.ideas))
    return files


def _curves(page: SubmissionPage, label: str) -> Markup:
    """The learning curves of a submission, as an element of its page."""
    return Markup(to_svg(partial(draw_curves, page.curves), label))


def _printable(value: Any) -> Any:
    """Removes control characters, which could reorder or hide other text, from a string.

    Returns other values unchanged.
    """
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return "\n".join(map(one_line, value.replace("\t", "    ").split("\n"))) if plain else value


def _breakable(recipe: str) -> Markup:
    """A recipe as HTML in which a line breaks only before a `+`, so that no name is cut in two on a phone."""
    return escape(_printable(recipe)).replace("+", Markup("<wbr>+"))


def render_pages(submissions: Sequence[SubmissionPage], tracks: Sequence[TrackPage]) -> dict[str, str]:
    """Path -> HTML of each page; the start page is last."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,  # names, recipes, reasons and sources are untrusted text
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    environment.globals |= {
        "tracks": tracks,
        "submissions": submissions,
        "COLUMNS": COLUMNS,
        "IDEA_HEADS": IDEA_HEADS,
        "IDEA_LEFT": IDEA_LEFT,
        "MOST_SHOWN": MOST_SHOWN,
        "HEADLINES": [metric for metric in METRICS if metric.headline],
        "ARMS": ARMS,
        "curves": _curves,
        "evidence": evidence,
        "explain": explain,
        "multiple_sentence": multiple_sentence,
        "track_facts": track_facts,
    }

    def render(template: str, path: str, **content: Any) -> str:
        return environment.get_template(template).render(path=path, root="../" * path.count("/"), **content)

    files = {page.page: render("submission.html", page.page, page=page) for page in submissions}
    files |= {track.page: render("track.html", track.page, page=track) for track in tracks}
    return files | {"index.html": render("index.html", "index.html")}


def write_site(project: Project, folder: Path) -> dict[str, str]:
    """Write the site into `folder`. Returns its files.

    All pages are rendered before anything is written. Each file is replaced as a whole, and written before the pages
    that link to it, so that no link is broken if the command is stopped halfway. Other files in the folder stay as they
    are. Raises LlmbenchError if the folder contains files but no site of llmbench, or cannot be written.
    """
    old = _own_files(folder)
    files = render_site(project)
    write_atomic(
        folder / MANIFEST, _manifest({*old, *files})
    )  # first, so that a later call recognizes the folder if this one is interrupted
    for path, text in files.items():
        write_atomic(folder / path, text)
    try:
        for path in sorted({*old} - {*files}):
            (folder / path).unlink(missing_ok=True)
    except OSError as error:
        raise LlmbenchError(f"cannot remove {folder / path}: {error.strerror}; fix the permissions") from error
    write_atomic(folder / MANIFEST, _manifest({*files}))
    return files


def _manifest(files: set[str]) -> str:
    return "\n".join((FIRST_LINE, *sorted(files), ""))


def _own_files(folder: Path) -> list[str]:
    """Paths of the site's files in `folder`, as MANIFEST lists them; no paths if the folder is new or empty.

    Raises LlmbenchError if the folder contains files but no site, or cannot be read.
    """
    manifest = folder / MANIFEST
    try:
        if manifest.is_file():
            first, *paths = read_text(manifest).splitlines() or [""]
            inside = [path for path in paths if (folder / path).resolve().is_relative_to(folder.resolve())]
            if first == FIRST_LINE and inside == paths:
                return paths
        elif not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
            return []  # hidden files are allowed: a checkout of a branch for pages has .git
    except OSError as error:
        raise LlmbenchError(f"{folder} cannot be read: {error.strerror}; name a new or empty folder") from error
    raise LlmbenchError(
        f"{folder} contains files that do not belong to a web site of llmbench; name a new or empty folder"
    )
