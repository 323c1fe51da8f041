"""Tune a track's baseline by coordinate search on the dev split; val stays closed.

    python benchmarks/tune.py pocket

Knob after knob, the values next to the best so far are tried with one seed, the same for all; a value
replaces the best where its final dev loss is lower. Every trial is a row of `benchmarks/tune/TRACK.csv`, and a
trial that has a row is not trained again, so the search can be stopped and started.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from studies import train_here

from harness.core.project import Project
from harness.core.runs import RunFailedError
from harness.core.track import Track, load_track
from harness.data.prepare import prepare
from harness.player.device import set_up_torch
from harness.variants.recipe import apply_recipe

GRID: dict[str, list[float]] = {
    "batch_sequences": [8],  # smaller batches win by up to 0.06 nats and cost a fifth more time: see the table
    "muon_lr": [0.005, 0.007, 0.01, 0.014, 0.02, 0.028, 0.04],
    "embed_lr": [0.01, 0.03, 0.1, 0.2, 0.3, 1.0],
    "head_lr": [0.001, 0.003, 0.006, 0.01, 0.02, 0.03, 0.06],
    "scalar_lr": [0.003, 0.01, 0.02, 0.03, 0.1],
    "warmdown_fraction": [0.3, 0.5, 0.7, 0.85, 1.0],
    "muon_momentum": [0.85, 0.9, 0.95],
    "adam_beta2": [0.9, 0.95, 0.99],
    "warmup_fraction": [0.0, 0.02, 0.05, 0.1],
    "weight_decay": [0.0, 0.05, 0.1, 0.2],
}
NUM_SWEEPS = 2
COLUMNS = [*GRID, "tokens", "dev_loss_nats", "train_s"]


def with_knobs(track: Track, knobs: dict[str, float]) -> Track:
    """The track with other hyperparameters, its budget cut to whole batches."""
    batch = int(knobs["batch_sequences"])
    tokens = track.budget.tokens // (batch * track.budget.seq_len) * batch * track.budget.seq_len
    optim = replace(track.optim, **{key: value for key, value in knobs.items() if key != "batch_sequences"})
    budget = track.budget.model_copy(update={"batch_sequences": batch, "tokens": tokens})
    return track.model_copy(update={"optim": optim, "budget": budget})


def measure(track: Track) -> tuple[float, float]:
    """(final dev loss in nats, training seconds)."""
    try:
        result, _ = train_here(track, apply_recipe({}, track.model, track.optim))
    except RunFailedError as error:
        if error.status != "diverged":
            raise
        return float("inf"), 0.0
    return result.curve[-1].dev_loss_nats, result.train_s


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    track = load_track(Project.find(), sys.argv[1])
    prepare(track)
    set_up_torch(track)
    path = Path(__file__).parent / "tune" / f"{track.name}.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    seen = {tuple(float(row[key]) for key in GRID): float(row["dev_loss_nats"]) for row in rows}
    best = {key: float(getattr(track.optim, key, track.budget.batch_sequences)) for key in GRID}

    def trial(knobs: dict[str, float]) -> float:
        key = tuple(knobs.values())
        if key not in seen:
            variation = with_knobs(track, knobs)
            seen[key], seconds = measure(variation)
            fresh = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if fresh:
                    writer.writerow(COLUMNS)
                row = [f"{value:g}" for value in key]
                writer.writerow([*row, variation.budget.tokens, f"{seen[key]:.4f}", f"{seconds:.1f}"])
        return seen[key]

    print(f"start {trial(best):.4f} {best}", flush=True)
    for sweep in range(NUM_SWEEPS):
        for knob, values in GRID.items():
            climb(knob, values, best, trial)
            print(f"sweep {sweep + 1} {knob} -> {best[knob]:g}: {trial(best):.4f}", flush=True)


def climb(knob: str, values: list[float], best: dict[str, float], trial: Callable[[dict[str, float]], float]) -> None:
    """Move one knob to its better neighbour until neither neighbour is better."""
    while True:
        place = values.index(best[knob])
        neighbours = values[max(0, place - 1) : place + 2]
        losses = {value: trial({**best, knob: value}) for value in neighbours}
        winner = min(losses, key=losses.__getitem__)
        if winner == best[knob]:
            return
        best[knob] = winner


if __name__ == "__main__":
    main()
