"""How large should a track's val split be? A larger one scatters less from seed to seed, and takes longer to score.

    python benchmarks/val_size.py train pocket 0.24 base+token_smear     # eight pairs, two runs side by side
    python benchmarks/val_size.py report pocket

`train` gives val that share of the documents and adds each run's loss on each document of it to
`benchmarks/val_size/TRACK.csv`; a run that has rows is not trained again. `report` draws smaller splits from those
documents and prints, as Markdown, how much the runs of one recipe and the gains of same-seed pairs scatter on them.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from harness.catalog import apply_recipe, recipe_sources
from harness.data import eval_batches, open_split, with_found_pins
from harness.dataspec import PINS
from harness.job import Job, set_up_torch
from harness.prepare import prepare
from harness.project import Project
from harness.track import Track, load_track

NUM_SEEDS = 8
DRAWS = 2000
COLUMNS = ("recipe", "seed", "document", "tokens", "nats")


def with_val(track: Track, fraction: float) -> Track:
    """The track with that share of its documents as val, and no pins."""
    data = track.data.model_copy(update={"val_fraction": fraction, **dict.fromkeys(PINS)})
    return track.model_copy(update={"data": data})


def train_one(track: Track, recipe_name: str, seed: int) -> list[dict[str, Any]]:
    """A row for each document of val."""
    import torch
    from safetensors.torch import load_file

    from harness.train import train

    set_up_torch(track)
    recipe = apply_recipe(recipe_sources(Project.find(), recipe_name), track.model, track.optim)
    tokens = {"train": open_split(track, "train"), "dev": open_split(track, "dev")}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            root=folder, track=track.name, training_digest=track.training_digest, recipe=recipe_name,
            sources={}, seed=seed, folder=folder, checkpoint_every_s=1e9,
        )  # fmt: skip
        train(track, recipe, tokens, job, lambda event: None)
        model = recipe.renew().build()
        model.load_state_dict(load_file(job.weights))
    with torch.no_grad():
        return [{"recipe": recipe_name, "seed": seed, **row} for row in document_rows(track, model.eval())]


def document_rows(track: Track, model: Any) -> list[dict[str, Any]]:
    """The summed loss on each document of val, nats; its separator is predicted at the end of the one before."""
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
        for document, (tokens, nats) in enumerate(zip(tokens_D, nats_D, strict=True))
    ]


def train_all(name: str, fraction: float, recipes: list[str]) -> None:
    """Train what the table lacks of the base and `recipes`, two runs side by side."""
    track = with_val(load_track(Project.find(), name), fraction)
    prepare(track)
    track = with_found_pins(track)
    done = {(row["recipe"], int(row["seed"])) for row in read(name)}
    asked = [
        (track, recipe, seed)
        for seed in range(NUM_SEEDS)
        for recipe in dict.fromkeys(["base", *recipes])
        if (recipe, seed) not in done
    ]
    with ProcessPoolExecutor(max_workers=2) as pool, table(name).open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        for rows in pool.map(train_one, *zip(*asked, strict=True)) if asked else ():
            writer.writerows(rows)
            file.flush()
            print(f"{rows[0]['recipe']} seed {rows[0]['seed']}", flush=True)


def table(name: str) -> Path:
    """Where a track's losses are kept."""
    path = Path(__file__).with_suffix("") / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    return path


def read(name: str) -> list[dict[str, str]]:
    """All rows of a track."""
    path = table(name)
    return list(csv.DictReader(path.open())) if path.exists() else []


def report(name: str) -> None:
    """One line for each size of val; S seeds, D documents."""
    rows = read(name)
    tokens_D = np.array([int(row["tokens"]) for row in rows if (row["recipe"], row["seed"]) == ("base", "0")])
    nats = {
        recipe: np.array([float(row["nats"]) for row in rows if row["recipe"] == recipe]).reshape(-1, len(tokens_D))
        for recipe in dict.fromkeys(row["recipe"] for row in rows)
    }
    recipes = [recipe for recipe in nats if recipe != "base"]
    print(
        "| documents | tokens | spread of `base` |" + "".join(f" paired spread of `{recipe}` |" for recipe in recipes)
    )
    print("|---:|---:|---:|" + "---:|" * len(recipes))
    generator = np.random.default_rng(0)
    for share in (1 / 8, 1 / 4, 1 / 2, 1):
        size = round(share * len(tokens_D))
        spreads = []
        for _ in range(DRAWS):
            drawn = generator.choice(len(tokens_D), size, replace=False)
            loss_S = {recipe: nats_SD[:, drawn].sum(1) / tokens_D[drawn].sum() for recipe, nats_SD in nats.items()}
            gains = [loss_S["base"] - loss_S[recipe] for recipe in recipes]
            spreads.append([values_S.var(ddof=1) for values_S in (loss_S["base"], *gains)])
        cells = [str(size), f"{share * tokens_D.sum():,.0f}", *(f"{v**0.5:.4f}" for v in np.mean(spreads, 0))]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    match sys.argv[1:]:
        case ["train", name, fraction, *recipes]:
            train_all(name, float(fraction), recipes)
        case ["report", name]:
            report(name)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
