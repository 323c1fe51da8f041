"""How often the rule errs and what it costs, against four other rules, on simulated and on real noise.

    python benchmarks/verdict.py --placebo pocket --placebo smoke [--contests 200000]

writes benchmarks/verdict/README.md and verdict.png. All rules but the known sigma run through
`harness.looks.replay`, the code that judges submissions; a sample of the simulated contests is judged again
by `harness.verdict.judge`, and any difference stops the study.

`--placebo` adds the measured noise of a track's kept study. Unit of a gain: the standard deviation of the paired
difference.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import LlmbenchError
from harness.looks import Criterion, replay
from harness.noise import stored_pairs
from harness.project import DEFAULT_TRACK, Project, write_atomic
from harness.results import Evaluation, FinishedRun, Machine, Pair, Provenance, Training
from harness.stats import known_sigma, p_value, pair_correlation
from harness.track import Rule, load_track
from harness.verdict import judge

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

FOLDER = Path(__file__).with_suffix("")
SEED = 20240601
GAINS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
NUM_PAIRS = 10  # the most that any rule here asks for
CHECKED = 300  # contests of each design that `judge` judges again


class Contests(NamedTuple):
    """Losses of many contests without any true gain: contest, seed. Unit: a record's seed deviation."""

    record: Array
    candidate: Array


class Tally(NamedTuple):
    accepted: float
    """Share of contests accepted."""
    runs: float
    """Mean number of trained runs until the rule decides, both arms together."""


@dataclass(frozen=True)
class Noise:
    """How the two arms scatter."""

    name: str
    draw: Draw
    ratio: float = 1.0
    """Candidate's standard deviation over the record's."""

    def contests(
        self, rng: np.random.Generator, num: int, correlation: float = 0.0, num_pairs: int = NUM_PAIRS
    ) -> Contests:
        """Independent contests whose arms share the part of their noise that gives the correlation."""
        own, shared, size = math.sqrt(1 - correlation), math.sqrt(correlation), (num, num_pairs)
        common = self.draw(rng, size) * shared if correlation else 0.0
        record, candidate = (own * self.draw(rng, size) + common for _ in range(2))
        return Contests(record, candidate * self.ratio)


def _skewed(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.exponential(size=size) - 1


def _very_skewed(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return (rng.lognormal(size=size) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def _heavy(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.standard_t(3, size) / math.sqrt(3)


NOISES = (
    Noise("normal", lambda rng, size: rng.standard_normal(size)),
    Noise("normal, candidate 3x", lambda rng, size: rng.standard_normal(size), 3),
    Noise("normal, candidate 6x", lambda rng, size: rng.standard_normal(size), 6),
    Noise("heavy tails", _heavy),
    Noise("heavy tails, candidate 3x", _heavy, 3),
    Noise("skewed", _skewed),
    Noise("skewed, candidate 3x", _skewed, 3),
    Noise("very skewed, candidate 3x", _very_skewed, 3),
)

Apply = Callable[[Contests], Tally]


def by_rule(rule: Rule) -> Apply:
    """A rule as the harness runs it: `harness.looks.replay` on one loss criterion without a price."""

    def apply(contests: Contests) -> Tally:
        state = replay([_criterion(rule, contests)], rule)
        runs = 2 * np.asarray(rule.looks)[state.look - 1]
        return Tally(float((state.decision == 1).mean()), float(runs.mean()))

    return apply


def _criterion(rule: Rule, contests: Contests) -> Criterion:
    num = rule.looks[-1]
    return Criterion(
        quantity="loss",
        record=contests.record[:, :num],
        candidate=contests.candidate[:, :num],
        margin=0.0,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )


def known_deviation(contests: Contests) -> Tally:
    """z at three seeds an arm, with the record's deviation known from its history and trusted for both arms."""
    found = known_sigma(contests.record[:, :3], contests.candidate[:, :3], 1.0)
    return Tally(float((p_value(found, 0.0) <= 0.01).mean()), 6.0)


def rules(rule: Rule) -> dict[str, Apply]:
    """The track's rule under both designs, and what is usual elsewhere, all at the same nominal 1 %."""

    def other(**changes: object) -> Apply:
        return by_rule(rule.model_copy(update={"alpha": 0.01, "futility_alpha": 0.01, **changes}))

    every = tuple(range(3, 9))
    return {
        "this rule, paired": by_rule(rule.model_copy(update={"design": "paired"})),
        "this rule, Welch": by_rule(rule.model_copy(update={"design": "welch"})),
        "one paired t at 3": other(design="paired", looks=(3,)),
        "peeking, t at 3 to 8": other(design="paired", looks=every, alpha=0.01 * len(every)),
        "Welch at 10 a side": other(design="welch", looks=(10,)),
        "z, sigma known, at 3": known_deviation,
    }


def false_accepts(rule: Rule, num: int, measured: dict[str, Contests]) -> dict[str, dict[str, float]]:
    """Noise -> rule -> share of contests accepted where there is no gain; without rules that need more pairs."""
    simulated = ((noise.name, noise.contests(np.random.default_rng(SEED), num)) for noise in NOISES)
    table: dict[str, dict[str, float]] = {}
    for source, contests in itertools.chain(simulated, measured.items()):
        table[source] = {
            name: apply(contests).accepted
            for name, apply in rules(rule).items()
            if not (name == "Welch at 10 a side" and contests.record.shape[1] < NUM_PAIRS)
        }
    return table


def power_curves(rule: Rule, num: int) -> dict[str, list[Tally]]:
    """Rule -> one tally for each of GAINS, at normal noise of independent arms."""
    contests = NOISES[0].contests(np.random.default_rng(SEED + 1), num)
    unit = math.sqrt(2)  # deviation of the difference of two independent arms
    return {
        name: [apply(Contests(contests.record, contests.candidate - gain * unit)) for gain in GAINS]
        for name, apply in rules(rule).items()
    }


def design_by_correlation(rule: Rule, num: int) -> dict[str, list[Tally]]:
    """Design -> one tally for each of CORRELATIONS, where the gain is two deviations of a single seed."""
    drawn = [NOISES[0].contests(np.random.default_rng(SEED + 2), num, rho) for rho in CORRELATIONS]
    return {
        name: [apply(Contests(contests.record, contests.candidate - 2.0)) for contests in drawn]
        for name, apply in rules(rule).items()
        if name.startswith("this rule")
    }


def cross_check(rule: Rule, contests: Contests, limit: int = CHECKED) -> int:
    """Judge contests again with `verdict.judge`, on whole runs; returns how many were compared.

    Raises RuntimeError where it decides otherwise than the arrays did.
    """
    num, compared = rule.looks[-1], 0
    arms = [4.0 + 0.01 * arm[:limit, :num] for arm in contests]
    state = replay([_criterion(rule, Contests(*arms))], rule)
    for record, candidate, decision, look in zip(*arms, state.decision, state.look, strict=True):
        verdict = judge(_pairs(record, candidate), rule, added_statements=0)
        if (verdict.decision, verdict.look) != (("undecided", "accepted", "rejected")[decision], look):
            raise RuntimeError(f"judge says {verdict.decision} at look {verdict.look}, the study {decision} at {look}")
        compared += 1
    return compared


def _pairs(record: Array, candidate: Array) -> list[Pair]:
    """Runs that differ in nothing but recipe, seed and loss."""
    machine = Machine(cpu="simulated", cores=1, memory_gib=1, os="none", python="none")
    provenance = Provenance(revision=None, dirty=False, packages={}, machine=machine, threads=1, jobs=1)
    training = Training(
        steps=1,
        tokens=1,
        num_params=1,
        train_s=1.0,
        cpu_s=1.0,
        warmup_s=0.0,
        wall_s=1.0,
        ended="2000-01-01T00:00:00Z",
        weights_sha256="0" * 64,
        curve=(),
    )

    def run(recipe: str, seed: int, loss: float) -> FinishedRun:
        return FinishedRun(
            track="simulated",
            training_digest="0" * 64,
            recipe=recipe,
            sources={},
            code_digest="0" * 64,
            seed=seed,
            provenance=provenance,
            training=training,
            evaluation=Evaluation(nats=loss, correct=0, tokens=1, bytes=1, probes=(), eval_s=0.0),
        )

    losses = zip(record.tolist(), candidate.tolist(), strict=True)
    return [Pair(run("base", seed, r), run("base+idea", seed, c)) for seed, (r, c) in enumerate(losses)]


def measured_pairs(project: Project, track: str) -> tuple[list[float], list[float]]:
    """Record's and candidate's losses of a track's kept noise study. Raises LlmbenchError below eight pairs."""
    pairs = stored_pairs(project, load_track(project, track))
    if len(pairs) < 8:
        raise LlmbenchError(f"{track} has {len(pairs)} kept placebo pairs; make 8 or more: `llmbench noise --save`")
    return [pair.record.evaluation.val_loss for pair in pairs], [pair.candidate.evaluation.val_loss for pair in pairs]


def placebo_contests(
    rng: np.random.Generator, record: Sequence[float], candidate: Sequence[float], num: int
) -> Contests:
    """Contests drawn from measured placebo pairs: seeds without repeats, arms swapped at random.

    A placebo changes nothing, so its arms are exchangeable and every swap is an equally likely outcome.
    """
    arms = np.array([record, candidate]) - np.mean([record, candidate])
    arms /= np.sqrt(arms.var(axis=1, ddof=1).mean())  # the known sigma is one
    size = min(NUM_PAIRS, len(record))
    seeds = rng.permuted(np.tile(np.arange(len(record)), (num, 1)), axis=1)[:, :size]
    swap = rng.integers(0, 2, seeds.shape)
    return Contests(arms[swap, seeds], arms[1 - swap, seeds])


def placebo_note(rule: Rule, name: str, row: dict[str, float], num_pairs: int, correlation: float) -> str:
    """How far a figure from so few pairs can be trusted: the same resampling of normal noise, many times over."""
    rng = np.random.default_rng(SEED + 4)
    drawn = [NOISES[0].contests(rng, 1, correlation, num_pairs) for _ in range(200)]
    resampled = [
        placebo_contests(rng, normal.record[0].tolist(), normal.candidate[0].tolist(), 2_000) for normal in drawn
    ]
    ranges = []
    for label, apply in rules(rule).items():
        if label.startswith("this rule"):
            low, high = np.percentile([100 * apply(contests).accepted for contests in resampled], [5, 95])
            ranges.append(f"{label} {100 * row[label]:.2f} % (normal noise: {low:.2f} to {high:.2f} %)")
    return (
        f"- {name}: {num_pairs} measured pairs, correlation {correlation:.2f}. False accepts when they are resampled: "
        f"{'; '.join(ranges)}. In brackets, the central 90 % of what as many pairs of normal noise give."
    )


def markdown(
    rule: Rule,
    num: int,
    false: dict[str, dict[str, float]],
    curves: dict[str, list[Tally]],
    designs: dict[str, list[Tally]],
    notes: Sequence[str],
) -> str:
    """The study as a page."""
    names = list(curves)
    looks = ", ".join(map(str, rule.looks))
    error = 100 * math.sqrt(0.01 * 0.99 / num)
    return "\n".join(
        [
            "# What the rule promises, and what it costs",
            "",
            f"Rule: looks after {looks} pairs, alpha {rule.alpha} over all looks, futility {rule.futility_alpha}, "
            f"Welch's degrees of freedom from {rule.welch_df_from} seeds. {num:,} simulated contests a cell "
            f"(standard error {error:.2f} points at 1 %). Made by `python benchmarks/verdict.py`.",
            "",
            "![False accepts, power and cost of each rule](verdict.png)",
            "",
            "## False accepts without any gain, in percent (promised: 1)",
            "",
            *_table(
                ["noise", *names],
                [
                    [source, *(f"{100 * row[n]:.2f}" if n in row else "" for n in names)]
                    for source, row in false.items()
                ],
            ),
            "",
            *_reading(false),
            "",
            "## Power in percent, at normal noise, by gain in deviations of the paired difference",
            "",
            *_table(
                ["rule", *map(str, GAINS)],
                [[name, *(f"{100 * tally.accepted:.1f}" for tally in row)] for name, row in curves.items()],
            ),
            "",
            "## Mean number of trained runs until the decision, both arms",
            "",
            *_table(
                ["rule", *map(str, GAINS)],
                [[name, *(f"{tally.runs:.1f}" for tally in row)] for name, row in curves.items()],
            ),
            "",
            "## Which design: power in percent (and runs) at a gain of two seed deviations, by correlation",
            "",
            *_table(
                ["design", *map(str, CORRELATIONS)],
                [
                    [name, *(f"{100 * tally.accepted:.1f} ({tally.runs:.1f})" for tally in row)]
                    for name, row in designs.items()
                ],
            ),
            "",
            *notes,
            "",
        ]
    )


def _reading(false: dict[str, dict[str, float]]) -> list[str]:
    """What the first table says, in words that follow its numbers."""
    rows = {noise.name: false[noise.name] for noise in NOISES}
    worst = {source: max(row[name] for name in row if name.startswith("this rule")) for source, row in rows.items()}
    kept = [source for source, share in worst.items() if share <= 0.01]
    broken = sorted(set(worst) - set(kept), key=lambda source: -worst[source])
    lines = [f"Under either design the rule keeps its promise for: {'; '.join(kept)}."]
    if broken:
        lines += [
            "",
            f"It breaks for: {'; '.join(f'{source} ({100 * worst[source]:.1f} %)' for source in broken)}. A candidate "
            "that is usually a little better and now and then much worse has no gain on the mean, and few seeds "
            "show only its good side; no test of a mean from eight seeds can know.",
        ]
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def picture(path: Path, false: dict[str, dict[str, float]], curves: dict[str, list[Tally]]) -> None:
    """Three panels: false accepts by noise, power by gain, runs by gain."""
    from matplotlib.figure import Figure

    colors = ("#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito
    figure = Figure(figsize=(13, 4.6), dpi=110, layout="constrained")
    errors, power, cost = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    for color, (name, tallies) in zip(colors, curves.items(), strict=True):
        style = {"color": color, "marker": "o", "markersize": 4, "linewidth": 2.2 if "this" in name else 1.2}
        power.plot(GAINS, [100 * tally.accepted for tally in tallies], label=name, **style)
        cost.plot(GAINS, [tally.runs for tally in tallies], **style)
        known = [(place, row[name]) for place, row in enumerate(false.values()) if name in row]
        errors.plot([100 * max(x, 1e-4) for _, x in known], [place for place, _ in known], "o", color=color)
    errors.axvline(1, color="0.3", linestyle=":", linewidth=1)
    errors.set(xscale="log", xlabel="false accepts, % (promised: 1)", yticks=range(len(false)), yticklabels=list(false))
    errors.set_xticks((0.3, 1, 3, 10, 30), labels=("0.3", "1", "3", "10", "30"))
    errors.minorticks_off()
    errors.invert_yaxis()
    power.set(xlabel="gain / deviation of the paired difference", ylabel="accepted, %")
    cost.set(xlabel="gain / deviation of the paired difference", ylabel="mean trained runs, both arms", ylim=(0, 21))
    for axes in (errors, power, cost):
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study. Raises LlmbenchError for a wrong file, RuntimeError where study and judge disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--placebo", action="append", default=[], help="a track whose kept noise study to add")
    parser.add_argument("--contests", type=int, default=200_000, help="simulated contests a cell")
    parser.add_argument("--track", default=DEFAULT_TRACK, help="the track whose rule is studied")
    options = parser.parse_args(arguments)
    project, num = Project.find(), options.contests
    rule = load_track(project, options.track).rule
    measured: dict[str, Contests] = {}
    placebos: dict[str, tuple[int, float]] = {}
    for track in options.placebo:
        arms = measured_pairs(project, track)
        measured[f"placebo, {track}"] = placebo_contests(np.random.default_rng(SEED + 3), *arms, num)
        placebos[f"placebo, {track}"] = len(arms[0]), max(0.0, pair_correlation(*arms) or 0.0)
    small = NOISES[0].contests(np.random.default_rng(SEED), CHECKED)
    compared = sum(
        cross_check(rule.model_copy(update={"design": design}), Contests(small.record, small.candidate - gain))
        for design in ("paired", "welch")
        for gain in (0.0, 2.0)
    )
    false, curves = false_accepts(rule, num, measured), power_curves(rule, num)
    notes = [placebo_note(rule, name, false[name], *about) for name, about in placebos.items()]
    notes.append(f"- {compared} of the simulated contests were judged again by `verdict.judge`: no difference.")
    write_atomic(FOLDER / "README.md", markdown(rule, num, false, curves, design_by_correlation(rule, num), notes))
    picture(FOLDER / "verdict.png", false, curves)
    sys.stdout.write(f"wrote {FOLDER / 'README.md'} and {FOLDER / 'verdict.png'}\n")


if __name__ == "__main__":
    main()
