"""Kill -9 at random moments of a pair, then the same command again: does it end in the very bits of a quiet one?

    python benchmarks/kills.py [--kills 20] [--track smoke]

trains one pair undisturbed and then as often as asked, each time from nothing: started, killed at a random moment
(the whole tree of processes at once, the parent alone, or one player alone, in turn), started again and left in
peace. Writes benchmarks/kills/README.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.kills import PAIR, checkout, descendants, finish, kill, outlive, progress, results, start  # noqa: E402

TARGETS = ("tree", "parent", "player")


def one_kill(root: Path, track: str, target: str, latest_s: float, choose: random.Random) -> list[str]:
    """Start, kill, finish; the row of the table but for the comparison."""
    while True:
        process, moment_s = start(root, track), choose.uniform(0, latest_s)
        time.sleep(moment_s)
        if process.poll() is None:
            break
        shutil.rmtree(root / "runs")  # it was done before its time
    if not any("multiprocessing.forkserver" in command for command in descendants(process.pid).values()):
        target = "parent"
    before = progress(root)
    orphans_s = outlive(kill(process, target, choose), patience_s=60)
    finish(root, track)
    after = progress(root, first=True)
    phases = [before.get(recipe, "starting") for recipe in PAIR]
    taken_up = [after[recipe].replace("done", "finished") for recipe in PAIR]
    return [target, f"{moment_s:.1f} s", ", ".join(phases), ", ".join(taken_up), f"{orphans_s:.1f} s"]


def table(rows: list[list[str]], track: str) -> str:
    """The committed report."""
    head = ("#", "killed", "at", "record, candidate were at", "taken up at", "others gone after", "same bits")
    same = sum(row[-1] == "yes" for row in rows)
    return "\n".join(
        [
            "# Kill -9 at random moments of a pair",
            "",
            f"`python benchmarks/kills.py --kills {len(rows)} --track {track}`: a pair of `{track}` (`{PAIR[0]}` and",
            f"`{PAIR[1]}`, both at once, a checkpoint every 0.2 s) is killed once and started again.",
            f"{same} of {len(rows)} end with the weights, losses and curves of the pair that nobody disturbed, bit for",
            "bit, and leave no torn file behind.",
            "",
            "| " + " | ".join(head) + " |",
            "|---:|---|---:|---|---|---:|---|",
            *(f"| {number} | " + " | ".join(row) + " |" for number, row in enumerate(rows, start=1)),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--track", default="smoke")
    options = parser.parse_args()
    choose, rows = random.Random(0), []
    with tempfile.TemporaryDirectory(prefix="llmbench-kills-") as scratch:
        quiet = checkout(Path(scratch) / "quiet")
        begun = time.monotonic()
        finish(quiet, options.track)
        latest_s = time.monotonic() - begun
        for number in range(options.kills):
            root = checkout(Path(scratch) / str(number))
            row = one_kill(root, options.track, TARGETS[number % len(TARGETS)], latest_s, choose)
            left = [path.name for path in root.glob("runs/**/.*.*")]
            same = results(root) == results(quiet) and not left
            rows.append([*row, "yes" if same else f"NO {left}"])
            print(number + 1, *rows[-1], sep="  ", flush=True)
            shutil.rmtree(root)
    report = ROOT / "benchmarks" / "kills" / "README.md"
    report.parent.mkdir(exist_ok=True)
    report.write_text(table(rows, options.track))
    sys.exit(0 if all(row[-1] == "yes" for row in rows) else 1)


if __name__ == "__main__":
    main()
