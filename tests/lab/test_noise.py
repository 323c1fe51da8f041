"""The noise study: it recovers the noise that was put in, and says what a track should declare."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import Pair
from harness.core.track import Track
from harness.lab.studies.noise import (
    UNIT_FACTOR,
    false_accepts,
    kept_study,
    save_study,
    smallest_gain,
    study,
    study_folder,
    study_recipe,
    study_seeds,
)
from harness.rule.forecast import forecast
from harness.show.report import noise_lines
from tests.make import RULE, STORED, make_run

SD = 0.01


def losses(count: int, correlation: float, seed: int = 1) -> tuple[Sequence[float], Sequence[float]]:
    """Of two arms whose single runs have the deviation SD."""
    generator = np.random.default_rng(seed)
    shared, own = generator.normal(size=count), generator.normal(size=(2, count))
    one, other = (4 + SD * (correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)).tolist()
    return one, other


def pairs_of(variant: str, record: Sequence[float], candidate: Sequence[float], digest: str = "b" * 64) -> list[Pair]:
    return [
        Pair(
            make_run("base", seed, one, training_digest=digest),
            make_run(f"base+{variant}", seed, other, training_digest=digest),
        )
        for seed, (one, other) in enumerate(zip(record, candidate, strict=True))
    ]


def several(paired_sds: Sequence[float], count: int = 6, spread: float = 1.0) -> dict[str, list[Pair]]:
    """Pairs of several variants and the same base runs; `spread` is how far a variant's runs scatter beside those."""
    base = np.linspace(-SD, SD, count)
    found = {}
    for number, paired_sd in enumerate(paired_sds):
        gains = np.random.default_rng(number).normal(size=count)
        gains = paired_sd * (gains - gains.mean()) / gains.std(ddof=1)
        found[f"v{number}"] = pairs_of(f"v{number}", (4 + base).tolist(), (4 + spread * base - gains).tolist())
    return found


@pytest.mark.parametrize("correlation", [0.9, 0.0])
def test_the_study_finds_the_noise(correlation: float) -> None:
    (found,) = study({"placebo": pairs_of("placebo", *losses(400, correlation))}, RULE).variants
    assert (found.variant, found.pairs) == ("placebo", 400)
    assert found.correlation == pytest.approx(correlation, abs=0.1)
    assert found.base_sd == pytest.approx(SD, rel=0.1)
    assert found.variant_sd == pytest.approx(SD, rel=0.1)
    assert found.paired_sd == pytest.approx(SD * (2 * (1 - correlation)) ** 0.5, rel=0.15)


def test_the_unit_is_the_median_over_the_variants_whatever_one_of_them_does() -> None:
    spreads = (0.002, 0.003, 0.004)
    report = study(several(spreads), RULE)
    assert report.noise_nats == pytest.approx(0.003)
    assert study(several((*spreads[:2], 0.4)), RULE).noise_nats == pytest.approx(0.003)
    assert study(several(spreads[::-1]), RULE).noise_nats == pytest.approx(0.003)
    assert report.noise_nats == pytest.approx(statistics.median(one.paired_sd for one in report.variants))


@pytest.mark.parametrize("factor", [1 / 1.6, 1.4, 1.6])
def test_a_declared_unit_that_is_far_off_is_said_to_be(factor: float, smoke: Track) -> None:
    rule = RULE.model_copy(update={"noise_nats": 0.003 * factor})
    report = study(several((0.003,) * 3), rule)
    is_far = not 1 / UNIT_FACTOR < factor < UNIT_FACTOR
    assert report.unit_is_off is is_far
    assert any("set it to 0.003" in line for line in noise_lines(report, smoke)) is is_far


def test_a_track_without_a_unit_is_told_what_to_declare(smoke: Track) -> None:
    report = study(several((0.003,) * 3), RULE.model_copy(update={"noise_nats": None}))
    assert (report.declared_nats, report.unit_is_off) == (None, None)
    assert any("write noise_nats = 0.003" in line for line in noise_lines(report, smoke))


def test_the_confirmation_keeps_its_promise_on_shuffled_placebos() -> None:
    pairs = pairs_of("placebo", *losses(60, 0.5))
    assert 0 < (study({"placebo": pairs}, RULE).false_accepts or 0) <= 0.015
    assert study({"v0": pairs_of("v0", *losses(60, 0.5))}, RULE).false_accepts is None  # not the track's placebo


def test_a_placebo_that_is_better_by_chance_gives_no_more_false_accepts() -> None:
    """Its arms are swapped at random: what is measured is the test, not this placebo's luck."""
    record, candidate = losses(60, 0.5)
    better = [loss - SD / 2 for loss in candidate]
    assert (false_accepts(record, better, RULE) or 0) <= 0.015


def test_stored_runs_are_shuffled_among_all_and_need_enough_of_them() -> None:
    record, candidate = losses(40, 0.0)
    assert 0 < (false_accepts(record, candidate, STORED) or 0) <= 0.012
    assert false_accepts(record[:5], candidate[:5], STORED) is None  # eight stored runs leave two for the candidate


def test_the_smallest_gain_is_found_with_nine_in_ten_and_grows_with_the_noise() -> None:
    rules = {sd: RULE.model_copy(update={"noise_nats": sd}) for sd in (SD, 2 * SD)}
    found = {sd: smallest_gain(rule, sd) or 0.0 for sd, rule in rules.items()}
    assert found[2 * SD] == pytest.approx(2 * found[SD], rel=0.02)
    assert forecast(rules[SD], found[SD], SD).accepted >= 0.9
    assert forecast(rules[SD], 0.95 * found[SD], SD).accepted < 0.9
    deaf = RULE.model_copy(update={"screen_pass": (1e6,) * 3, "screen_drop": (1e6,) * 3})
    assert smallest_gain(deaf, SD) is None


@pytest.mark.parametrize(
    ("num_variants", "count", "spread", "missing"),
    [
        (3, 6, 1.0, None),
        (3, 6, 0.5, None),  # a candidate that scatters less costs power alone
        (2, 9, 1.0, "3 variants"),
        (4, 4, 1.0, "15 degrees of freedom"),
        (3, 6, 1.5, "a ratio of 1.25 or less"),
    ],
)
def test_stored_runs_need_several_variants_that_scatter_no_more_than_the_base(
    num_variants: int, count: int, spread: float, missing: str | None, smoke: Track
) -> None:
    report = study(several((1e-6,) * num_variants, count, spread), RULE)
    found = report.stored_design
    assert (found.variants, found.df, found.base_df) == (num_variants, num_variants * (count - 1), count - 1)
    assert found.spread_ratio == pytest.approx(spread, rel=1e-3)
    assert found.supported is (missing is None)
    said = next(line for line in noise_lines(report, smoke) if line.startswith("stored runs"))
    assert (" supported by this study; " in said) is (missing is None)
    assert missing is None or f"NOT supported by this study, it needs {missing};" in said


def test_what_measures_no_noise_is_refused() -> None:
    with pytest.raises(
        LlmbenchError, match="there are 2 pairs of runs with and without placebo, but a noise study needs 3"
    ):
        study({"placebo": pairs_of("placebo", *losses(2, 0.5))}, RULE)
    with pytest.raises(LlmbenchError, match="show no noise"):
        study({"v0": pairs_of("v0", *[losses(8, 0.5)[0]] * 2)}, RULE)
    with pytest.raises(LlmbenchError, match="name a variant with --variant"):
        study({}, RULE)
    with pytest.raises(LlmbenchError, match="rename the variant"):  # its runs would replace the base's
        study_recipe("record")


def test_study_seeds_start_with_the_public_ones_and_never_repeat(smoke: Track) -> None:
    seeds = study_seeds(smoke, 20)
    assert tuple(seeds[:8]) == smoke.seeds
    assert len(set(seeds)) == 20


def test_a_kept_study_holds_several_variants_and_is_read_for_its_own_edition_only(tmp_path: Path, smoke: Track) -> None:
    project, digest = Project(tmp_path), smoke.training_digest
    record, candidate = losses(12, 0.5)
    first = {"placebo": pairs_of("placebo", record, candidate, digest)}
    assert save_study(project, smoke, first) == (study_folder(project, smoke), 0)
    second = {"idea": pairs_of("idea", record[:8], losses(8, 0.5, seed=2)[1], digest)}
    assert save_study(project, smoke, second)[1] == 0
    assert kept_study(project, smoke) == first | second
    assert list(kept_study(project, smoke)) == ["placebo", "idea"]
    assert len(list(study_folder(project, smoke).iterdir())) == 12 + 12 + 8  # the base's runs stand there once
    budget = smoke.budget.model_copy(update={"tokens": 2 * smoke.budget.tokens})
    assert kept_study(project, smoke.model_copy(update={"budget": budget})) == {}


def test_a_study_takes_no_other_variant_its_runs_of_the_base(tmp_path: Path, smoke: Track) -> None:
    """The base's runs are shared, so a variant's older pairs would end where the base is trained with other code."""
    project, digest = Project(tmp_path), smoke.training_digest
    save_study(project, smoke, {"old": pairs_of("old", *losses(8, 0.5), digest)})
    new = {
        "placebo": [
            Pair(*(run.model_copy(update={"code_digest": "e" * 64}) for run in pair))
            for pair in pairs_of("placebo", *losses(6, 0.5), digest)
        ]
    }
    before = kept_study(project, smoke)
    with pytest.raises(LlmbenchError, match=r"train the pairs of old again too \(add --variant old\)"):
        save_study(project, smoke, new)
    assert kept_study(project, smoke) == before
    again = [Pair(*(run.model_copy(update={"code_digest": "e" * 64}) for run in pair)) for pair in before["old"][:6]]
    folder, removed = save_study(project, smoke, new | {"old": again})
    assert removed == 0
    kept = kept_study(project, smoke)
    for variant, made in (("placebo", new["placebo"]), ("old", again)):
        assert [pair.candidate for pair in kept[variant][:6]] == [pair.candidate for pair in made]
    assert len(list(folder.iterdir())) == 6 + 6 + 6 + 2 * 2


def test_a_run_without_its_partner_is_a_broken_study(tmp_path: Path, smoke: Track) -> None:
    project = Project(tmp_path)
    folder, _ = save_study(project, smoke, {"placebo": pairs_of("placebo", *losses(4, 0.5), smoke.training_digest)})
    (folder / "record-seed-2.json").unlink()
    with pytest.raises(LlmbenchError, match=r"record-seed-2.json is missing"):
        kept_study(project, smoke)
