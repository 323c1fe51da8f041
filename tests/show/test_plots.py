"""Pictures: what they show, for which reader, and that the same input gives the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from harness.board.curves import FAINT, curves_png, draw_curves, new_figure, to_png
from harness.board.leaderboard import make_rows
from harness.board.rows import Row, change_of
from harness.board.submission import Claim, load_submission
from harness.core.errors import LlmbenchError
from harness.core.runs import FinishedRun
from harness.show import plots
from harness.show.plots import Gain, draw_cost, draw_gains, draw_history, to_svg
from tests.make import NEGATIVE, copy_board

GAINS = [
    Gain("small", 0.004, 0.001, 0.007, 0.002, accepted=False, screened=False),
    Gain("large", 0.03, 0.02, 0.04, 0.001, accepted=True, screened=False),
    Gain("one run", -0.01, None, None, 0.003, accepted=False, screened=True),
    Gain("far", -0.4, None, None, 0.001, accepted=False, screened=True),
]
Arms = list[tuple[str, Sequence[FinishedRun]]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return make_rows(copy_board(tmp_path_factory.mktemp("board")))


@pytest.fixture(scope="module")
def arms() -> Arms:
    return [*Claim(NEGATIVE, load_submission(NEGATIVE)).finished.items()]


class Drawing(NamedTuple):
    draw: Callable[[], Figure]
    svg: str
    png: bytes


@pytest.fixture(scope="module", params=["curves", "history", "cost", "gains"])
def drawing(request: pytest.FixtureRequest, rows: list[Row], arms: Arms) -> Drawing:
    added = {row.number: row.statements for row in rows}
    drawings: dict[str, Callable[[], Figure]] = {
        "curves": lambda: draw_curves(arms),
        "history": lambda: draw_history(rows),
        "cost": lambda: draw_cost(rows, added, 1e-4),
        "gains": lambda: draw_gains(GAINS),
    }
    draw = drawings[request.param]
    return Drawing(draw, to_svg(draw), to_png(draw))


def texts(svg: str) -> str:
    return " ".join("".join(e.itertext()) for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_same_input_gives_the_same_bytes_whatever_the_users_settings_are(drawing: Drawing) -> None:
    with matplotlib.rc_context({"lines.linewidth": 5.0, "font.size": 20.0, "svg.fonttype": "path"}):
        assert (to_svg(drawing.draw), to_png(drawing.draw)) == drawing[1:]
    assert not re.search(r"\d{4}-\d\d-\d\dT", drawing.svg)  # no time of making


def test_pictures_are_small_and_their_svg_takes_nothing_from_elsewhere(drawing: Drawing) -> None:
    assert len(drawing.svg) < 4_500
    assert len(drawing.png) < 50_000
    assert not re.search(r"(?:href|src)=\"(?!#)", drawing.svg)
    for referred in re.findall(r"(?:href=\"#|url\(#)([^\")]+)", drawing.svg):
        assert f'id="{referred}"' in drawing.svg


def test_every_colour_stands_out_from_the_page_in_both_themes(drawing: Drawing) -> None:
    sheet = re.findall(r"<style[^>]*>(.*?)</style>", drawing.svg, re.DOTALL)[0]
    light, dark = (dict(re.findall(r"--(\w+):(#\w{6})", theme)) for theme in re.findall(r".plot{(--.*?)}", sheet))
    assert light.keys() == dark.keys()
    assert {*re.findall(r"var\(--(\w+)\)", sheet)} <= light.keys()
    assert not re.findall(r"(?:fill|stroke)(?:: ?|=\")#", drawing.svg), "every colour has one in the dark theme"
    for theme, page in ((light, "#ffffff"), (dark, "#101418")):
        for color in theme.values():
            assert contrast(color, page) >= 3, (color, page)  # WCAG 2.2, 1.4.11: graphics
        for name in re.findall(r'<g class="(\w)f"[^>]*><text', drawing.svg):
            assert contrast(theme[name], page) >= 4.5, (name, page)


def test_nothing_leaves_the_frame_of_its_axes_and_a_colour_without_a_partner_stays() -> None:
    figure = new_figure(2.9)
    axes = figure.subplots()
    axes.plot([-1e6, 1e6], [-1e6, 1e6], color="#009e73")
    axes.fill_between([0, 1], [0.5, 0.5], [-1e9, -1e9], color=FAINT, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    svg = to_svg(lambda: figure)
    numbers = [int(number) for data in re.findall(r' d="([^"]+)"', svg) for number in re.findall(r"-?\d+", data)]
    assert -3 < min(numbers) <= max(numbers) < 1011
    assert 'stroke="#009e73"' in svg
    assert 'class="ff"' in svg


def test_a_picture_on_a_page_has_a_name_and_leaves_its_style_to_the_page(arms: Arms) -> None:
    svg = to_svg(lambda: draw_curves(arms), 'both "<arms>"')
    assert ElementTree.fromstring(svg).get("aria-label") == 'both "<arms>"'
    assert "<style" not in svg


def test_a_png_is_a_white_sheet(drawing: Drawing) -> None:
    image = Image.open(io.BytesIO(drawing.png)).convert("RGB")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.width == 1008


def test_curves_name_both_arms_with_their_last_loss_and_show_the_gain(arms: Arms) -> None:
    shown = texts(to_svg(lambda: draw_curves(arms)))
    for name, runs in arms:
        mean = sum(run.training.curve[-1].dev_loss_nats for run in runs) / len(runs)
        assert f"{name}: {mean:.4f}" in shown
    assert "gain of each pair" in shown
    alone = texts(to_svg(lambda: draw_curves(arms[1:])))
    assert "gain of each pair" not in alone


def test_curves_of_runs_without_any_point_can_be_drawn(arms: Arms) -> None:
    """A record may hold an empty curve; its submission is still filed with a picture."""
    bare = [run.model_copy(update={"training": run.training.model_copy(update={"curve": ()})}) for run in arms[0][1]]
    assert curves_png([("base", bare)])
    assert curves_png([("base", bare), arms[1]])


def test_history_labels_every_step_and_leaves_out_challenges(rows: list[Row]) -> None:
    shown = texts(to_svg(lambda: draw_history(rows)))
    for row in rows:
        assert (f" {row.number} " in f" {shown} ") == (row.kind != "challenge")
        assert f"{row.number} {change_of(row)}" in shown or row.kind == "challenge"
    assert "training time" not in shown


def test_history_of_one_day_is_an_order_and_of_several_a_calendar(rows: list[Row]) -> None:
    day, next_day = "2026-11-22", "2026-11-23"
    one = [row.model_copy(update={"date": day}) for row in rows]
    figure = draw_history(one)
    assert figure.axes[-1].get_xlabel() == f"submissions of {day}, in their order"
    left, right = figure.axes[-1].get_xlim()
    xs = sorted(x for line in figure.axes[0].lines for x in line.get_xdata())
    assert xs[0] - left < 0.1 * (right - left)  # no empty hours before the first
    two = draw_history([*one[:-1], one[-1].model_copy(update={"date": next_day, "kind": "negative"})])
    assert [label.get_text() for label in two.axes[-1].get_xticklabels()] == [day, next_day]


def test_history_of_an_opening_alone_can_be_drawn(rows: list[Row]) -> None:
    assert "1 base" in texts(to_svg(lambda: draw_history(rows[:1])))


def test_a_record_in_speed_adds_the_time_to_history(rows: list[Row]) -> None:
    faster = rows[1].model_copy(update={"number": 9, "lane": "speed", "beaten": rows[1].recipe, "time_ratio": 0.5})
    assert "training time" in texts(to_svg(lambda: draw_history([*rows, faster])))
    times = plots._relative_times([*rows[:2], faster])
    assert times[9] == pytest.approx(0.5 * (rows[1].time_ratio or 0))


def test_what_did_not_win_is_hollow(rows: list[Row]) -> None:
    figure = draw_history(rows)
    hollow = [
        line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none" and line.get_marker() == "o"
    ]
    lost = [row.val_loss for row in rows if row.kind == "negative"]
    assert [value for line in hollow for value in line.get_ydata()] == lost


def test_a_price_line_passes_through_the_price(rows: list[Row]) -> None:
    axes = draw_cost(rows, {row.number: 100 for row in rows}, 1e-4).axes[0]
    x, y = axes.lines[0].get_data()
    assert float(y[-1]) == pytest.approx(1e-4 * float(x[-1]))


def test_gains_are_sorted_and_each_has_its_interval_and_its_price() -> None:
    axes = draw_gains(GAINS).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["large", "small", "one run", "far"]
    drawn = [tuple(map(float, line.get_xdata())) for line in axes.lines]
    assert {(one.price, one.price) for one in GAINS} <= {*drawn}
    assert {(0.02, 0.04), (0.001, 0.007)} <= {*drawn}
    hollow = {float(x) for line in axes.lines if line.get_markerfacecolor() == "none" for x in line.get_xdata()}
    assert {0.004, -0.01} <= hollow
    assert 0.03 not in hollow


def test_a_loss_far_beyond_all_gains_does_not_flatten_them() -> None:
    axes = draw_gains(GAINS).axes[0]
    left, right = axes.get_xlim()
    assert right - left < 0.2
    assert [text.get_text() for text in axes.texts] == ["-0.400"]
    drawn = [x for line in axes.lines for x in map(float, line.get_xdata())]
    assert left < min(drawn)
    assert max(drawn) < right


def test_the_legend_of_gains_names_what_is_there_in_the_words_that_are_given() -> None:
    def told(gains: Sequence[Gain]) -> list[str]:
        (legend,) = draw_gains(gains, "x", ("won", "lost", "tried")).legends
        return [text.get_text() for text in legend.get_texts()]

    assert told(GAINS) == ["won", "lost", "tried"]
    assert told(GAINS[1:]) == ["won", "tried"]


def test_strangers_words_are_neither_markup_nor_formulas(rows: list[Row], arms: Arms) -> None:
    hostile = 'base+$\\frac{$</text><script>alert("1")</script>\x00\n'
    shown = to_svg(lambda: draw_history([row.model_copy(update={"recipe": hostile}) for row in rows]))
    shown += to_svg(lambda: draw_curves([(hostile, arms[0][1])]))
    assert "<script" not in shown
    assert "\\frac" in shown


def test_a_date_that_no_calendar_has_is_named(rows: list[Row]) -> None:
    wrong = [row.model_copy(update={"date": "2026-13-41"}) for row in rows]
    with pytest.raises(LlmbenchError, match="2026-13-41 is not a date"):
        draw_history(wrong)


def test_a_change_is_what_differs_between_two_recipes(rows: list[Row]) -> None:
    row = rows[1]
    assert change_of(rows[0]) == "base"
    assert change_of(row.model_copy(update={"recipe": "base+a+b", "beaten": "base+a"})) == "+b"
    assert change_of(row.model_copy(update={"recipe": "base+b", "beaten": "base+a"})) == "+b -a"
