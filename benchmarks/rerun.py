"""How often a re-run confirms, refutes or leaves open a record's claim, on simulated noise.

    python benchmarks/rerun.py [pocket] [--claims 20000] > benchmarks/rerun/README.md

Confirmations are simulated until so many are accepted, or ten million were; their gains carry the winner's luck. Each
claim is then trained again from the same true gain, once with the rule for re-runs and once with the track's own, which
stops where the mean gain is not above zero. A record is challenged until it is confirmed or retracted, at most
CHALLENGES times. Unit of a gain: the deviation of the difference of a pair of runs. Times play no part.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.project import Project
from harness.core.track import Rule, load_track
from harness.rule.replication import Outcome, rule_again, rule_in_pairs, state_after
from harness.rule.sequential import Criterion, find, replay

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

SEED = 20261202
BATCH, MOST_BATCHES = 100_000, 100
CHALLENGES = 3
OUTCOMES: tuple[Outcome, ...] = ("confirmed", "refuted", "open")
BAD_SHARE, BAD_BY = 0.1, (6.0, 12.0)
"""Of a candidate's runs; in paired deviations."""


def sometimes_bad(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Differences of pairs whose candidate has a bad run now and then, and none on average."""
    bad = (rng.random(size) < BAD_SHARE) * rng.uniform(*BAD_BY, size)
    return rng.standard_normal(size) + BAD_SHARE * sum(BAD_BY) / 2 - bad


NOISES: dict[str, tuple[Draw, tuple[float, ...]]] = {
    "normal": (lambda rng, size: rng.standard_normal(size), (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)),
    "1 run in 10 is 6 to 12 worse": (sometimes_bad, (0.0,)),
}
"""Noise -> how the differences of pairs scatter, and the true gains to simulate."""


ABOUT = """# What a re-run makes of a record

`python benchmarks/rerun.py {track}`: simulated confirmations that the rule of `{track}` accepts, each trained again.
Gains are in deviations of the difference of a pair.

- accepted: of all confirmations. There is no screen here, which most candidates without a gain do not pass.
- claimed: the mean gain of those accepted; measured again: that of the re-runs that confirm. Both are picked for being
  large, so both read high where the true gain is small.
- confirmed, refuted, open: the first re-run. It stops early only where its look settles the claim; beside it what would
  come of stopping as a contest does, where the mean gain is not above zero.
- ends: challenged until it is confirmed or retracted, at most {challenges} times.
"""


def judge_all(differences: Array, rule: Rule) -> tuple[Array, Array, Array]:
    """Decision, mean gain and upper end of the interval at the look that decided, of each contest."""
    criterion = Criterion(
        quantity="loss",
        record=differences,
        candidate=np.zeros_like(differences),
        margin=0.0,
        design="paired",
        missed="not_shown",
        hopeless="hopeless",
    )
    state = replay([criterion], rule)
    findings = [find(criterion, look, rule) for look in range(1, len(rule.looks) + 1)]
    rows = np.arange(len(differences))
    gains = np.stack([finding.estimate.gain for finding in findings])[state.look - 1, rows]
    highs = np.stack([finding.high for finding in findings])[state.look - 1, rows]
    return state.decision.astype(float), gains, highs


def make_claims(rng: np.random.Generator, rule: Rule, draw: Draw, gain: float, num: int) -> tuple[float, Array]:
    """The share of contests that the rule accepts, and the gains that the accepted ones claim."""
    found: list[Array] = []
    while len(found) < MOST_BATCHES and sum(map(len, found)) < num:
        decision, gains, _ = judge_all(draw(rng, (BATCH, rule.looks[-1])) + gain, rule)
        found.append(gains[decision == 1])
    claims = np.concatenate(found)
    return len(claims) / (len(found) * BATCH), claims[:num]


def train_again(rng: np.random.Generator, rule: Rule, draw: Draw, gain: float, claims: Array) -> tuple[Array, Array]:
    """The outcome of one re-run of each claim, as a place in OUTCOMES, and the gain that it measures."""
    decision, gains, highs = judge_all(draw(rng, (len(claims), rule.looks[-1])) + gain, rule)
    refuted = (decision == -1) & (highs < claims)
    return np.where(decision == 1, 0, np.where(refuted, 1, 2)), gains


def final_states(outcomes: Array) -> dict[str, float]:
    """State -> share of the records that end in it; `outcomes` are places in OUTCOMES, record by challenge."""
    shares = dict.fromkeys(("", "provisional", "disputed", "retracted"), 0.0)
    for history in itertools.product(range(len(OUTCOMES)), repeat=CHALLENGES):
        told = [OUTCOMES[place] for place in history]
        states = [state_after(told[:count]) for count in range(1, CHALLENGES + 1)]
        end = next((state for state in states if state in ("", "retracted")), states[-1])
        shares[end] += float((outcomes == history).all(axis=1).mean())
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track", nargs="?", default="pocket")
    parser.add_argument("--claims", type=int, default=20_000)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rule = rule_in_pairs(load_track(Project(Path(__file__).resolve().parent.parent), options.track).rule)
    print(ABOUT.format(track=options.track, challenges=CHALLENGES))
    heads = ["noise", "true gain", "accepted", "claimed", "measured again", "confirmed", "refuted", "open"]
    heads += ["refuted, stopping early", "open", "ends confirmed", "provisional", "disputed", "retracted"]
    print(f"| {' | '.join(heads)} |")
    print(f"|---|{'---:|' * (len(heads) - 1)}")
    for noise, (draw, true_gains) in NOISES.items():
        for gain in true_gains:
            accepted, claims = make_claims(rng, rule, draw, gain, options.claims)
            again = [train_again(rng, rule_again(rule), draw, gain, claims) for _ in range(CHALLENGES)]
            first, gains = again[0]
            hasty, _ = train_again(rng, rule, draw, gain, claims)
            measured = f"{gains[first == 0].mean():.2f}" if (first == 0).any() else ""
            shares = [float((first == place).mean()) for place in range(3)]
            shares += [float((hasty == place).mean()) for place in (1, 2)]
            shares += final_states(np.stack([found for found, _ in again], axis=1)).values()
            cells = [noise, f"{gain:g}", f"{100 * accepted:.2f} %", f"{claims.mean():.2f}", measured]
            print(f"| {' | '.join([*cells, *(f'{100 * share:.1f} %' for share in shares)])} |")


if __name__ == "__main__":
    main()
