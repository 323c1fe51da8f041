"""How often `llmbench compare` accepts a trainer compared with itself: real comparisons, fresh seeds, known noise.

    python benchmarks/compare.py 40

Both arms are tests/trainer.py without any gain, with noise of their own for each seed. Prints one JSON object; with
forty comparisons and 1 % false accepts, two or more accepted ones come with a chance of 6 %, three with 0.7 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.compare.arms import arms_of_commands  # noqa: E402
from harness.compare.contest import Contest  # noqa: E402
from harness.compare.places import LocalPlaces  # noqa: E402
from harness.compare.settings import make_settings  # noqa: E402


def compare_with_itself(folder: Path, number: int) -> tuple[str, int]:
    """The verdict of one comparison and the runs that it took. Its seeds follow from `number`."""
    command = "python train.py --seed {seed} --arm"
    settings = make_settings(
        {
            "record": f"{command} {number}",
            "candidate": f"{command} {number}-again",
            "metric": "val loss ([0-9.]+)",
        }
    )
    arms = arms_of_commands(settings, folder)
    found = Contest(settings, arms, LocalPlaces(), folder / ".llmbench", lambda _: None).run()
    return found.verdict.decision, len(found.runs)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("comparisons", type=int, nargs="?", default=40)
    count = options.parse_args().comparisons
    decisions, runs = Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(ROOT / "tests" / "trainer.py", folder / "train.py")
        for number in range(count):
            decision, made = compare_with_itself(folder, number)
            decisions[decision] += 1
            runs += made
            print(f"{number + 1} of {count}: {dict(decisions)}", file=sys.stderr)
    print(json.dumps({"comparisons": count, **decisions, "runs": runs}))


if __name__ == "__main__":
    main()
