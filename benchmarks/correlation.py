"""How strongly the two runs of a pair correlate, along training and at its end.

    python benchmarks/correlation.py benchmarks/noise/pocket submissions/0003-pocket-qk_norm/runs ...

prints a Markdown table. A folder holds `record-seed-N.json` and `candidate-seed-N.json`; arms of two folders are named
`ONE/runs/candidate,OTHER/runs/record`.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from harness.core.runs import FinishedRun, load_run, require_finished
from harness.rule.stats import pair_correlation


def read_arm(folder: Path, arm: str) -> list[FinishedRun]:
    """One arm's runs by seed. Raises LlmbenchError where one is broken or has failed."""
    paths = sorted(folder.glob(f"{arm}-seed-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
    return require_finished([load_run(path) for path in paths])


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print("| pairs of | n | correlation of dev loss along training | of val loss | seed spread | paired spread |")
    print("|---|---:|---|---:|---:|---:|")
    for argument in sys.argv[1:]:
        arms = argument.split(",") if "," in argument else (f"{argument}/record", f"{argument}/candidate")
        record, candidate = (read_arm(Path(arm).parent, Path(arm).name) for arm in arms)
        if not len(record) == len(candidate) > 1:
            sys.exit(f"{argument} holds {len(record)} and {len(candidate)} runs; two pairs or more are needed")
        curves = [[[point.dev_loss_nats for point in run.training.curve] for run in arm] for arm in (record, candidate)]
        along = [pair_correlation(*column) for column in zip(*(zip(*arm, strict=True) for arm in curves), strict=True)]
        losses = [[run.evaluation.val_loss for run in arm] for arm in (record, candidate)]
        seed_sd = statistics.fmean(map(statistics.variance, losses)) ** 0.5
        paired_sd = statistics.stdev(one - other for one, other in zip(*losses, strict=True))
        cells = [f"`{record[0].recipe}`, `{candidate[0].recipe}`", str(len(record))]
        cells += [" ".join(f"{value or 0:+.2f}" for value in along), f"{pair_correlation(*losses) or 0:+.2f}"]
        print("| " + " | ".join([*cells, f"{seed_sd:.4f}", f"{paired_sd:.4f}"]) + " |")


if __name__ == "__main__":
    main()
