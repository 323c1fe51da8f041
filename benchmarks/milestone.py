"""How far apart luck alone puts two runs halfway: what the early end of a contest costs in power.

    python benchmarks/milestone.py pocket

reads the kept noise study and prints the spread of dev-loss differences at the track's milestone.
"""

from __future__ import annotations

import statistics
import sys

from harness.noise import stored_pairs
from harness.project import Project
from harness.results import FinishedRun
from harness.track import load_track


def main() -> None:
    project = Project.find()
    track = load_track(project, sys.argv[1])
    pairs = stored_pairs(project, track)

    def at_milestone(run: FinishedRun) -> float:
        step = track.rule.milestone * run.training.steps
        return min(run.training.curve, key=lambda point: abs(point.step - step)).dev_loss_nats

    behind = [at_milestone(pair.candidate) - at_milestone(pair.record) for pair in pairs]
    final = [pair.candidate.evaluation.val_loss - pair.record.evaluation.val_loss for pair in pairs]
    anyone = [at_milestone(one.candidate) - at_milestone(other.record) for one in pairs for other in pairs]
    regained = [half - end for half, end in zip(behind, final, strict=True)]
    print(f"{len(pairs)} placebo pairs of {track.name}, at {100 * track.rule.milestone:.0f} % of the steps")
    print(f"pairs apart: deviation {statistics.stdev(behind):.4f}, at most {max(map(abs, behind)):.4f} nats")
    print(f"any two runs apart: deviation {statistics.stdev(anyone):.4f}, at most {max(map(abs, anyone)):.4f} nats")
    print(f"distance at the milestone minus distance at the end: deviation {statistics.stdev(regained):.4f} nats")
    print(f"given up beyond {track.rule.milestone_deficit} nats")


if __name__ == "__main__":
    main()
