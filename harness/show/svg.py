"""Writes figures as small SVG files: a matplotlib renderer that joins all shapes of one style into one path.

Lengths are in whole pixels; a picture is 1,008 pixels wide, the same as its PNG. Text is written as text, not as
outlines, above all shapes. Colours of the palette in `harness.board.curves` follow the reader's light or dark theme;
other colours are fixed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import escape
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Transform

from harness.board.curves import CANDIDATE, FAINT, INK, RECORD

DPI = 180
FONT_SIZE = 9  # points
LINE_WIDTH = 1.5  # points
ON_DARK = {RECORD: "#56b4e9", CANDIDATE: "#e69f00", INK: "#d5dae1", FAINT: "#9aa4af"}
NAMES = dict(zip((RECORD, CANDIDATE, INK, FAINT), "rcif", strict=True))
"""Colour -> class of a stroke in this colour. The class with an f appended fills shapes and text with it."""


def _variables(theme: dict[str, str]) -> str:
    return ".plot{" + "".join(f"--{name}:{theme[color]};" for color, name in NAMES.items()) + "}"


SHEET = (
    f".plot{{fill:none;font:{FONT_SIZE * DPI / 72:g}px system-ui,sans-serif;"
    f"stroke-linecap:round;stroke-linejoin:round;stroke-width:{LINE_WIDTH * DPI / 72:g}}}"
    f"{_variables({color: color for color in NAMES})}@media(prefers-color-scheme:dark){{{_variables(ON_DARK)}}}"
    + "".join(f".plot .{n}{{stroke:var(--{n})}}.plot .{n}f{{fill:var(--{n})}}" for n in NAMES.values())
    + "\n"
)
"""The style sheet of all pictures. A page that contains pictures includes it once."""


def render(figure: Figure, label: str | None = None) -> str:
    """A figure as an SVG file or, with `label`, as an element of a page with the style sheet SHEET.

    Screen readers read `label` aloud.
    """
    figure.set_dpi(DPI)
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    size = figure.get_size_inches()
    renderer = _Renderer(*(DPI * size))
    figure.draw(renderer)
    head = f'class="plot" viewBox="0 0 {_pair(*(DPI * size))}"'
    body = "".join(renderer.elements())
    if label is not None:
        return f'<svg {head} role="img" aria-label="{escape(label)}">{body}</svg>'
    whole = f'xmlns="http://www.w3.org/2000/svg" width="{size[0]:g}in" height="{size[1]:g}in"'
    return f"<svg {whole} {head}><style>{SHEET}</style>{body}</svg>\n"


class _Renderer(RendererBase):
    """Collects the shapes and texts that a figure draws."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__()
        self._size = width, height
        self._flip = Affine2D().scale(1, -1).translate(0, height)
        self._paths = defaultdict[str, str](str)
        """Attributes -> path data of all shapes with these attributes, in the order of their first shapes."""
        self._texts = defaultdict[str, list[str]](list)
        """Attributes -> all texts with these attributes."""

    def elements(self) -> Iterator[str]:
        """The SVG elements of everything that was drawn."""
        yield from (f'<path {attributes} d="{data}"/>' for attributes, data in self._paths.items())
        yield from (f"<g {attributes}>{''.join(texts)}</g>" for attributes, texts in self._texts.items())

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self._size

    def points_to_pixels(self, points: Any) -> Any:
        return points * DPI / 72

    def draw_path(self, gc: GraphicsContextBase, path: Path, transform: Transform, rgbFace: Any = None) -> None:
        clip: Any = gc.get_clip_rectangle()
        lines = None
        if clip is not None and _visible(rgbFace):
            path, transform = path.transformed(transform).clip_to_bbox(clip), Affine2D()
        elif clip is not None:
            box = clip.transformed(self._flip)
            lines = (*box.min, *box.max)
        segments = path.iter_segments(transform + self._flip, clip=lines)
        self._add(_data(segments), gc, rgbFace, self.points_to_pixels(gc.get_linewidth()))

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        rgbFace: Any = None,
    ) -> None:
        codes: Any = marker_path.codes
        width, radius = self.points_to_pixels(gc.get_linewidth()), marker_path.get_extents(marker_trans).width / 2
        for (*_, x, y), _ in path.iter_segments(trans, simplify=False):
            if codes is None or Path.CURVE4 not in codes:  # the marker is not round
                self.draw_path(gc, marker_path, marker_trans + Affine2D().translate(x, y), rgbFace)
            elif _visible(rgbFace):  # a disc is the round end of a line without length
                self._add(f"M{_pair(x, self._size[1] - y)}h0", gc, None, 2 * radius + width)
            else:  # an arc needs two ends, which may not be equal
                ring = f"a{radius:.3g} {radius:.3g} 0 1 0 .1 0z"
                self._add(f"M{_pair(x, self._size[1] - y - radius)}{ring}", gc, None, width)

    def draw_text(
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Text | None = None,
    ) -> None:
        anchor = "left"
        if mtext is not None:  # the reader's font has other widths, so the point of alignment is kept
            anchor = mtext.get_horizontalalignment()
            right, up = mtext.get_transform().transform(mtext.get_unitless_position())
            x, y = (right, y) if angle == 0 else (x, self._size[1] - up)
        attributes = _paint(fill=gc.get_rgb())
        if anchor != "left":
            attributes.append(f'text-anchor="{"end" if anchor == "right" else "middle"}"')
        if (size := prop.get_size_in_points()) != FONT_SIZE:
            attributes.append(f'font-size="{self.points_to_pixels(size):g}"')
        place = f'x="{_number(x)}" y="{_number(y)}"'
        if angle:
            place = f'transform="translate({_pair(x, y)})rotate({-angle:g})"'
        self._texts[" ".join(attributes)].append(f"<text {place}>{escape(s)}</text>")

    def _add(self, data: str, gc: GraphicsContextBase, face: Any, width: float) -> None:
        """Add path data to the path that has all shapes of this style."""
        stroke = gc.get_rgb() if width else None
        attributes = _paint(stroke, face)
        if _visible(stroke) and width != self.points_to_pixels(LINE_WIDTH):
            attributes.append(f'stroke-width="{width:g}"')
        dashes: Any = gc.get_dashes()[1]
        if dashes is not None:
            lengths = " ".join(f"{self.points_to_pixels(dash):g}" for dash in dashes)
            attributes.append(f'stroke-dasharray="{lengths}" stroke-linecap="butt"')
        if data and (_visible(stroke) or _visible(face)):
            self._paths[" ".join(attributes)] += data


def _paint(stroke: Any = None, fill: Any = None) -> list[str]:
    """SVG attributes for the colours of a stroke and a filling. Colours in NAMES become CSS classes."""
    classes, attributes = list[str](), list[str]()
    for what, color, mark in (("stroke", stroke, ""), ("fill", fill, "f")):
        if not _visible(color):
            continue
        if (shown := to_hex(color)) in NAMES:
            classes.append(NAMES[shown] + mark)
        else:
            attributes.append(f'{what}="{shown}"')
        if len(color) == 4 and color[3] < 1:
            attributes.append(f'{what}-opacity="{color[3]:g}"')
    return [f'class="{" ".join(classes)}"', *attributes] if classes else attributes


def _visible(color: Sequence[float] | None) -> bool:
    return color is not None and (len(color) < 4 or color[3] > 0)


def _data(segments: Iterator[tuple[Any, Any]]) -> str:
    """Segments of a path as SVG path data."""
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    parts, before, at = list[str](), "", ("", "")
    for points, code in segments:
        letter, numbers = letters[code], [_number(value) for value in points]
        end = numbers[-2], numbers[-1]
        if letter == "Z":
            parts.append(before := "Z")
            continue
        if letter == "L" and at == end:
            continue
        if letter == "L" and at[0] == end[0]:
            letter, numbers = "V", numbers[1:]
        elif letter == "L" and at[1] == end[1]:
            letter, numbers = "H", numbers[:1]
        implied = letter == before or (letter, before) == ("L", "M")  # lines that follow a start need no letter
        parts.append((" " if implied and letter != "M" else letter) + " ".join(numbers))
        before, at = letter, end
    return "".join(parts)


def _pair(x: float, y: float) -> str:
    return f"{_number(x)} {_number(y)}"


def _number(value: float) -> str:
    """A length as text, rounded to whole pixels."""
    return str(round(float(value)))
