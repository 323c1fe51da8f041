"""How large should a track's val split be? A larger one scatters less from seed to seed, and takes longer to score.

    python benchmarks/val_size.py train pocket 0.24 base+token_smear     # eight pairs, two runs side by side
    python benchmarks/val_size.py report pocket

`train` gives val that share of the documents and adds each run's loss on each document of it to
`benchmarks/val_size/TRACK.csv`; a run that has rows is not trained again. `report` takes the documents that a smaller
val would hold and prints, as Markdown, how much the runs of a recipe and the gains of same-seed pairs scatter on them.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import numpy as np
from studies import Row, Table, train_here

from harness.core.dataspec import PINS, PackageData
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import load_run, require_finished
from harness.core.track import Track, load_track
from harness.data.batches import eval_batches
from harness.data.cache import open_split, with_found_pins
from harness.data.corpus import load_package, split_documents
from harness.data.prepare import prepare
from harness.player.device import set_up_torch
from harness.variants.recipe import apply_recipe, recipe_sources

NUM_SEEDS = 8
COLUMNS = ("val_fraction", "recipe", "seed", "document", "tokens", "nats")


def with_val(track: Track, fraction: float) -> Track:
    """The track with that share of its documents as val, and no pins."""
    data = track.data.model_copy(update={"val_fraction": fraction, **dict.fromkeys(PINS)})
    return track.model_copy(update={"data": data})


def train_one(track: Track, recipe_name: str, seed: int) -> list[Row]:
    """A row for each document of val."""
    import torch

    set_up_torch(track)
    recipe = apply_recipe(recipe_sources(Project.find(), recipe_name), track.model, track.optim)
    _, model = train_here(track, recipe, seed=seed)
    about = {"val_fraction": track.data.val_fraction, "recipe": recipe_name, "seed": seed}
    with torch.no_grad():
        return [{**about, **row} for row in document_rows(track, model)]


def document_rows(track: Track, model: Any) -> list[Row]:
    """The summed loss on each document of val, its separator's included, in nats."""
    import torch
    import torch.nn.functional as F

    val_N = open_split(track, "val")
    losses = []
    for batch in eval_batches(val_N, track.budget.seq_len, track.budget.eval_sequences):
        tokens_BT1 = torch.from_numpy(batch.astype(np.int64))
        logits_BTV = model(tokens_BT1[:, :-1])[0]
        losses.append(F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT1[:, 1:].flatten(), reduction="none").numpy())
    document_N = np.cumsum(val_N[1:] == val_N[0])
    tokens_D, nats_D = np.bincount(document_N), np.bincount(document_N, weights=np.concatenate(losses))
    return [
        {"document": document, "tokens": int(tokens), "nats": f"{nats:.4f}"}
        for document, tokens, nats in zip(val_documents(track), tokens_D, nats_D, strict=True)
    ]


def val_documents(track: Track) -> list[str]:
    """The names of val's documents, in its order."""
    assert isinstance(track.data, PackageData), "only a corpus that is known as a whole can be split anew"
    return split_documents(load_package(track.data), track.data)["val"]


def train_all(name: str, fraction: float, recipes: list[str]) -> None:
    """Train what the table lacks of the base and `recipes`, two runs side by side."""
    track = with_val(load_track(Project.find(), name), fraction)
    prepare(track)
    track = with_found_pins(track)
    table = kept(name)
    done = {(float(row["val_fraction"]), row["recipe"], int(row["seed"])) for row in table.rows()}
    asked = [
        (track, recipe, seed)
        for seed in range(NUM_SEEDS)
        for recipe in dict.fromkeys(["base", *recipes])
        if (fraction, recipe, seed) not in done
    ]
    table.fill(train_one, asked)


def kept(name: str) -> Table:
    """A track's losses."""
    return Table("val_size", name, COLUMNS)


def report(name: str) -> None:
    """One line for each size of val, of the runs with the largest; S seeds.

    The last column is what the same precision takes: the variance of the first recipe's gain times the seconds of a
    run, over those of the track's own share. A run takes what it took on the board, and val is scored twice.
    """
    track, rows = load_track(Project.find(), name), kept(name).rows()
    if not rows:
        sys.exit(f"{name} has no runs here; train some: `python benchmarks/val_size.py train {name} 0.24 RECIPE`")
    largest = max(float(row["val_fraction"]) for row in rows)
    runs: dict[str, dict[int, dict[str, tuple[int, float]]]] = {}  # recipe -> seed -> document -> (tokens, nats)
    for row in rows:
        if float(row["val_fraction"]) == largest:
            run = runs.setdefault(row["recipe"], {}).setdefault(int(row["seed"]), {})
            run[row["document"]] = int(row["tokens"]), float(row["nats"])
    base, *others = runs
    if not others:
        sys.exit("there are runs of one recipe only; train another one, say `train pocket 0.24 base+token_smear`")
    seeds = sorted(set.intersection(*(set(of_recipe) for of_recipe in runs.values())))
    other_s, token_s = seconds(track)

    def line(fraction: float) -> list[float]:
        held = val_documents(with_val(track, fraction))
        tokens = sum(runs[base][seeds[0]][document][0] for document in held)
        loss_S = {
            recipe: np.array([sum(runs[recipe][seed][document][1] for document in held) / tokens for seed in seeds])
            for recipe in runs
        }
        gains = [loss_S[base] - loss_S[recipe] for recipe in others]
        spreads = [float(values_S.std(ddof=1)) for values_S in (loss_S[base], *gains)]
        return [len(held), tokens, *spreads, spreads[1] ** 2 * (other_s + token_s * tokens)]

    titles = "".join(f" spread of the gain of `{recipe}` |" for recipe in others)
    print(f"| share of the documents | documents | tokens | spread of `{base}` |{titles} cost of the same precision |")
    print("|---:|" + "---:|" * (4 + len(others)))
    own = track.data.val_fraction
    lines = {fraction: line(fraction) for fraction in (own / 2, own, 2 * own, 4 * own) if fraction <= largest}
    for fraction, (count, tokens, *spreads, work) in lines.items():
        cells = [f"{fraction:.1%}", f"{count:.0f}", f"{tokens:,.0f}", *(f"{spread:.4f}" for spread in spreads)]
        print("| " + " | ".join([*cells, f"{work / lines[own][-1]:.2f}"]) + " |")


def seconds(track: Track) -> tuple[float, float]:
    """Of the base's runs on the track's board: seconds of a run without its scoring, and of scoring a token twice."""
    kept = require_finished([load_run(path) for path in Project.find().submissions.glob("*/runs/*.json")])
    runs = [run for run in kept if (run.training_digest, run.recipe) == (track.training_digest, "base")]
    other_s = statistics.median(run.training.wall_s for run in runs)
    return other_s, 2 * statistics.median(run.evaluation.eval_s / run.evaluation.tokens for run in runs)


def main() -> None:
    try:
        match sys.argv[1:]:
            case ["train", name, fraction, *recipes]:
                train_all(name, float(fraction), recipes)
            case ["report", name]:
                report(name)
            case _:
                sys.exit(__doc__)
    except LlmbenchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
