"""Ideas over sizes: the report follows from the runs, and a forecast is of what was known before."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import FinishedRun
from harness.core.track import Track
from harness.lab.arms import source_digests
from harness.lab.studies.ladder import (
    Made,
    make_forecast,
    measure_ladder,
)
from harness.lab.studies.ladder_files import kept_forecasts, kept_ladder, ladder_folder, save_forecast, save_ladder
from harness.lab.studies.rungs import compute_of, rungs_of
from harness.show.studies.ladder import draw_ladder, ladder_lines, ladder_table, scale_files, scale_page
from tests.make import ROOT, make_run
from tests.sandbox import git

SIZES = ("pocket-s", "pocket", "pocket-l")
BASE = {"pocket-s": 4.2, "pocket": 3.6, "pocket-l": 3.2}


@pytest.fixture(scope="module")
def tracks() -> list[Track]:
    return rungs_of(Project(ROOT), "pocket")


def runs(track: Track, recipe: str, gain: float, seeds: Sequence[int] = range(4)) -> list[FinishedRun]:
    noise = np.random.default_rng([len(recipe), len(track.name)]).normal(0, 0.004, 8)
    own: Any = {"training_digest": track.training_digest, "sources": source_digests(Project(ROOT), recipe)}
    return [make_run(recipe, seed, BASE[track.name] + 0.01 * seed - gain + noise[seed], **own) for seed in seeds]


def made(tracks: Sequence[Track], **gains: Sequence[float]) -> Made:
    """Runs of the base and of ideas whose true gains these are, from the smallest size on."""
    return {
        track.name: {"base": runs(track, "base", 0.0)}
        | {f"base+{name}": runs(track, f"base+{name}", own[place]) for name, own in gains.items() if place < len(own)}
        for place, track in enumerate(tracks)
    }


def test_the_sizes_are_in_the_order_of_their_compute(tracks: list[Track]) -> None:
    assert tuple(track.name for track in tracks) == SIZES
    assert rungs_of(Project(ROOT), "pocket-l") == tracks
    compute = [compute_of(track) for track in tracks]
    assert compute == sorted(compute)
    with pytest.raises(LlmbenchError, match="smoke has no other size"):
        rungs_of(Project(ROOT), "smoke")


def test_a_gain_that_shrinks_has_a_slope_below_zero_and_one_that_turns_says_so(tracks: list[Track]) -> None:
    found = measure_ladder(tracks, "base", made(tracks, qk_norm=(0.18, 0.11, 0.05), requery=(0.1, -0.1, -0.2)), {})
    shrinks, turns = found.ideas
    assert (shrinks.name, shrinks.sign_holds) == ("qk_norm", True)
    assert shrinks.slope is not None
    assert shrinks.slope.high < 0
    assert turns.sign_holds is False
    for step, gain in zip(shrinks.steps, (0.18, 0.11, 0.05), strict=True):
        assert step.gain is not None
        assert step.gain.low < gain + 0.01
        assert step.gain.high > gain - 0.01
        assert step.multiple is not None
        assert step.multiple.value > 1
    lines = "\n".join(ladder_lines(found))
    assert "qk_norm lowers the loss on all sizes" in lines
    assert "requery lowers the loss on some sizes and raises it on others" in lines
    assert "extrapolated to 10 times the compute of pocket-l" in lines
    assert ladder_table(found, 100).row_count == 6
    assert draw_ladder(found).axes


def test_what_was_not_trained_on_a_size_is_a_line_and_no_gain(tracks: list[Track]) -> None:
    found = measure_ladder(tracks, "base", made(tracks, qk_norm=(0.1, 0.1)), {})
    (idea,) = found.ideas
    assert idea.steps[-1].gain is None
    assert idea.steps[-1].reason == "not trained on this size"
    assert "not trained on this size" in scale_page([("pocket", found)], {})


def test_a_forecast_rests_on_the_smaller_sizes_and_is_written_once(tracks: list[Track], tmp_path: Path) -> None:
    project = Project(tmp_path)
    both = made(tracks, qk_norm=(0.18, 0.12, 0.07))
    below = {name: both[name] for name in SIZES[:2]}
    found = make_forecast(tracks, tracks[2], "base", below, 4)
    assert found.rungs == SIZES[:2]
    save_forecast(project, "pocket", found)
    with pytest.raises(LlmbenchError, match="a forecast is written only once, before the first run on the track"):
        save_forecast(project, "pocket", found)
    assert kept_forecasts(project, "pocket") == {"pocket-l": found}
    step = measure_ladder(tracks, "base", both, {"pocket-l": found}).ideas[0].steps[-1]
    assert step.predicted == found.ideas["qk_norm"]
    assert step.predicted_on == found.date
    assert step.predicted.low < 0.07 < step.predicted.high
    with pytest.raises(LlmbenchError, match="needs runs on two smaller sizes"):
        make_forecast(tracks, tracks[1], "base", below, 4)


def test_kept_runs_are_read_back_and_those_of_other_files_are_refused(tracks: list[Track], tmp_path: Path) -> None:
    project = Project(tmp_path)
    for folder in ("models", "tracks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    kept = made(tracks, qk_norm=(0.1, 0.1, 0.1))
    save_ladder(project, "pocket", kept)
    assert measure_ladder(tracks, "base", kept_ladder(project, "pocket", tracks), {}) == measure_ladder(
        tracks, "base", kept, {}
    )
    variant = tmp_path / "models" / "variants" / "qk_norm.py"
    variant.write_text(variant.read_text() + "\nx = 1\n")
    with pytest.raises(LlmbenchError, match="is a run with a variant that has changed since"):
        kept_ladder(project, "pocket", tracks)


def test_the_report_counts_kept_orders_kept_verdicts_and_forecasts_that_came_true(tracks: list[Track]) -> None:
    both = made(tracks, qk_norm=(0.18, 0.12, 0.07), requery=(0.1, 0.05, 0.2), token_smear=(-0.1, -0.1, -0.1))
    below = {name: both[name] for name in SIZES[:2]}
    said = make_forecast(tracks, tracks[2], "base", below, 4)
    found = measure_ladder(tracks, "base", both, {"pocket-l": said})
    first, second = found.agreement
    assert (first.smaller, first.larger, second.larger, first.ideas) == ("pocket-s", "pocket", "pocket-l", 3)
    assert first.order.value == 1
    assert second.order.value == pytest.approx(2 / 3)  # requery overtakes qk_norm
    assert second.order.low < 2 / 3 <= second.order.high
    assert second.verdicts.value == 1
    (coverage,) = found.coverage
    assert (coverage.track, coverage.ideas) == ("pocket-l", 3)
    assert coverage.inside.value == pytest.approx(2 / 3)  # requery was forecast to shrink
    lines = "\n".join(ladder_lines(found))
    assert (
        "pocket and pocket-l: of any two of the 3 ideas, the same one has the larger gain on both sizes in 67%" in lines
    )
    assert "token_smear raises the loss on all sizes" in lines
    assert all(0.001 < one.noise < 0.02 for one in found.rungs if one.noise is not None)


def test_the_page_on_scale_follows_from_the_kept_runs(project: Project) -> None:
    for path, text in scale_files(project).items():
        assert path.read_text() == text, "run `llmbench ladder --stored --save`"
        assert "$" not in text, "an SVG of ours has no TeX"


def test_each_forecast_was_committed_before_the_runs_of_its_size(project: Project) -> None:
    if not (project.root / ".git").exists() or git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("this copy has no whole history")
    for name in sorted(path.name for path in ladder_folder(project, "x").parent.glob("*/")):
        for track in kept_forecasts(project, name):
            folder = ladder_folder(project, name)
            added = [
                git(ROOT, "log", "--diff-filter=A", "--format=%H", "--reverse", "--", str(path)).split()
                for path in (folder / "forecasts" / f"{track}.json", folder / track)
            ]
            if not all(added):
                continue  # the runs are not there yet
            (forecast, *_), (runs, *_) = added
            assert forecast != runs
            git(ROOT, "merge-base", "--is-ancestor", forecast, runs)
