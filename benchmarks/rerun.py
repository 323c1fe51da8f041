"""How often a re-run confirms, refutes or leaves open a record's claim, on simulated normal noise.

    python benchmarks/rerun.py [pocket] [--contests 400000]

Contests are simulated until the track's rule accepts them, so their claimed gains carry the winner's luck; each
is then simulated again from the same true gain, once with the rule for re-runs and once with the track's own, which
stops on a hunch. Unit of a gain: the standard deviation between seeds. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.project import Project
from harness.core.track import Rule, load_track
from harness.rule.replication import rule_again
from harness.rule.sequential import Criterion, find, replay

Array = NDArray[np.float64]

SEED = 20261122
GAINS = (0.0, 1.0, 2.0, 3.0, 5.0)
CORRELATIONS = {"welch": 0.0, "paired": 0.56}  # assumption; measured on placebo pairs of `smoke`


def judge_all(rng: np.random.Generator, rule: Rule, gain: float, num: int) -> tuple[Array, Array, Array]:
    """Decision, measured gain and upper end of the interval at the look that decided, for `num` contests."""
    shared = math.sqrt(CORRELATIONS[rule.design])
    own = math.sqrt(1 - CORRELATIONS[rule.design])
    common = shared * rng.standard_normal((num, rule.looks[-1]))
    record, candidate = (common + own * rng.standard_normal(common.shape) for _ in range(2))
    criterion = Criterion(
        quantity="loss",
        record=record,
        candidate=candidate - gain,
        margin=0.0,
        design=rule.design,
        missed="not_shown",
        hopeless="hopeless",
    )
    state = replay([criterion], rule)
    findings = [find(criterion, pairs, rule) for pairs in rule.looks]
    rows = np.arange(num)
    gains, highs = (
        np.stack(columns)[state.look - 1, rows]
        for columns in ([f.estimate.gain for f in findings], [f.high for f in findings])
    )
    return state.decision.astype(float), gains, highs


def shares(rng: np.random.Generator, rule: Rule, again: Rule, gain: float, num: int) -> tuple[int, list[float]]:
    """How many claims were accepted, and the shares of confirmed, refuted and open among their re-runs."""
    decision, claimed, _ = judge_all(rng, rule, gain, num)
    claims = claimed[decision == 1]
    decision, _, high = judge_all(rng, again, gain, len(claims))
    confirmed, refuted = decision == 1, (decision == -1) & ((high <= 0) | (high < claims))
    return len(claims), [float(part.mean()) for part in (confirmed, refuted, ~confirmed & ~refuted)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track", nargs="?", default="pocket")
    parser.add_argument("--contests", type=int, default=400_000)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    track = load_track(Project(Path(__file__).resolve().parent.parent), options.track)
    print("| design | true gain | claims | confirmed | refuted | open | refuted, stopping on a hunch | open |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for design in ("welch", "paired"):
        rule = track.rule.model_copy(update={"design": design})
        for gain in GAINS:
            num = options.contests if gain == 0 else options.contests // 20
            count, own = shares(rng, rule, rule_again(rule), gain, num)
            _, hasty = shares(rng, rule, rule, gain, num)
            cells = [design, f"{gain:g}", f"{count:,}", *(f"{100 * share:.1f} %" for share in (*own, *hasty[1:]))]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
