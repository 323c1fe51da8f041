"""How often the rule errs and what it costs, beside six other rules, on simulated and on measured noise.

    python benchmarks/verdict.py

writes benchmarks/verdict/README.md and verdict.png. Screen and confirmation run through
`harness.rule.screen.replay_screen` and `harness.rule.sequential.replay`, the code that judges submissions; a sample of
the simulated contests is judged again by `harness.rule.verdict`, and any difference stops the study.

The measured noise is that of every kept study in `benchmarks/noise` with eight pairs or more. Unit of a gain: the
standard deviation of the paired difference.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from correlation import read_pairs
from verdict_page import FEW_GAINS, GAINS, MORE, Size, Study, markdown, picture
from verdict_simulation import (
    ALONE,
    NOISES,
    NORMAL,
    NUM_PAIRS,
    THIS,
    WELCH,
    Array,
    Contests,
    Tally,
    both_stages,
    loss_criterion,
    measured_contests,
    neighbours,
    protocols,
)

from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK, Project, write_atomic
from harness.core.runs import Evaluation, FinishedRun, Machine, Pair, Provenance, Training
from harness.core.track import Rule, load_track
from harness.rule.screen import replay_screen
from harness.rule.sequential import Replay, false_accept_rate, replay
from harness.rule.verdict import decide, screen

FOLDER = Path(__file__).with_suffix("")
NOISE_FOLDER = FOLDER.parent / "noise"
SEED = 20240601
CHECKED = 300  # contests that `harness.rule.verdict` judges again, at each gain
FEWEST_PAIRS = 8
RESAMPLED = 200  # studies of normal noise that a measured one is compared with
NATS = 0.01  # of the unit, where whole runs are judged
NO_FUTILITY = 1e-12

Measured = dict[str, tuple[list[float], list[float]]]
"""A kept noise study -> the record's and the candidate's losses."""


def false_accepts(rule: Rule, num: int, measured: Measured) -> dict[str, dict[str, Tally]]:
    """Noise -> protocol -> tally where there is no gain; without protocols that need more pairs."""
    simulated = ((noise.name, noise.contests(np.random.default_rng(SEED), num)) for noise in NOISES)
    resampled = (
        (name, measured_contests(np.random.default_rng(SEED + 3), *arms, num)) for name, arms in measured.items()
    )
    return {
        source: {
            name: apply(contests)
            for name, apply in protocols(rule).items()
            if not (name == WELCH and contests.record.shape[1] < NUM_PAIRS)
        }
        for source, contests in itertools.chain(simulated, resampled)
    }


def power_curves(rule: Rule, contests: Contests) -> dict[str, list[Tally]]:
    """Protocol -> one tally for each of GAINS. Without gain the track's own meets MORE times as many contests."""
    found = {name: [apply(contests.better(gain)) for gain in GAINS] for name, apply in protocols(rule).items()}
    rng = np.random.default_rng(SEED + 2)
    drawn = [both_stages(rule)(NORMAL.contests(rng, len(contests.record))) for _ in range(MORE)]
    found[THIS][0] = Tally(*np.mean(drawn, axis=0).tolist())
    return found


def wrong_units(rule: Rule, contests: Contests) -> dict[str, list[Tally]]:
    """How the screen's unit is declared -> one tally for each of FEW_GAINS."""
    units = {"half as large": 0.5, "right": 1.0, "twice as large": 2.0}
    return {
        name: [both_stages(rule.model_copy(update={"noise_nats": unit}))(contests.better(gain)) for gain in FEW_GAINS]
        for name, unit in units.items()
    }


def moved_constants(rule: Rule, contests: Contests) -> dict[str, list[Tally]]:
    """What was moved -> one tally for each of FEW_GAINS."""
    return {label: [both_stages(one)(contests.better(gain)) for gain in FEW_GAINS] for label, one in neighbours(rule)}


def sizes(rule: Rule, contests: Contests) -> list[Size]:
    """After each look: the confirmation's false accepts until then, by recursion and as simulated."""
    full = rule.model_copy(update={"futility_alpha": NO_FUTILITY})
    plain, stopped = (replay([loss_criterion(one, contests)], one) for one in (full, rule))

    def share(state: Replay, look: int) -> float:
        return float(((state.decision == 1) & (state.look <= look)).mean())

    return [
        Size(
            pairs,
            level,
            false_accept_rate(rule.looks[:look], rule.levels[:look]),
            share(plain, look),
            share(stopped, look),
        )
        for look, (pairs, level) in enumerate(zip(rule.looks, rule.levels, strict=True), start=1)
    ]


def cross_check(rule: Rule, contests: Contests, limit: int = CHECKED) -> int:
    """Judge contests again with `harness.rule.verdict`, on whole runs; returns how many were compared.

    Raises RuntimeError where it decides otherwise than the arrays did.
    """
    whole = rule.model_copy(update={"noise_nats": NATS})
    codes = {1: "screen_passed", -1: "screened_out", 0: "needs_more_runs"}
    words = {1: "accepted", -1: "rejected", 0: "undecided"}
    screened = replay_screen(contests.screen[:limit], 0.0, rule)
    confirmed = replay([loss_criterion(rule, contests)], rule)
    num = rule.looks[-1]
    for place, gains in enumerate(contests.screen[:limit]):
        verdict = screen(_pairs(np.zeros_like(gains), -gains), whole, added_statements=0)
        expected = codes[int(screened.decision[place])], int(screened.look[place])
        if (verdict.reasons[0], verdict.look) != expected:
            raise RuntimeError(f"the rule says {verdict.reasons[0]} at look {verdict.look}, the study {expected}")
        arms = contests.record[place, :num], contests.candidate[place, :num]
        verdict = decide(_pairs(*arms), whole, added_statements=0)
        expected = words[int(confirmed.decision[place])], int(confirmed.look[place])
        if (verdict.decision, verdict.look) != expected:
            raise RuntimeError(f"the rule says {verdict.decision} at look {verdict.look}, the study {expected}")
    return 2 * len(contests.screen[:limit])


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
            evaluation=Evaluation(
                nats=4 + NATS * loss, correct=0, tokens=1, bytes=1, probes=(), confinement=(), eval_s=0.0
            ),
        )

    losses = zip(record.tolist(), candidate.tolist(), strict=True)
    return [Pair(run("base", seed, r), run("base+idea", seed, c)) for seed, (r, c) in enumerate(losses)]


def measured_pairs() -> Measured:
    """Every kept noise study that has enough pairs. Raises LlmbenchError for a broken file."""
    found: Measured = {}
    for folder in sorted({path.parent for path in NOISE_FOLDER.rglob("record-seed-*.json")}):
        for pairs in read_pairs(folder):
            if len(pairs) >= FEWEST_PAIRS:
                record, candidate = ([run.evaluation.val_loss for run in arm] for arm in zip(*pairs, strict=True))
                found[f"{folder.relative_to(NOISE_FOLDER)}, {pairs[0].candidate.recipe}"] = record, candidate
    return found


def normal_ranges(rule: Rule, num_pairs: int) -> dict[str, tuple[float, float]]:
    """Protocol -> central 90 % of its false accepts, where as many pairs of normal noise are resampled."""
    rng = np.random.default_rng(SEED + 4)
    drawn = [NORMAL.contests(rng, 1, num_pairs) for _ in range(RESAMPLED)]
    contests = [measured_contests(rng, one.record[0].tolist(), one.candidate[0].tolist(), 2_000) for one in drawn]
    apply = protocols(rule)
    shares = {name: [apply[name](one).accepted for one in contests] for name in (THIS, ALONE)}
    return {name: (float(np.percentile(all_, 5)), float(np.percentile(all_, 95))) for name, all_ in shares.items()}


def measured_notes(rule: Rule, measured: Measured, false: dict[str, dict[str, Tally]]) -> list[str]:
    """For each measured noise how far its figures, from so few pairs, can be trusted."""
    counts = {name: len(arms[0]) for name, arms in measured.items()}
    usual = {count: normal_ranges(rule, count) for count in set(counts.values())}
    return [
        f"- {name}, {count} pairs: "
        + "; ".join(
            f"{label} {100 * false[name][label].accepted:.2f} % ({100 * low:.2f} to {100 * high:.2f} %)"
            for label, (low, high) in usual[count].items()
        )
        + "."
        for name, count in counts.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study. Raises LlmbenchError for a wrong file, RuntimeError where study and rule disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--contests", type=int, default=400_000, help="simulated contests a cell")
    parser.add_argument("--track", default=DEFAULT_TRACK, help="the track whose rule is studied")
    options = parser.parse_args(arguments)
    project, num = Project.find(), options.contests
    rule = load_track(project, options.track).rule.model_copy(update={"noise_nats": 1.0})
    measured = measured_pairs()
    contests = NORMAL.contests(np.random.default_rng(SEED + 1), num)
    few = Contests(*(part[:CHECKED] for part in contests))
    false = false_accepts(rule, num, measured)
    study = Study(
        rule=rule,
        num=num,
        power=power_curves(rule, contests),
        sizes=sizes(rule, contests),
        false=false,
        units=wrong_units(rule, contests),
        moved=moved_constants(rule, contests),
        measured=measured_notes(rule, measured, false),
        checked=sum(cross_check(rule, few.better(gain)) for gain in (0.0, 2.0)),
    )
    write_atomic(FOLDER / "README.md", markdown(study))
    picture(FOLDER / "verdict.png", study)
    sys.stdout.write(f"wrote {FOLDER / 'README.md'} and {FOLDER / 'verdict.png'}\n")


if __name__ == "__main__":
    try:
        main()
    except LlmbenchError as error:
        sys.exit(str(error))
