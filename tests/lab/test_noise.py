"""The noise study and the plan: they recover the noise that was put in, and more gain needs fewer pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import Pair
from harness.core.track import Track
from harness.lab.noise import accepts, save_study, stored_pairs, study, study_seeds
from tests.make import RULE, make_run


def placebo_pairs(count: int, correlation: float, sd: float = 0.01) -> list[Pair]:
    generator = np.random.default_rng(1)
    shared, own = generator.normal(size=count), generator.normal(size=(2, count))
    losses = 4 + sd * (correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)
    return [
        Pair(make_run("base", seed, one), make_run("base+placebo", seed, other))
        for seed, (one, other) in enumerate(losses.T.tolist())
    ]


@pytest.mark.parametrize(("correlation", "design"), [(0.9, "paired"), (0.0, "welch")])
def test_the_study_finds_the_noise_and_the_design(correlation: float, design: str) -> None:
    report = study(placebo_pairs(400, correlation), RULE)
    assert report.correlation == pytest.approx(correlation, abs=0.1)
    assert report.seed_sd == pytest.approx(0.01, rel=0.1)
    assert report.paired_sd == pytest.approx(0.01 * (2 * (1 - correlation)) ** 0.5, rel=0.15)
    assert report.design == design


def test_the_rule_keeps_its_promise_on_shuffled_placebos_and_finds_real_gains() -> None:
    pairs = placebo_pairs(60, 0.5)
    assert study(pairs, RULE).false_accepts <= 0.015
    losses = [[run.evaluation.val_loss for run in arm] for arm in zip(*pairs, strict=True)]
    powers = [accepts(losses[0], losses[1], RULE, gain=gain).accepted for gain in (0.0, 0.01, 0.02, 0.04)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.95


def test_more_pairs_detect_smaller_gains() -> None:
    for design in ("paired", "welch"):
        sizes = [getattr(found, design) for found in study(placebo_pairs(30, 0.5), RULE).detectable]
        assert all(size is not None for size in sizes)
        assert sizes == sorted(sizes, reverse=True)


def test_two_pairs_are_no_study() -> None:
    with pytest.raises(LlmbenchError, match="3 pairs or more"):
        study(placebo_pairs(2, 0.5), RULE)


def test_study_seeds_start_with_the_public_ones_and_never_repeat(smoke: Track) -> None:
    seeds = study_seeds(smoke, 20)
    assert tuple(seeds[:8]) == smoke.seeds
    assert len(set(seeds)) == 20


def test_a_kept_study_is_read_back_for_its_own_edition_only(tmp_path: Path, smoke: Track) -> None:
    project = Project(tmp_path)
    pairs = [
        Pair(*(run.model_copy(update={"training_digest": smoke.training_digest}) for run in pair))
        for pair in placebo_pairs(12, 0.5)
    ]
    save_study(project, smoke, pairs)
    assert stored_pairs(project, smoke) == pairs
    budget = smoke.budget.model_copy(update={"tokens": 2 * smoke.budget.tokens})
    assert stored_pairs(project, smoke.model_copy(update={"budget": budget})) == []
    rule = smoke.rule.model_copy(update={"noise_variant": "requery"})
    assert stored_pairs(project, smoke.model_copy(update={"rule": rule})) == []
