"""Whether the sizes of a ladder want other learning rates: the same tries on each, on the dev split; val stays closed.

    python benchmarks/rates.py pocket-s

Two factors are tried: one on Muon's rate and one on the rates of AdamW, each from a half to twice the track's, with
two seeds a try. Every run is a row of `benchmarks/rates/TRACK.csv`; a run that has a row is not trained again.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from functools import partial
from statistics import fmean

from studies import Row, Table, train_here

from harness.core.project import Project
from harness.core.runs import RunFailedError
from harness.core.track import Track, load_track
from harness.data.prepare import prepare
from harness.player.device import set_up_torch
from harness.variants.recipe import apply_recipe

FACTORS = (0.5, 1.0, 2.0)
TRIES = [(muon, 1.0) for muon in FACTORS] + [(1.0, adam) for adam in FACTORS if adam != 1.0]
"""Factors on Muon's rate and on AdamW's."""
SEEDS = (0, 1)
COLUMNS = ("muon", "adam", "seed", "dev_loss_nats", "train_s")


def rows_of(track: Track, muon: float, adam: float, seed: int) -> list[Row]:
    """One run with these factors."""
    set_up_torch(track)
    optim = replace(
        track.optim,
        muon_lr=muon * track.optim.muon_lr,
        **{name: adam * getattr(track.optim, name) for name in ("embed_lr", "head_lr", "scalar_lr")},
    )
    loss, seconds = float("inf"), 0.0
    try:
        training, _ = train_here(track, apply_recipe({}, track.model, optim), seed=seed)
        loss, seconds = training.curve[-1].dev_loss_nats, training.train_s
    except RunFailedError as error:
        if error.status != "diverged":
            raise
    values = (muon, adam, seed, f"{loss:.4f}", f"{seconds:.1f}")
    return [dict(zip(COLUMNS, values, strict=True))]


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    track = load_track(Project.find(), sys.argv[1])
    prepare(track)
    table = Table("rates", track.name, COLUMNS)
    there = {(float(row["muon"]), float(row["adam"]), int(row["seed"])) for row in table.rows()}
    asked = [(muon, adam, seed) for seed in SEEDS for muon, adam in TRIES if (muon, adam, seed) not in there]
    table.fill(partial(rows_of, track), asked)
    losses = defaultdict[tuple[float, float], list[float]](list)
    for row in table.rows():
        losses[float(row["muon"]), float(row["adam"])].append(float(row["dev_loss_nats"]))
    for (muon, adam), found in sorted(losses.items()):
        print(f"muon x{muon:g}, adam x{adam:g}: {fmean(found):.4f} over {len(found)}")


if __name__ == "__main__":
    main()
