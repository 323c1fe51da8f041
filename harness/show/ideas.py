"""Makes docs/ideas.md: for each idea with a verdict on a track, what its source claims and its result on the track."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness.board.leaderboard import Board, make_row
from harness.board.rows import Row, change_of
from harness.board.submission import Claim
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.terminal import markdown
from harness.show.plots import Gain, draw_gains, draw_history, to_svg
from harness.variants.source import Notes, VariantSource, read_variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PICTURES = "docs/ideas.md", "docs/pictures"
COMMAND = "llmbench leaderboard --ideas"
MOST_SHOWN = 60
"""Most lines of a picture. With this many lines, it is about two screens high."""
ADDRESS = re.compile(r"https://[\w./~%#?=&+-]*[\w/]|arXiv:\d{4}\.\d{4,5}")
ABOUT = """Each line is one idea: a change of the record that was judged and submitted here, whether it won or lost. The
largest gain comes first.

- *Idea*, *source* and *claimed there* are from the variant's file. A claim is in the source's own unit, for its own
  model and budget, and often comes from one or two runs. It was not tested here at that scale.
- *Gain* is the record's val loss minus the candidate's, in nats per token: a mean over the *pairs* of runs with the
  same seed. To win, the gain must exceed the *price*: the added statements times the track's `loss_per_statement`.
- *Interval* is the 98 % confidence interval of the gain after a confirmation, the test that decides. A screen, the
  cheap test before it, has only one to four runs and gives no interval. Its ± is the standard deviation that chance
  alone gives to a mean over so many runs. The picture shows the interval or the ± as a bar.
- *Against* is the number of the submission that held the record then. Gains against different records are not
  comparable, and they do not add up.
- *Params* is the candidate's number of parameters and, in brackets, its ratio to the record's. *Time* is the ratio of
  training times, candidate over record. A screen does not measure it.
- *Verdict* is the decision and its reason; `llmbench explain` prints a sentence for each reason. If a re-run confirmed
  a record, the line has the numbers of the re-run.

A screen drops an idea if its first runs do not look promising. The gain of a dropped idea shows the result of one
attempt on this track. It does not show what the idea does at another scale or with other constants."""


@dataclass(frozen=True)
class Idea:
    """One change of a record, and the verdict on it."""

    row: Row
    notes: Notes
    """Notes from the docstrings of the variants that the idea adds. Notes of several variants are joined."""
    price: float | None
    """Price that the gain must exceed, in nats per token; None in the lane `speed`, in which gains are times."""
    chance: float | None
    """After a screen: the standard deviation that chance alone gives to its mean gain, in nats per token."""
    against: int | None
    """Number of the submission that held the record when the idea was judged."""
    verdict: str

    @property
    def change(self) -> str:
        return change_of(self.row)

    @property
    def source(self) -> str:
        """The source of the idea, with short names instead of addresses."""
        return ADDRESS.sub(lambda found: _short_name(found[0]), self.notes.source or "not said")

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The idea's cells in the table, as plain text, one for each column of HEADS."""
        row, is_time = self.row, self.price is None
        low, high = row.ci_low, row.ci_high
        interval = "" if self.chance is None else f"±{self.chance:.4f}"
        params, ratio = getattr(row, "num_params", None), getattr(row, "params_ratio", None)
        return (
            self.change + (f" ({self.notes.topic})" if self.notes.topic else ""),
            self.notes.claimed or "not said",
            "" if row.gain is None else f"{'log time ' * is_time}{row.gain:+.4f}",
            interval if low is None or high is None else f"{low:+.4f} to {high:+.4f}",
            "" if self.price is None else f"{self.price:.4f}",
            str(row.pairs or ""),
            "" if self.against is None else str(self.against),
            "" if params is None else f"{params:,}" + ("" if ratio is None else f" (x{ratio:.2f})"),
            "" if row.time_ratio is None else f"x{row.time_ratio:.2f}",
            self.verdict,
        )


HEADS = ("idea", "claimed there", "gain", "interval", "price", "pairs", "against", "params", "time", "verdict")
LEFT = ("idea", "claimed there", "verdict")


def read_ideas(project: Project, board: Board, judged: Iterable[tuple[Claim, Row]]) -> dict[str, list[Idea]]:
    """Track -> the ideas judged on its newest version, the largest gain first. Challenges are left out.

    Raises LlmbenchError if a submission is not valid.
    """
    found: dict[str, list[Idea]] = {}
    for claim, row in judged:
        edition = board.edition(row.track)
        if row.kind in ("record", "negative") and edition is not None and edition.startswith(row.track_digest):
            found.setdefault(row.track, []).append(_read_idea(project, board, claim, row))
    for ideas in found.values():
        ideas.sort(key=lambda idea: (idea.price is None, math.inf if idea.row.gain is None else -idea.row.gain))
    return dict(sorted(found.items()))


def _read_idea(project: Project, board: Board, claim: Claim, row: Row) -> Idea:
    submission, verdict, rule = claim.submission, claim.verdict, claim.track.rule
    added = 0 if verdict is None else verdict.added_statements
    stage, pairs = ("", 0) if verdict is None else (verdict.stage, verdict.pairs)
    is_screen = stage == "screen" and rule.noise_nats is not None and pairs > 0
    standing = board.before(row.number).standing(submission, submission.lane)
    if row.kind == "record":
        said = ", ".join(
            filter(None, ["record", f"confirmed by {row.confirmed_by}" * bool(row.confirmed_by), row.state])
        )
    else:
        lost = [f"shown to lose on {name}" for name in submission.lost_on]
        said = f"{stage}: {', '.join(lost or (verdict.reasons if verdict else ())).replace('_', ' ')}"
    return Idea(
        row=row,
        notes=_join(_notes(project, claim, name) for name in submission.added_variants)
        if submission.added_variants
        else Notes(source="the record, with less code", claimed="no claim"),
        price=None if submission.lane == "speed" else rule.loss_per_statement * max(0, added),
        chance=(rule.noise_nats or 0.0) / math.sqrt(pairs) if is_screen else None,
        against=None if standing is None else standing.number,
        verdict=said if submission.lane == "loss" else f"{said} (lane {submission.lane})",
    )


def _notes(project: Project, claim: Claim, name: str) -> Notes:
    """Notes from the docstring of a variant's file or, if the file changed or is gone, of its submitted source."""
    path = claim.folder / "sources" / f"{name}.py"
    frozen = VariantSource(name, path, claim.sources[name])
    try:
        present = read_variant(project, name)
    except LlmbenchError:
        return frozen.notes
    return present.notes if present.digest == frozen.digest else frozen.notes


def _join(notes: Iterable[Notes]) -> Notes:
    every = list(notes)
    said = {field.name: [text for one in every if (text := getattr(one, field.name))] for field in fields(Notes)}
    return Notes(**{name: "; ".join(dict.fromkeys(texts)) or None for name, texts in said.items()})


def draw_ideas(ideas: Sequence[Idea]) -> Figure:
    """The picture of a track's best ideas.

    A bar shows the confidence interval of a gain. A screen, the cheap first test, gives no interval; then the bar shows
    one standard deviation of noise to each side.
    """
    gains = []
    for idea in ideas:
        row = idea.row
        if row.gain is None or idea.price is None:
            continue
        low, high = row.ci_low, row.ci_high
        if idea.chance is not None:
            low, high = row.gain - idea.chance, row.gain + idea.chance
        won = row.kind == "record" and row.state != "retracted"
        gains.append(Gain(idea.change, row.gain, low, high, idea.price, won, idea.chance is not None))
    return draw_gains(gains[:MOST_SHOWN])


def ideas_files(project: Project, board: Board) -> dict[str, str]:
    """Path -> text of each file: docs/ideas.md, its pictures, and a picture of each track's records over time."""
    claims = [Claim(project.submissions / one.folder_name, one) for one in board.submissions]
    judged = [(claim, make_row(board, claim)) for claim in claims]
    ideas = read_ideas(project, board, judged)
    files = {PAGE: _page(ideas, board.next_number - 1)}
    for track, own in ideas.items():
        edition = board.edition(track) or ""
        rows = [row for _, row in judged if row.track == track and edition.startswith(row.track_digest)]
        files[f"{PICTURES}/ideas-{track}.svg"] = to_svg(partial(draw_ideas, own))
        files[f"{PICTURES}/history-{track}.svg"] = to_svg(partial(draw_history, rows))
    return files


def _page(ideas: dict[str, list[Idea]], last: int) -> str:
    lines = ["# Ideas and their verdicts", "", f"Made by `{COMMAND}` from the submissions up to {last}.", "", ABOUT]
    heads = (HEADS[0], "source", *HEADS[1:], "#")
    for track, own in ideas.items():
        picture = f"pictures/ideas-{track}.svg"
        lines += ["", f"## `{track}`", "", f"![Gain of each idea with its interval, and its price]({picture})", ""]
        lines += [
            f"| {' | '.join(heads)} |",
            f"|{'|'.join('---' if h in (*LEFT, 'source') else '---:' for h in heads)}|",
        ]
        for idea in own:
            first, *others = map(markdown, idea.cells)
            link = f"[{idea.row.number}](../submissions/{idea.row.folder})"
            lines.append(f"| {' | '.join([first, linked(idea.notes.source or 'not said'), *others, link])} |")
    return "\n".join([*lines, ""])


def linked(text: str) -> str:
    """The text about a source as Markdown. Addresses and arXiv numbers become links with short names."""
    parts, place = list[str](), 0
    for found in ADDRESS.finditer(text):
        address = found[0].replace("arXiv:", "https://arxiv.org/abs/")
        parts += [_words(text[place : found.start()]), f"[{markdown(_short_name(found[0]))}]({address})"]
        place = found.end()
    return "".join([*parts, _words(text[place:])])


def _words(text: str) -> str:
    """The text between two links as Markdown; leading and trailing blanks are kept."""
    inner = text.strip(" ")
    before, after = " " * text.startswith(" "), " " * (text.endswith(" ") and bool(inner))
    return f"{before}{markdown(inner)}{after}" if inner else before


def _short_name(address: str) -> str:
    """A short name for an address, such as `nanochat LOG.md` or `arXiv:2010.04245`; by default the name of its host."""
    if address.startswith("arXiv:"):
        return address
    parts = urlsplit(address)
    _, repository, *path = [*parts.path.strip("/").split("/"), ""]
    names = [name for name in path if name and name.lower() != "readme.md"]
    if parts.hostname != "github.com" or not repository:
        return f"{parts.hostname}"
    return " ".join(filter(None, [repository, names[-1] if names else ""]))
