"""How strongly the two runs of a pair correlate, along training and at its end.

    python benchmarks/correlation.py benchmarks/noise/pocket submissions/0003-pocket-qk_norm/runs ...

prints a Markdown table. A folder holds `record-seed-N.json` and, of each other arm, `ARM-seed-N.json`; arms of two
folders are named `ONE/runs/candidate,OTHER/runs/record`.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from harness.core.runs import FinishedRun, Pair, load_run, require_finished
from harness.rule.stats import pair_correlation


def read_arm(folder: Path, arm: str) -> list[FinishedRun]:
    """One arm's runs by seed. Raises LlmbenchError where one is broken or has failed."""
    paths = sorted(folder.glob(f"{arm}-seed-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
    return require_finished([load_run(path) for path in paths])


def read_pairs(folder: Path) -> list[list[Pair]]:
    """Of each other arm in a folder, its pairs with the record, by seed. Raises as `read_arm` does."""
    arms = sorted({path.name.rpartition("-seed-")[0] for path in folder.glob("*-seed-*.json")} - {"record"})
    record = read_arm(folder, "record")
    return [match(record, read_arm(folder, arm)) for arm in arms]


def match(record: list[FinishedRun], candidate: list[FinishedRun]) -> list[Pair]:
    """Runs of the same seed."""
    by_seed = {run.seed: run for run in record}
    return [Pair(by_seed[run.seed], run) for run in candidate if run.seed in by_seed]


def row(pairs: list[Pair]) -> str:
    """The table's line for the pairs of one arm."""
    arms = list(zip(*pairs, strict=True))
    curves = [[[point.dev_loss_nats for point in run.training.curve] for run in arm] for arm in arms]
    along = [pair_correlation(*column) for column in zip(*(zip(*arm, strict=True) for arm in curves), strict=True)]
    losses = [[run.evaluation.val_loss for run in arm] for arm in arms]
    seed_sd = statistics.fmean(map(statistics.variance, losses)) ** 0.5
    paired_sd = statistics.stdev(one - other for one, other in zip(*losses, strict=True))
    cells = [f"`{pairs[0].record.recipe}`, `{pairs[0].candidate.recipe}`", str(len(pairs))]
    cells += [" ".join(f"{value or 0:+.2f}" for value in along), f"{pair_correlation(*losses) or 0:+.2f}"]
    return "| " + " | ".join([*cells, f"{seed_sd:.4f}", f"{paired_sd:.4f}"]) + " |"


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print("| pairs of | n | correlation of dev loss along training | of val loss | seed spread | paired spread |")
    print("|---|---:|---|---:|---:|---:|")
    for argument in sys.argv[1:]:
        if "," in argument:
            record, candidate = (read_arm(Path(arm).parent, Path(arm).name) for arm in argument.split(","))
            found = [match(record, candidate)]
        else:
            found = read_pairs(Path(argument))
        if not found or min(map(len, found)) < 2:
            sys.exit(f"{argument} has an arm with {min(map(len, found), default=0)} pairs; two or more are needed")
        print(*map(row, found), sep="\n")


if __name__ == "__main__":
    main()
