"""Would a longer warm-down or averaged weights raise the correlation of a track's pairs?

    python benchmarks/smoothing.py train pocket 0.7 1.0     # eight pairs at each warm-down, two runs side by side
    python benchmarks/smoothing.py report pocket

Each run trains the base, or the base with a token embedding that was drawn anew (`placebo`), and scores three sets of
weights: the last ones, and the uniform averages over the last tenth and the last quarter of the steps. Every score is
a row of `benchmarks/smoothing/TRACK.csv`; a run that has rows is not trained again.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from typing import Any

from studies import Row, Table, train_here

from harness.core.project import Project
from harness.core.track import Track, load_track
from harness.data.batches import eval_batches
from harness.data.cache import open_split
from harness.data.prepare import prepare
from harness.player.device import set_up_torch
from harness.rule.stats import pair_correlation
from harness.variants.recipe import Recipe, apply_recipe, recipe_sources

SHARES = (0.1, 0.25)
NUM_SEEDS = 8
COLUMNS = ("warmdown", "recipe", "seed", "weights", "val_loss", "dev_loss")


class Averages:
    """Uniform averages of a model's parameters over the last shares of the steps, taken after each optimizer step."""

    def __init__(self, num_steps: int) -> None:
        self.starts = {share: round(num_steps * (1 - share)) for share in SHARES}
        self.step, self.model = 0, None
        self.sums: dict[float, list[Any]] = {}

    def watch(self, recipe: Recipe) -> Recipe:
        """The recipe, its last optimizer's steps watched."""
        build = recipe.parts.optimizer

        def build_watched(model: Any, config: Any) -> list[Any]:
            optimizers = build(model, config)
            self.model = model
            optimizers[-1].register_step_post_hook(self._add)
            return optimizers

        return replace(recipe, parts=replace(recipe.parts, optimizer=build_watched))

    def _add(self, *_: Any) -> None:
        for share, start in self.starts.items():
            if self.step >= start:
                now = [parameter.detach() for parameter in self.model.parameters()]
                if share in self.sums:
                    for total, value in zip(self.sums[share], now, strict=True):
                        total += value
                else:
                    self.sums[share] = [value.clone() for value in now]
        self.step += 1

    def use(self, share: float) -> None:
        """Put an average into the model."""
        import torch

        with torch.no_grad():
            for parameter, total in zip(self.model.parameters(), self.sums[share], strict=True):
                parameter.copy_(total / (self.step - self.starts[share]))


def mean_loss(model: Any, batches: list[Any]) -> float:
    """Mean nats per token over `batches`, in evaluation mode."""
    import torch
    import torch.nn.functional as F

    nats, count = 0.0, 0
    with torch.no_grad():
        model.eval()
        for tokens_BT1 in batches:
            targets_N = tokens_BT1[:, 1:].flatten()
            nats += F.cross_entropy(model(tokens_BT1[:, :-1])[0].flatten(0, 1), targets_N, reduction="sum").item()
            count += targets_N.numel()
    return nats / count


def train_one(track: Track, recipe_name: str, seed: int) -> list[Row]:
    """The rows of one run."""
    import torch

    set_up_torch(track)
    recipe = apply_recipe(recipe_sources(Project.find(), recipe_name), track.model, track.optim)
    averages = Averages(track.budget.num_steps)
    train_here(track, averages.watch(recipe), seed=seed)
    length, batch = track.budget.seq_len, track.budget.eval_sequences
    windows = [torch.from_numpy(one.astype("int64")) for one in eval_batches(open_split(track, "val"), length, 1)]
    dev = [torch.from_numpy(some.astype("int64")) for some in eval_batches(open_split(track, "dev"), length, batch)]
    rows = []
    for share in (0.0, *SHARES):
        if share:
            averages.use(share)
        losses = [mean_loss(averages.model, [window]) for window in windows[:-1]]  # the last window is a short one
        rows.append(
            {
                "warmdown": track.optim.warmdown_fraction,
                "recipe": recipe_name,
                "seed": seed,
                "weights": f"average of the last {share:.0%}" if share else "last",
                "val_loss": statistics.fmean(losses),
                "dev_loss": mean_loss(averages.model, dev),
            }
        )
    return rows


def train_all(name: str, warmdowns: list[float]) -> None:
    """Train what the table lacks, two runs side by side."""
    track = load_track(Project.find(), name)
    prepare(track)
    table = kept(name)
    done = {(float(row["warmdown"]), row["recipe"], int(row["seed"])) for row in table.rows()}
    asked = [
        (track.model_copy(update={"optim": replace(track.optim, warmdown_fraction=warmdown)}), recipe, seed)
        for warmdown in warmdowns
        for seed in range(NUM_SEEDS)
        for recipe in ("base", "base+placebo")
        if (warmdown, recipe, seed) not in done
    ]
    table.fill(train_one, asked)


def kept(name: str) -> Table:
    """A track's scores."""
    return Table("smoothing", name, COLUMNS)


def report(name: str) -> None:
    """One line for each warm-down and kind of weights, as Markdown."""
    rows = kept(name).rows()
    print("| warm-down | weights | pairs | val loss | correlation | seed spread | paired spread |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for warmdown, weights in dict.fromkeys((row["warmdown"], row["weights"]) for row in rows):
        arms: dict[bool, dict[str, dict[str, str]]] = {True: {}, False: {}}
        for row in rows:
            if (row["warmdown"], row["weights"]) == (warmdown, weights):
                arms[row["recipe"] == "base"][row["seed"]] = row
        seeds = [seed for seed in arms[True] if seed in arms[False]]
        base, placebo = ([float(arms[arm][seed]["val_loss"]) for seed in seeds] for arm in (True, False))
        seed_sd = statistics.fmean(map(statistics.variance, (base, placebo))) ** 0.5
        cells = [warmdown, weights, str(len(seeds)), f"{statistics.fmean(base):.4f}"]
        cells += [f"{pair_correlation(base, placebo) or 0:+.2f}", f"{seed_sd:.4f}"]
        gains = [one - other for one, other in zip(base, placebo, strict=True)]
        cells.append(f"{statistics.stdev(gains):.4f}")
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    match sys.argv[1:]:
        case ["train", name, *warmdowns]:
            train_all(name, [float(warmdown) for warmdown in warmdowns])
        case ["report", name]:
            report(name)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
