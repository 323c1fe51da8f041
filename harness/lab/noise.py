"""The noise of a track: seed spread, paired spread, correlation, and how many pairs a gain then needs.

A placebo changes nothing but where one part starts, so its pairs show the noise that every gain must exceed. The
track declares its design from this study.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import Pair, finished, load_run, save_run
from harness.core.schema import Strict
from harness.core.track import Rule, Track
from harness.lab.arms import Arms
from harness.lab.store import RunStore
from harness.rule.sequential import Criterion, replay
from harness.rule.stats import Design, pair_correlation, power

# Above it the paired test needs fewer runs than Welch's at eight pairs, below it more (benchmarks/verdict).
PAIRED_FROM_CORRELATION = 0.3

NUM_CONTESTS = 20_000
TARGET_POWER = 0.9


class Detectable(Strict):
    """The smallest gain that one look finds with a power of 0.9, nats per token."""

    pairs: int
    paired: float | None
    welch: float | None


class NoiseReport(Strict):
    """The noise study of one track."""

    pairs: int
    mean_gain: float
    """Of the placebo: its expectation is zero."""
    seed_sd: float
    """Of one run's val loss over seeds, both arms pooled; nats per token."""
    paired_sd: float
    """Of the difference of a pair."""
    correlation: float | None
    design: Design
    """What the track should declare."""
    false_accepts: float
    """Share of shuffled placebo contests that the rule, as the track declares it, accepts."""
    detectable: tuple[Detectable, ...]


def study(pairs: Sequence[Pair], rule: Rule) -> NoiseReport:
    """The report on placebo pairs. Raises LlmbenchError below three pairs, which are too few to measure noise."""
    if len(pairs) < 3:
        raise LlmbenchError(f"a noise study needs 3 pairs or more, there are {len(pairs)}; give --pairs")
    record, candidate = _losses(pairs)
    gains = [one - other for one, other in zip(record, candidate, strict=True)]
    seed_sd = statistics.fmean(map(statistics.variance, (record, candidate))) ** 0.5
    paired_sd, correlation = statistics.stdev(gains), pair_correlation(record, candidate)
    return NoiseReport(
        pairs=len(pairs),
        mean_gain=statistics.fmean(gains),
        seed_sd=seed_sd,
        paired_sd=paired_sd,
        correlation=correlation,
        design="paired" if correlation is not None and correlation > PAIRED_FROM_CORRELATION else "welch",
        false_accepts=accepts(record, candidate, rule, gain=0.0).accepted,
        detectable=tuple(
            Detectable(
                pairs=look,
                paired=_smallest_gain(paired_sd, look, rule, "paired"),
                welch=_smallest_gain(seed_sd, look, rule, "welch"),
            )
            for look in rule.looks
        ),
    )


def _losses(pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    """Val losses of the record and of the candidate."""
    return [p.record.evaluation.val_loss for p in pairs], [p.candidate.evaluation.val_loss for p in pairs]


class Shuffled(NamedTuple):
    """Share of shuffled contests that the rule accepts, and the mean number of pairs until its decision."""

    accepted: float
    pairs: float


def accepts(record: Sequence[float], candidate: Sequence[float], rule: Rule, *, gain: float) -> Shuffled:
    """Apply the rule to contests of shuffled placebo pairs whose candidate is better by `gain`.

    Each contest takes pairs without replacement (a repeated pair would make the noise look smaller than it is) and
    swaps their arms at random: without an effect the arms are exchangeable. The swaps also remove the placebo's own
    mean gain, which is chance. With few pairs the contests resemble each other: from eight pairs the share of false
    accepts is known to about one percentage point only.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    values_SA = np.array([record, candidate]).T
    order_CS = generator.permuted(np.tile(np.arange(len(values_SA)), (NUM_CONTESTS, 1)), axis=1)
    drawn_CSA = values_SA[order_CS[:, : rule.looks[-1]]]
    swap_CS1 = generator.integers(0, 2, (*drawn_CSA.shape[:2], 1)).astype(bool)
    drawn_CSA = np.where(swap_CS1, drawn_CSA[..., ::-1], drawn_CSA)
    criterion = Criterion(
        quantity="loss",
        record=drawn_CSA[..., 0],
        candidate=drawn_CSA[..., 1] - gain,
        margin=0.0,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )
    done = replay([criterion], rule)
    pairs = np.array([0, *rule.looks])[done.look]
    return Shuffled(float((done.decision == 1).mean()), float(pairs.mean()))


def look_power(gain: float, sd: float, pairs: int, rule: Rule, design: Design) -> float:
    """Chance that one look alone accepts; approximate for Welch, whose degrees of freedom vary between contests."""
    df = pairs - 1 if design == "welch" and pairs < rule.welch_df_from else None
    return power(gain, sd, pairs, alpha=rule.alpha_look, design=design, df=df)


def _smallest_gain(sd: float, pairs: int, rule: Rule, design: Design) -> float | None:
    """The smallest gain that one look finds with `TARGET_POWER`; None where it does not find 100 deviations."""
    counts = range(2**40)
    step = 100 * sd / len(counts)
    found = bisect_left(counts, TARGET_POWER, key=lambda count: look_power(count * step, sd, pairs, rule, design))
    return found * step if found < len(counts) else None


def study_folder(project: Project, track: Track) -> Path:
    """Where a track's noise study is kept with its runs."""
    return project.root / "benchmarks" / "noise" / track.name


def stored_pairs(project: Project, track: Track) -> list[Pair]:
    """The committed study of this track's edition, maybe empty. Raises LlmbenchError where a file is broken."""
    pairs, folder = [], study_folder(project, track)
    for path in sorted(folder.glob("record-seed-*.json"), key=lambda path: int(path.stem.rsplit("-", 1)[1])):
        runs = finished(map(load_run, (path, path.with_name(path.name.replace("record", "candidate")))))
        own = len(runs) == 2 and {run.training_digest for run in runs} == {track.training_digest}
        if own and runs[1].recipe == placebo_arms(runs[0].recipe, track.rule).candidate:  # not an earlier placebo's
            pairs.append(Pair(*runs))
    return pairs


def placebo_arms(record: str, rule: Rule) -> Arms:
    """The record against itself with the track's placebo."""
    return Arms(record, f"{record}+{rule.noise_variant}")


def study_seeds(track: Track, count: int) -> list[int]:
    """The public seeds first, then further ones: a study may take more seeds than any contest."""
    return [*track.seeds, *range(max(track.seeds) + 1, max(track.seeds) + 1 + count)][:count]


def save_study(project: Project, track: Track, pairs: Sequence[Pair]) -> Path:
    """Keep the runs of a study; earlier files of the same seeds are replaced."""
    folder = study_folder(project, track)
    for pair in pairs:
        save_run(folder / f"record-seed-{pair.record.seed}.json", pair.record)
        save_run(folder / f"candidate-seed-{pair.candidate.seed}.json", pair.candidate)
    return folder


TimeSource = Literal["kept runs", "matrix rate"]
"""What the seconds of a run are estimated from."""


class ContestPlan(Strict):
    """What to expect of a contest."""

    power: float
    """Chance that the rule accepts the gain at one of its looks."""
    mean_pairs: float
    """Pairs until the decision, on average."""
    pairs_needed: int | None
    """The first look that alone finds the gain with a power of 0.9; None where none does."""
    run_s: float | None
    """Seconds of one whole run on this machine; None where neither a kept run nor an estimate is there."""
    source: TimeSource | None
    jobs: int
    mean_s: float | None
    """Seconds until the decision, on average."""
    last_look_s: float | None
    """Seconds if it takes all looks."""


def make_plan(store: RunStore, net_gain: float, run_s: float | None, source: TimeSource | None) -> ContestPlan:
    """What the rule would do with a gain of `net_gain` nats beyond its price, from the stored noise study.

    A run takes `run_s` seconds here, estimated from `source`. Raises LlmbenchError where the track has no study.
    """
    track, rule = store.track, store.track.rule
    pairs = stored_pairs(store.project, track)
    if len(pairs) < 3:
        raise LlmbenchError(
            f"the track {track.name} has no noise study; make one: `llmbench noise --save --track {track.name}`"
        )
    report = study(pairs, rule)
    expected = accepts(*_losses(pairs), rule, gain=net_gain)
    sd = report.paired_sd if rule.design == "paired" else report.seed_sd
    found = [n for n in rule.looks if look_power(net_gain, sd, n, rule, rule.design) >= TARGET_POWER]
    return ContestPlan(
        power=expected.accepted,
        mean_pairs=expected.pairs,
        pairs_needed=found[0] if found else None,
        run_s=run_s,
        source=source,
        jobs=store.jobs,
        mean_s=None if run_s is None else 2 * expected.pairs * run_s / store.jobs,
        last_look_s=None if run_s is None else 2 * rule.looks[-1] * run_s / store.jobs,
    )
