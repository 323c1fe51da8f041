"""What the early end of a contest costs in power: how far behind candidates were at the milestone, and how they ended.

    python benchmarks/milestone.py pocket

reads every kept pair of the track, placebos and real candidates (`benchmarks/noise/`, `submissions/`), and prints a
Markdown table. Distances are candidate minus record, dev loss at the milestone and val loss at the end. A candidate
that was given up has no end and is in no kept pair, so the table cannot show what it would have regained.
"""

from __future__ import annotations

import itertools
import statistics
import sys

from correlation import read_pairs

from harness.core.project import Project
from harness.core.runs import FinishedRun
from harness.core.track import load_track


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    project = Project.find()
    track = load_track(project, sys.argv[1])
    share, limit = track.rule.milestone, track.rule.milestone_deficit

    def halfway(run: FinishedRun) -> float:
        training, tokens = run.training, share * run.training.tokens
        return min(training.curve, key=lambda point: abs(training.tokens_at(point.step) - tokens)).dev_loss_nats

    print(
        f"| pairs of | n | behind at {share:.0%}: mean | most | any two runs apart: most | regained after: deviation |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    ends: list[tuple[float, float]] = []  # (behind at the milestone, behind at the end)
    folders = [*sorted(project.root.glob("benchmarks/noise/*")), *sorted(project.submissions.glob("*/runs"))]
    for pairs in itertools.chain.from_iterable(map(read_pairs, folders)):
        if not pairs or pairs[0].record.track != track.name:
            continue
        behind = [halfway(pair.candidate) - halfway(pair.record) for pair in pairs]
        final = [pair.candidate.evaluation.val_loss - pair.record.evaluation.val_loss for pair in pairs]
        apart = max(abs(halfway(one.candidate) - halfway(two.record)) for one, two in itertools.product(pairs, pairs))
        changes = [half - end for half, end in zip(behind, final, strict=True)]
        regained = f"{statistics.stdev(changes):.4f}" if len(changes) > 1 else ""
        cells = [f"`{pairs[0].record.recipe}`, `{pairs[0].candidate.recipe}`", str(len(behind))]
        cells += [f"{statistics.fmean(behind):+.4f}", f"{max(behind):+.4f}", f"{apart:.4f}", regained]
        print("| " + " | ".join(cells) + " |")
        ends += zip(behind, final, strict=True)
    won = [half for half, end in ends if end < 0]
    lost = [sum(half > limit for half in some) for some in ([half for half, _ in ends], won)]
    print(
        f"\nMore than {limit} nats behind: {lost[0]} of {len(ends)} candidates, "
        f"{lost[1]} of the {len(won)} that ended ahead. "
        f"The furthest behind that ended ahead: {max(won, default=0):+.4f} nats."
    )


if __name__ == "__main__":
    main()
