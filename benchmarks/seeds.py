"""Two attacks on the rule by luck, with real runs: forty placebos, and a table of starts for the public seeds.

`python benchmarks/seeds.py placebos` forces forty variants that change nothing but a start through the confirmation
on `smoke` and writes every verdict to benchmarks/seeds/placebos.csv. At 1 % each, three or more of forty are accepted
with a chance of 0.7 %.

`python benchmarks/seeds.py starts` writes a variant that knows the public seeds by their first weight and gives each
the best of several starts; it must pass the screen and fail the confirmation. Writes benchmarks/seeds/starts.json and
the variant beside it.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.core.project import Project  # noqa: E402
from harness.core.runs import FinishedRun  # noqa: E402
from harness.core.track import load_track  # noqa: E402
from harness.lab.store import RunStore  # noqa: E402
from harness.variants.recipe import apply_recipe, draw_parameters  # noqa: E402

TRACK, OUT = "smoke", ROOT / "benchmarks" / "seeds"
NUM_PLACEBOS, NUM_STARTS, DIGITS = 40, 12, 5

PLACEBO = (ROOT / "models" / "variants" / "placebo.py").read_text()
DRAWN = '''"""Draw the token embedding {0} times more (a study of luck)."""

from dataclasses import replace

from torch import nn

from models.parts import Parts

{1}
def apply(parts: Parts) -> Parts:
    def embedding(final: Parts) -> nn.Module:
        module = parts.embedding(final)
        draw = module.reset_parameters

        def again() -> None:
            draw()
            for _ in range({2}):
                draw()

        module.reset_parameters = again
        return module

    return replace(parts, embedding=embedding)
'''
"""Its gaps: words, what stands at the top, and how many further draws."""


def contest(root: Path, variant: str, *options: str) -> dict[str, Any]:
    """The verdict of `llmbench run candidate`."""
    from tests.sandbox import python  # not at the top: players import this module, and may not read what tests do

    command = ("-m", "harness.cli", "run", "candidate", "--variant", variant, "--track", TRACK, "--json", *options)
    done = python(*command, cwd=root)
    if not done.stdout:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def placebos(root: Path) -> None:
    """Every verdict as it falls; what is in the CSV already is not done again."""
    path = OUT / "placebos.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    for number in range(len(rows), NUM_PLACEBOS):
        name = f"placebo_{number:02d}"
        # Another name of the attribute is another random stream, and so another start and other seeds.
        (root / "models" / "variants" / f"{name}.py").write_text(PLACEBO.replace("redrawn", f"redrawn_{number:02d}"))
        found = contest(root, name, "--no-screen")
        columns = ("decision", "pairs", "gain", "p_value", "time_ratio")
        rows.append({"name": name} | {key: found[key] for key in columns} | {"reasons": " ".join(found["reasons"])})
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(rows[-1], flush=True)
    accepted = sum(row["decision"] == "accepted" for row in rows)
    pairs = sum(int(row["pairs"]) for row in rows)
    print(f"{accepted} of {len(rows)} placebos accepted; {pairs / len(rows):.1f} pairs each")


def first_weight(model: Any) -> str:
    """By which a seed is known."""
    return f"{model.embedding.weight[0, 0].item():.{DIGITS}f}"


def starts(root: Path) -> None:
    """Find the best of several starts for each public seed, write the table, and let it be judged."""
    project = Project(root)
    track = load_track(project, TRACK)
    store = RunStore(project, track, jobs=2)
    for count in range(1, NUM_STARTS):
        text = DRAWN.format(count, "", count)
        (root / "models" / "variants" / f"start_{count}.py").write_text(text)
    seeds = track.seeds[: track.rule.screen_looks[-1]]
    table, gains = {}, {}
    for seed in seeds:
        recipes = ["base", *(f"base+start_{count}" for count in range(1, NUM_STARTS))]
        runs = store.make([store.identify(recipe, seed) for recipe in recipes])
        losses = [run.evaluation.val_loss if isinstance(run, FinishedRun) else 99.0 for run in runs]
        best = min(range(NUM_STARTS), key=losses.__getitem__)
        model = apply_recipe({}, track.model, track.optim).build()
        draw_parameters(model, seed)
        table[first_weight(model)], gains[seed] = best, losses[0] - losses[best]
    print(table, gains)
    text = DRAWN.format(
        "as a table says",
        f"TABLE = {{{', '.join(f'{key}: {count}' for key, count in table.items())}}}\n",
        f"TABLE.get(round(module.weight[0, 0].item(), {DIGITS}), 0)",
    )
    (root / "models" / "variants" / "starts.py").write_text(text)
    (OUT / "starts.py.txt").write_text(text)
    found = contest(root, "starts")
    screen = found["screen"]
    report = {"gains_on_public_seeds": gains, "screen": screen, "confirmation": found}
    (OUT / "starts.json").write_text(json.dumps(report, indent=1) + "\n")
    print(screen and screen["reasons"], found["stage"], found["decision"], found["reasons"], found["gain"])


if __name__ == "__main__":
    from tests.kills import checkout

    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        {"placebos": placebos, "starts": starts}[sys.argv[1]](checkout(Path(folder) / "llmbench"))
