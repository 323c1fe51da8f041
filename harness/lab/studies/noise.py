"""The noise study of a track: pairs of several variants and the base, which show how much results vary by chance.

The study gives `noise_nats`, the unit in which the track's screen (the cheap first test) measures gains. One variant is
not enough, because the spread of a pair's difference depends on what the variant changes.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import FailedRun, FinishedRun, Pair, finished, load_run, save_run
from harness.core.schema import Count, Positive, Strict
from harness.core.track import Rule, Track
from harness.rule.comparable import comparability_problems
from harness.rule.forecast import NUM_CONTESTS, forecast
from harness.rule.sequential import Criterion, replay
from harness.rule.stats import pair_correlation
from harness.variants.recipe import format_recipe

FEWEST_PAIRS = 3
TARGET_POWER = 0.9
UNIT_FACTOR = 1.5
"""If a track's `noise_nats` is wrong by at most this factor, its screen loses little power and costs few more runs
(benchmarks/verdict)."""

# A track may compare candidates with stored runs of the record only under these conditions, because its test then
# assumes that the runs of both recipes have the same spread.
FEWEST_VARIANTS, FEWEST_DF, LARGEST_RATIO = 3, 15, 1.25

RECORD = "record"
"""How the names of files with the base's runs begin. A file with a variant's run begins with the variant's name."""


class VariantNoise(Strict):
    """The pairs of one variant and the base. Means and deviations are in nats per token."""

    variant: str
    pairs: Positive
    mean_gain: float
    """Mean gain of the pairs. For a placebo (a variant without effect) its expected value is zero."""
    base_sd: float
    """Standard deviation of the base's val loss over the seeds of these pairs."""
    variant_sd: float
    """Standard deviation of the variant's val loss over the seeds of these pairs."""
    paired_sd: float
    """Standard deviation of a pair's difference in val loss."""
    correlation: float | None


class StoredDesign(Strict):
    """Whether candidates may be compared with stored runs of the record.

    This is allowed if their losses do not vary much more than the record's losses.
    """

    variants: Count
    df: Count
    """Degrees of freedom of the pooled standard deviation of the variants' runs."""
    base_df: Count
    """Degrees of freedom of the standard deviation of the base's runs."""
    spread_ratio: float
    """Pooled standard deviation of the variants' runs divided by that of the base's runs."""
    supported: bool
    """Whether there are at least 3 variants and 15 degrees of freedom, and the ratio is at most 1.25."""


class NoiseReport(Strict):
    """The noise study of one track."""

    variants: tuple[VariantNoise, ...]
    noise_nats: float
    """Median over the variants of the standard deviation of a pair's difference. The track should declare it."""
    declared_nats: float | None
    """The `noise_nats` that the track declares; None if it declares none, and therefore has no screen."""
    unit_is_off: bool | None
    """Whether the measured and the declared value differ by more than a factor of 1.5; None if none is declared."""
    false_accepts: float | None
    """Share of simulated confirmations that accept the placebo, from its shuffled pairs; None with too few pairs."""
    detectable_nats: float | None
    """The smallest gain that `run candidate` accepts with a probability of 0.9, given normal noise of `noise_nats`;
    None if it is more than 20 times that noise."""
    stored_design: StoredDesign


def study(pairs: Mapping[str, Sequence[Pair]], rule: Rule) -> NoiseReport:
    """The report on the pairs of all variants.

    Raises LlmbenchError if a variant has too few pairs, or only pairs with equal losses.
    """
    if not pairs:
        raise LlmbenchError(
            "a noise study needs pairs of runs, with and without at least one variant; name a variant with --variant"
        )
    found = [_variant_noise(variant, some) for variant, some in pairs.items()]
    noise_nats, declared = statistics.median(one.paired_sd for one in found), rule.noise_nats
    own = pairs.get(rule.noise_variant)
    return NoiseReport(
        variants=tuple(found),
        noise_nats=noise_nats,
        declared_nats=declared,
        unit_is_off=None if declared is None else abs(math.log(noise_nats / declared)) > math.log(UNIT_FACTOR),
        false_accepts=None if own is None else false_accepts(*_losses(own), rule),
        detectable_nats=smallest_gain(rule, noise_nats),
        stored_design=_stored_design(pairs),
    )


def _losses(pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    """Val losses of the base and of the variant, both in the order of the pairs."""
    return [p.record.evaluation.val_loss for p in pairs], [p.candidate.evaluation.val_loss for p in pairs]


def _variant_noise(variant: str, pairs: Sequence[Pair]) -> VariantNoise:
    if len(pairs) < FEWEST_PAIRS:
        raise LlmbenchError(
            f"there are {len(pairs)} pairs of runs with and without {variant}, but a noise study needs {FEWEST_PAIRS} "
            f"or more; train more pairs with --pairs"
        )
    base, other = _losses(pairs)
    gains = [one - two for one, two in zip(base, other, strict=True)]
    spreads = {"base_sd": base, "variant_sd": other, "paired_sd": gains}
    deviations = {name: statistics.stdev(values) for name, values in spreads.items()}
    if not all(deviations.values()):
        raise LlmbenchError(
            f"the runs show no noise: all runs with {variant} have the same loss, or all runs of the base have, or all "
            f"pairs have the same difference; leave out {variant} if it changes nothing"
        )
    return VariantNoise(
        variant=variant,
        pairs=len(pairs),
        mean_gain=statistics.fmean(gains),
        correlation=pair_correlation(base, other),
        **deviations,
    )


def _stored_design(pairs: Mapping[str, Sequence[Pair]]) -> StoredDesign:
    """Compare the spread of the variants' runs (each about its variant's mean) with the spread of the base's runs."""
    base = {pair.record.seed: pair.record.evaluation.val_loss for some in pairs.values() for pair in some}
    others = [_losses(some)[1] for some in pairs.values()]
    df = sum(len(losses) - 1 for losses in others)
    variance = sum(statistics.variance(losses) * (len(losses) - 1) for losses in others) / df
    ratio = (variance / statistics.variance(base.values())) ** 0.5
    return StoredDesign(
        variants=len(others),
        df=df,
        base_df=len(base) - 1,
        spread_ratio=ratio,
        supported=len(others) >= FEWEST_VARIANTS and df >= FEWEST_DF and ratio <= LARGEST_RATIO,
    )


def false_accepts(record: Sequence[float], candidate: Sequence[float], rule: Rule) -> float | None:
    """Share of simulated confirmations that accept the placebo; None if there are too few pairs.

    Each simulation draws the placebo's pairs without replacement, because a repeated pair would make the noise look
    smaller. It swaps the two runs of a pair at random, because runs without an effect are exchangeable. The swaps also
    remove the placebo's mean gain, which is due to chance. On a track with stored runs there are no pairs, so all runs
    are shuffled. Simulations from few pairs resemble each other. Therefore the share has an error of about one
    percentage point with eight pairs. If there are fewer pairs than a confirmation can use, each simulated confirmation
    ends after the last of them.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    if rule.stored_runs is None:
        values_SA = np.array([record, candidate]).T
        order_CS = generator.permuted(np.tile(np.arange(len(values_SA)), (NUM_CONTESTS, 1)), axis=1)
        drawn_CSA = values_SA[order_CS[:, : rule.looks[-1]]]
        swap_CS1 = generator.integers(0, 2, (*drawn_CSA.shape[:2], 1)).astype(bool)
        drawn_CSA = np.where(swap_CS1, drawn_CSA[..., ::-1], drawn_CSA)
        records, candidates = drawn_CSA[..., 0], drawn_CSA[..., 1]
    else:
        runs_CR = generator.permuted(np.tile([*record, *candidate], (NUM_CONTESTS, 1)), axis=1)
        records, candidates = runs_CR[:, : rule.stored_runs], runs_CR[:, rule.stored_runs :][:, : rule.looks[-1]]
    if candidates.shape[-1] < rule.looks[0]:
        return None
    criterion = Criterion(
        quantity="loss",
        record=records,
        candidate=candidates,
        margin=0.0,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )
    return float((replay([criterion], rule).decision == 1).mean())


def smallest_gain(rule: Rule, sd: float) -> float | None:
    """The smallest true gain that is accepted with probability TARGET_POWER; None if it is 20 `sd` or more.

    Gains are tried in steps of 0.01 `sd`, where `sd` is the standard deviation of a pair's gain.
    """
    counts = range(2_000)
    found = bisect_left(counts, TARGET_POWER, key=lambda count: forecast(rule, count * sd / 100, sd).accepted)
    return found * sd / 100 if found < len(counts) else None


# --- the kept study ----------------------------------------------------------------------------------------------


def study_folder(project: Project, track: Track) -> Path:
    """Folder of a track's noise study.

    The file `record-seed-N.json` is a run of the base, `VARIANT-seed-N.json` is a run of a variant.
    """
    return project.root / "benchmarks" / "noise" / track.name


def study_seeds(track: Track, count: int) -> list[int]:
    """The first `count` seeds of a noise study: the track's public seeds, then the numbers after the largest of these
    seeds."""
    return [*track.seeds, *range(max(track.seeds) + 1, max(track.seeds) + 1 + count)][:count]


def study_recipe(variant: str) -> str:
    """The base with `variant`, the recipe that is compared with the base.

    Raises LlmbenchError if the variant is called `record`, because the files of the base's runs have that name.
    """
    if variant == RECORD:
        raise LlmbenchError(
            f"a variant of a noise study cannot be named '{RECORD}', because the base's runs are saved under this "
            f"name; rename the variant"
        )
    return format_recipe((variant,))


def kept_study(project: Project, track: Track) -> dict[str, list[Pair]]:
    """Variant -> its stored pairs of this version of the track. The placebo (a variant that has no effect) comes first.

    Pairs whose two runs cannot be compared, for example because the code differs, are left out. Raises LlmbenchError if
    the file of a run is not valid.
    """
    found, records = defaultdict[str, list[Pair]](list), dict[str, FinishedRun | FailedRun]()
    folder = study_folder(project, track)
    files = [(path, *path.stem.rpartition("-seed-")) for path in folder.glob("*-seed-*.json")]
    for path, variant, _, seed in sorted(files, key=lambda file: (file[1], len(file[3]), file[3])):
        if variant == RECORD:
            continue
        run = load_run(path)
        if seed not in records:
            records[seed] = load_run(folder / _file_name(RECORD, seed))
        pair = finished((records[seed], run))
        own = [(one.training_digest, one.recipe, str(one.seed)) for one in pair]
        named = [(track.training_digest, recipe, seed) for recipe in (format_recipe(()), study_recipe(variant))]
        if own == named and not comparability_problems(pair[:1], pair[1:], timed=False):
            found[variant].append(Pair(*pair))
    return dict(sorted(found.items(), key=lambda item: item[0] != track.rule.noise_variant))


def _file_name(arm: str, seed: int | str) -> str:
    return f"{arm}-seed-{seed}.json"


def save_study(project: Project, track: Track, pairs: Mapping[str, Sequence[Pair]]) -> tuple[Path, int]:
    """Store the runs of a noise study. Returns the folder, and the number of older runs that were removed from it.

    Runs that no longer form a pair, such as those of an earlier version of the track, are removed. Raises LlmbenchError
    if a new run of the base would replace the base's run in a stored pair of another variant, and cannot be compared
    with that variant's run.
    """
    folder, before = study_folder(project, track), kept_study(project, track)
    new = {pair.record.seed: pair.record for some in pairs.values() for pair in some}
    for variant in before.keys() - pairs.keys():
        again = [(new[pair.record.seed], pair) for pair in before[variant] if pair.record.seed in new]
        if any(comparability_problems([run], [pair.candidate], timed=False) for run, pair in again):
            raise LlmbenchError(
                f"the new runs of the base would replace those in the saved pairs of {variant}, which were trained "
                f"with other code or on another machine; train the pairs of {variant} again too (add --variant "
                f"{variant}), or delete {folder}"
            )
    for variant, some in pairs.items():
        for pair in some:
            save_run(folder / _file_name(RECORD, pair.record.seed), pair.record)
            save_run(folder / _file_name(variant, pair.candidate.seed), pair.candidate)
    kept = {
        _file_name(arm, pair.record.seed)
        for variant, some in kept_study(project, track).items()
        for pair in some
        for arm in (RECORD, variant)
    }
    others = [path for path in folder.glob("*-seed-*.json") if path.name not in kept]
    for path in others:
        path.unlink()
    return folder, len(others)
