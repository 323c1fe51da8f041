"""What a person sees while runs train: all of it at 80 columns, without colour where that is wished, and in a log."""

from __future__ import annotations

import re
import sys
import time
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.cli.options import log
from harness.core import terminal
from harness.core.events import Done, Lost, Step
from harness.core.project import Project
from harness.core.runs import FinishedRun, load_run
from harness.core.terminal import fit, stderr_console
from harness.core.track import Track, load_track
from harness.lab.arms import Arms
from harness.show.live import BLOCKS, LiveRuns, sparkline
from tests.make import ROOT

ARMS = Arms("base", "base+token_smear")
STUDY = ROOT / "benchmarks" / "noise" / "pocket"
FILES = {"record": "record", "candidate": "token_smear"}
SEED = 10**9
"""Of a pair that is confirmed."""
GAIN = "+0.0512"
"""Mean of the kept pairs of seeds 0 and 1."""


@pytest.fixture(scope="module")
def pocket(project: Project) -> Track:
    return load_track(project, "pocket")


def finished(arm: str, seed: int) -> FinishedRun:
    run = load_run(STUDY / f"{FILES[arm]}-seed-{seed}.json")
    assert isinstance(run, FinishedRun)
    return run


def watch(track: Track, console: Console) -> LiveRuns:
    """The screen is over, two of the confirmation's pairs are in, and both arms of the third train."""
    watching = LiveRuns(console, track, ARMS, ("screen", "confirmation"))
    watching.expect(None, jobs=2)
    for arm in ("record", "candidate"):
        for seed in (0, 1):
            run = finished(arm, seed)
            watching(run, Done(result=run, reused=arm == "record"))
            again = run.model_copy(update={"seed": SEED + seed})
            watching(again, Done(result=again, reused=False))
    for recipe, steps in ((ARMS.record, 150), (ARMS.candidate, 60)):
        run_: Any = SimpleNamespace(recipe=recipe, seed=SEED + 2)
        for step in range(1, steps + 1):
            watching(run_, Step(step=step, tokens=2048 * step, loss_nats=3 + 4 / step, train_s=step / 3))
    return watching


def screen(track: Track, width: int, **options: Any) -> list[str]:
    console = Console(file=StringIO(), force_terminal=True, width=width, **options)
    watching = watch(track, console)
    with console.capture() as captured:
        console.print(watching._render())
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "rate"), [(56, ""), (80, "6,144 tok/s +"), (120, "6,144 tok/s +")])
def test_each_run_has_its_arm_its_curve_and_its_time_left_in_one_line(pocket: Track, width: int, rate: str) -> None:
    lines = screen(pocket, width, no_color=True, color_system=None)
    assert len(lines) == 4 if width >= 72 else 5  # a stage's own line may need two
    assert all(len(line) <= width for line in lines)
    arms = zip(lines, ("base", r"(base|…)\+token_smear"), ("3.027", "3.067"), ("20 s", "50 s"), strict=False)
    for line, arm, loss, left in arms:
        assert re.search(rf"^pair 3 (seed {SEED + 2} )?{arm} .*█.*▁ +loss {loss} +{rate}{left} left *$", line), line
        assert width < 72 or "…" not in line
    assert lines[2].strip() == f"screen: passed, 2 pairs, gain {GAIN}"
    contest = " ".join(map(str.strip, lines[3:]))
    assert contest.startswith("confirmation: 2 of 3 pairs, about ")
    assert contest.endswith(f"gain so far {GAIN}")


def test_a_line_that_is_told_meanwhile_stands_by_itself(pocket: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    stderr_console.cache_clear()
    with LiveRuns(stderr_console(), pocket, ARMS, ("screen", "confirmation")) as watching:
        watching._live.refresh()
        log("look 1 is near")
    stderr_console.cache_clear()
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", screen.getvalue())
    assert "screen: 0 of 1 pairs" in text
    assert "confirmation: follows if the candidate passes the screen, 3 to 8 pairs" in text
    assert "look 1 is near" in re.split(r"[\r\n]+", text)


@given(st.text(max_size=200), st.integers(20, 100))
def test_fitted_text_keeps_its_words_and_what_is_to_be_copied(text: str, width: int) -> None:
    fitted = fit(text, width)
    assert fitted.split() == text.replace("\x1f", " ").split()
    assert all(len(line) <= width or " " not in line.strip() or "`" in line for line in fitted.split("\n"))
    command = "`llmbench run candidate --variant token_smear`"
    assert command in fit(f"{text.replace('`', '')} {command} more", width)


def test_the_readme_shows_what_the_program_shows(pocket: Track) -> None:
    lines = [line.rstrip() for line in screen(pocket, 80, no_color=True, color_system=None)]
    assert "\n".join(("```", *lines, "```")) in (ROOT / "README.md").read_text()


def test_without_colour_no_colour_is_sent(pocket: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert re.search(r"\x1b\[[\d;]*3[0-7]m", "\n".join(screen(pocket, 80, color_system="standard")))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*[34]\d[;m]", "\n".join(screen(pocket, 80)))


def test_a_log_has_a_line_an_event_and_one_where_it_was_silent(pocket: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "QUIET_S", 0.2)
    text = StringIO()
    with watch(pocket, Console(file=text)):
        time.sleep(0.5)
    lines = text.getvalue().splitlines()
    assert "\x1b" not in text.getvalue()
    assert lines[0] == "pair 1 seed 0 base: val loss 3.6161 (trained before)"
    for stage in ("screen", "confirmation"):  # here both have the same numbers
        assert f"{stage}: 2 pairs, gain so far +0.0512 (+0.0495, +0.0529)" in lines
    progress = [line for line in lines if "left" in line]
    assert 1 <= len(progress) <= 3
    assert re.fullmatch(
        rf"pair 3 seed {SEED + 2} base 71 %, loss 3\.027, 20 s left; "
        rf"pair 3 seed {SEED + 2} base\+token_smear 29 %, loss 3\.067, 50 s left; "
        rf"screen: passed, 2 pairs, gain \{GAIN}; "
        rf"confirmation: 2 of 3 pairs, about \d+ s left; gain so far \{GAIN}",
        progress[0],
    )


def test_the_time_left_is_that_of_kept_runs_where_there_are_any(pocket: Track) -> None:
    watching = LiveRuns(Console(file=StringIO()), pocket, ARMS)
    assert watching._stage_lines() == ["confirmation: 0 of 3 pairs"]
    watching.expect(100.0, jobs=2)
    assert watching._stage_lines() == ["confirmation: 0 of 3 pairs, about 5 min left"]  # six runs, two at a time


def test_a_reason_is_shown_letter_for_letter(pocket: Track) -> None:
    text, run = StringIO(), SimpleNamespace(recipe="base", seed=2)
    with LiveRuns(Console(file=text), pocket, ARMS) as watching:
        watching(run, Lost(reason="no [bold] word is markup"))  # type: ignore[arg-type]
    assert "lost (no [bold] word is markup)" in text.getvalue()


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(1, 40))
def test_a_sparkline_has_its_width_and_keeps_the_order(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BLOCKS)
    falling = sparkline(sorted(values, reverse=True), width)
    assert list(falling) == sorted(falling, reverse=True)
