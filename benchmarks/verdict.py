"""How often the rule errs and what it costs, against four other rules, on simulated and on real noise.

    python benchmarks/verdict.py --placebo pocket --placebo pocket-moe --placebo pocket-placebo --placebo smoke

writes benchmarks/verdict/README.md and verdict.png. All rules but the known sigma run through
`harness.rule.sequential.replay`, the code that judges submissions; a sample of the simulated contests is judged again
by `harness.rule.verdict.judge`, and any difference stops the study.

`--placebo` adds the measured noise of a kept study, a folder of `benchmarks/noise`. Unit of a gain: the standard
deviation of the paired difference.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from correlation import read_arm
from verdict_page import CORRELATIONS, GAINS, NORMAL, Study, markdown, picture
from verdict_simulation import (
    NOISES,
    NUM_PAIRS,
    Array,
    Contests,
    Tally,
    by_rule,
    loss_criterion,
    placebo_contests,
    rules,
)

from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK, Project, write_atomic
from harness.core.runs import Evaluation, FinishedRun, Machine, Pair, Provenance, Training
from harness.core.track import Rule, load_track
from harness.rule.sequential import replay
from harness.rule.stats import pair_correlation
from harness.rule.verdict import decide

FOLDER = Path(__file__).with_suffix("")
SEED = 20240601
CHECKED = 300  # contests of each design that `judge` judges again
UNIT = math.sqrt(2)  # deviation of the difference of two independent arms
NEVER = {"welch_df_from": NUM_PAIRS + 1, "futility_alpha": 1e-12}  # values that switch a constant off


def better(contests: Contests, gain: float) -> Contests:
    """The same contests with a candidate that is better by `gain`."""
    return Contests(contests.record, contests.candidate - gain)


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
    return {name: [apply(better(contests, gain * UNIT)) for gain in GAINS] for name, apply in rules(rule).items()}


def design_by_correlation(rule: Rule, num: int) -> dict[str, list[Tally]]:
    """Design -> one tally for each of CORRELATIONS, where the gain is two deviations of a single seed."""
    drawn = [NOISES[0].contests(np.random.default_rng(SEED + 2), num, rho) for rho in CORRELATIONS]
    return {
        name: [apply(better(contests, 2.0)) for contests in drawn]
        for name, apply in rules(rule).items()
        if name.startswith("this rule")
    }


def estimated_df(rule: Rule, num: int) -> dict[str, list[Tally]]:
    """A value of `welch_df_from` -> tallies under Welch: without gain at each normal noise, then at two deviations."""
    drawn = [noise.contests(np.random.default_rng(SEED), num) for noise in NORMAL]
    drawn.append(better(NOISES[0].contests(np.random.default_rng(SEED + 1), num), 2 * UNIT))
    return {
        label: [by_rule(rule.model_copy(update={"design": "welch", "welch_df_from": value}))(one) for one in drawn]
        for label, value in _others(rule.looks, rule.welch_df_from, NEVER["welch_df_from"]).items()
    }


def early_stops(rule: Rule, num: int) -> dict[str, dict[str, Tally]]:
    """A value of `futility_alpha` -> design and gain -> tally, at normal noise."""
    contests = NOISES[0].contests(np.random.default_rng(SEED + 1), num)
    drawn = {f"{gain:g}": better(contests, gain * UNIT) for gain in (0.0, 1.0, 2.0)}
    return {
        label: {
            f"{design}, {gain}": by_rule(rule.model_copy(update={"design": design, "futility_alpha": value}))(one)
            for design in ("paired", "welch")
            for gain, one in drawn.items()
        }
        for label, value in _others((0.1, 0.2, 0.3, 0.45), rule.futility_alpha, NEVER["futility_alpha"]).items()
    }


def _others(values: Sequence[float], own: float, never: float) -> dict[str, float]:
    """Values of a constant to compare, by label: the rule's own among others, and the one that switches it off."""
    labels = {f"{value:g}" + ", as here" * (value == own): value for value in sorted({*values, own})}
    return labels | {"never": never}


def cross_check(rule: Rule, contests: Contests, limit: int = CHECKED) -> int:
    """Judge contests again with `verdict.judge`, on whole runs; returns how many were compared.

    Raises RuntimeError where it decides otherwise than the arrays did.
    """
    num, compared = rule.looks[-1], 0
    arms = [4.0 + 0.01 * arm[:limit, :num] for arm in contests]
    state = replay([loss_criterion(rule, Contests(*arms))], rule)
    for record, candidate, decision, look in zip(*arms, state.decision, state.look, strict=True):
        verdict = decide(_pairs(record, candidate), rule, added_statements=0)
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
        confinement=(),
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
            evaluation=Evaluation(nats=loss, correct=0, tokens=1, bytes=1, probes=(), confinement=(), eval_s=0.0),
        )

    losses = zip(record.tolist(), candidate.tolist(), strict=True)
    return [Pair(run("base", seed, r), run("base+idea", seed, c)) for seed, (r, c) in enumerate(losses)]


def measured_pairs(project: Project, study: str) -> tuple[list[float], list[float]]:
    """Record's and candidate's losses of a kept noise study. Raises LlmbenchError below eight pairs."""
    arms = [read_arm(project.root / "benchmarks" / "noise" / study, arm) for arm in ("record", "candidate")]
    record, candidate = ([run.evaluation.val_loss for run in arm] for arm in arms)
    if len(record) < 8:
        raise LlmbenchError(f"{study} has {len(record)} kept placebo pairs; make 8 or more: `llmbench noise --save`")
    return record, candidate


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study. Raises LlmbenchError for a wrong file, RuntimeError where study and judge disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--placebo", action="append", default=[], help="a kept noise study to add: a folder of benchmarks/noise"
    )
    parser.add_argument("--contests", type=int, default=200_000, help="simulated contests a cell")
    parser.add_argument("--track", default=DEFAULT_TRACK, help="the track whose rule is studied")
    options = parser.parse_args(arguments)
    project, num = Project.find(), options.contests
    rule = load_track(project, options.track).rule
    measured: dict[str, Contests] = {}
    placebos: dict[str, tuple[int, float]] = {}
    for folder in options.placebo:
        arms = measured_pairs(project, folder)
        measured[f"placebo, {folder}"] = placebo_contests(np.random.default_rng(SEED + 3), *arms, num)
        placebos[f"placebo, {folder}"] = len(arms[0]), max(0.0, pair_correlation(*arms) or 0.0)
    small = NOISES[0].contests(np.random.default_rng(SEED), CHECKED)
    compared = sum(
        cross_check(rule.model_copy(update={"design": design}), better(small, gain))
        for design in ("paired", "welch")
        for gain in (0.0, 2.0)
    )
    false = false_accepts(rule, num, measured)
    notes = [placebo_note(rule, name, false[name], *about) for name, about in placebos.items()]
    notes.append(f"- {compared} of the simulated contests were judged again by `verdict.judge`: no difference.")
    study = Study(
        rule=rule,
        num=num,
        false=false,
        power=power_curves(rule, num),
        designs=design_by_correlation(rule, num),
        df_from=estimated_df(rule, num),
        futility=early_stops(rule, num),
        notes=notes,
    )
    write_atomic(FOLDER / "README.md", markdown(study))
    picture(FOLDER / "verdict.png", study)
    sys.stdout.write(f"wrote {FOLDER / 'README.md'} and {FOLDER / 'verdict.png'}\n")


if __name__ == "__main__":
    try:
        main()
    except LlmbenchError as error:
        sys.exit(str(error))
