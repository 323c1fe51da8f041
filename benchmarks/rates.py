"""Whether the sizes of a ladder want other learning rates: the same tries on each, on the dev split; val stays closed.

    python benchmarks/rates.py pocket-s 2

Two factors are tried: one on Muon's rate and one on the rates of AdamW, a half, one and two times those of `pocket`,
with so many seeds a try. Every run is a row of `benchmarks/rates/TRACK.csv`; a run that has a row is not trained again.

The recipe for all sizes: a rate moves to the vertex of the parabola through its three losses, over the logarithm of the
factor, where that promises more than LEAST nats. Otherwise it stays as on `pocket`.
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
LEAST = 0.005  # nats: about the paired deviation of pocket
TRIES = [(muon, 1.0) for muon in FACTORS] + [(1.0, adam) for adam in FACTORS if adam != 1.0]
"""Factors on Muon's rate and on AdamW's."""
COLUMNS = ("muon", "adam", "seed", "dev_loss_nats", "train_s")


def rows_of(track: Track, muon: float, adam: float, seed: int) -> list[Row]:
    """One run with these factors."""
    set_up_torch(track)
    pocket = load_track(Project.find(), "pocket").optim
    optim = replace(
        track.optim,
        muon_lr=muon * pocket.muon_lr,
        **{name: adam * getattr(pocket, name) for name in ("embed_lr", "head_lr", "scalar_lr")},
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
    if len(sys.argv) != 3 or sys.argv[1].startswith("-") or not sys.argv[2].isdecimal():
        sys.exit(__doc__)
    track = load_track(Project.find(), sys.argv[1])
    prepare(track)
    table = Table("rates", track.name, COLUMNS)
    there = {(float(row["muon"]), float(row["adam"]), int(row["seed"])) for row in table.rows()}
    asked = [
        (muon, adam, seed)
        for seed in range(int(sys.argv[2]))
        for muon, adam in TRIES
        if (muon, adam, seed) not in there
    ]
    table.fill(partial(rows_of, track), asked)
    losses = defaultdict[tuple[float, float], list[float]](list)
    for row in table.rows():
        losses[float(row["muon"]), float(row["adam"])].append(float(row["dev_loss_nats"]))
    for (muon, adam), found in sorted(losses.items()):
        print(f"muon x{muon:g}, adam x{adam:g}: {fmean(found):.4f} over {len(found)}")
    for name, pair in (
        ("muon", [(factor, 1.0) for factor in FACTORS]),
        ("adam", [(1.0, factor) for factor in FACTORS]),
    ):
        low, middle, high = (fmean(losses[one]) for one in pair)
        factor, gain = vertex(low - middle, high - middle)
        print(f"{name}: x{factor:.2f} promises {gain:.4f}: {'moves' if gain > LEAST else 'stays'}")


def vertex(low: float, high: float) -> tuple[float, float]:
    """Factor of the rate at the vertex of the parabola through (1/2, low), (1, 0), (2, high), and how far below zero.

    No further than the factors that were tried.
    """
    bend, slope = (low + high) / 2, (high - low) / 2
    place = min(1.0, max(-1.0, -slope / (2 * bend))) if bend > 0 else float(low > high) * 2 - 1
    return 2.0**place, -(bend * place**2 + slope * place)


if __name__ == "__main__":
    main()
