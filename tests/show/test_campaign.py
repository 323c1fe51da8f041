"""What a person sees of a campaign: a table that fits the terminal, and a log that is never silent for long."""

from __future__ import annotations

import time
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.core import terminal
from harness.core.events import Evaluating, Step
from harness.core.track import Track
from harness.lab.arms import Entry
from harness.lab.studies.outcomes import CampaignRow
from harness.lab.studies.screening import Contestant
from harness.show.studies.campaign import LiveCampaign, campaign_gains, campaign_notes, campaign_table

RUN: Any = SimpleNamespace(recipe="base+idea", seed=3)


def row(name: str, **fields: Any) -> CampaignRow:
    content = dict.fromkeys(CampaignRow.model_fields) | {
        **{"name": name, "outcome": "rejected", "reasons": ("screened_out",), "pairs": 1, "runs": 1, "note": ""},
        **{"gain": -0.01, "noise": 0.005, "price": 0.001, "statements": 10, "stage": "screen", "judged_before": False},
        **fields,
    }
    return CampaignRow(**content)


CONFIRMED = {"stage": "confirmation", "reasons": ("gain_shown",), "ci_low": 0.02, "ci_high": 0.04, "noise": None}
NO_NUMBERS = dict.fromkeys(("gain", "noise", "price", "statements", "stage"))
ROWS = (
    row("a_good_idea", outcome="accepted", gain=0.03, submission="0007-pocket-a_good_idea", **CONFIRMED),
    row("a_bad_idea", judged_before=True),
    row("no_idea", outcome="refused", reasons=(), note="no experts", **NO_NUMBERS),
)


def test_a_long_name_stays_whole_and_columns_give_way() -> None:
    name = "exponential_moving_average_of_weights"
    console = Console(file=StringIO(), width=80, no_color=True)
    with console.capture() as captured:
        console.print(campaign_table([row(name, reasons=("screened_out",))], "1 candidate", 80))
    line = captured.get().splitlines()[-1]
    assert line.startswith(f"{name} ")
    assert len(line) <= 80
    assert "rejected" in line


def printed(width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, no_color=True)
    with console.capture() as captured:
        console.print(campaign_table(ROWS, "3 candidates", width))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_each_outcome_has_a_line_with_its_numbers(width: int) -> None:
    lines = printed(width)
    assert all(len(line) <= width for line in lines)
    good, bad, none = lines[-3:]
    for words in ("a_good_idea", "+0.0300", "+0.0200 +0.0400", "0.0010", "accepted", "0007"):
        assert words in good
    for words in ("a_bad_idea", "-0.0100", "± 0.0050", "rejected", "no"):
        assert words in bad
    assert "refused" in none
    assert ("judged before: screened_out" in bad) is ("gain_shown" in good) is (width >= 110)
    assert campaign_notes(ROWS) == ["no_idea: no experts"]


def test_the_picture_has_who_has_a_gain_and_a_screen_has_its_noise() -> None:
    good, bad = campaign_gains(ROWS)
    assert (good.name, good.low, good.high, good.accepted, good.screened) == ("a_good_idea", 0.02, 0.04, True, False)
    assert (bad.low, bad.high, bad.accepted, bad.screened) == pytest.approx((-0.015, -0.005, False, True))


def contestants(count: int) -> Any:
    found = [Contestant(f"idea_{place}", Entry()) for place in range(count)]
    found[-1].state = "screening"
    found[-1].candidate = SimpleNamespace(arms=SimpleNamespace(candidate="base+idea"))  # type: ignore[assignment]
    return SimpleNamespace(contestants=found, seconds_left=lambda: 120.0)


def test_a_terminal_shows_who_is_at_work_first_and_never_more_than_it_has_room_for(smoke: Track) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80, height=12, no_color=True, color_system=None)
    live = LiveCampaign(console, smoke)
    live.campaign = contestants(40)
    live(RUN, Step(step=8, tokens=smoke.budget.tokens // 4, loss_nats=3.0, train_s=1.0))
    with console.capture() as captured:
        console.print(live._render())
    lines = captured.get().splitlines()
    assert len(lines) <= 12
    assert lines[1].startswith("idea_39")
    assert "seed 3 25 %" in lines[1]
    assert lines[-1].strip() == "campaign: 0 of 40 done; base+idea seed 3 25 %; about 2 min left"
    assert "and 33 more" in lines[-2]


def test_a_log_that_was_silent_says_how_far_it_is(smoke: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "QUIET_S", 0.5)
    text = StringIO()
    with LiveCampaign(Console(file=text, width=80), smoke) as live:
        live.campaign = contestants(2)
        live(RUN, Evaluating())
        live.tell("said just now")
        time.sleep(1.6)
    assert text.getvalue().splitlines()[:2] == [
        "said just now",
        "campaign: 0 of 2 done; base+idea seed 3 evaluating; about 2 min left",
    ]
