"""How often the audit and the probe of one run find leaks that were planted in a trained model.

    llmbench run baseline --track smoke
    python benchmarks/audit.py smoke runs/smoke/base/DIGEST/seed-0/weights.safetensors --trials 40

prints a Markdown table, kept in benchmarks/audit/README.md. A planted leak acts at random positions of val, known by
the tokens before them. There it makes the next token that much more probable that its loss falls by D nats. Each trial
plants its leaks anew; beside what was found stands what `harness.core.audit` computes.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from harness.core.audit import positions_needed, probability_found
from harness.core.project import Project
from harness.core.track import load_track
from harness.data.cache import open_split
from harness.player.device import set_up_torch
from harness.referee.audit import audit_rows
from harness.referee.evaluate import exam_of, probe_rows
from harness.referee.probes import Exam, Scores, random_for, score
from harness.referee.session import ProbeFailedError
from harness.variants.recipe import apply_recipe
from tests.referee.synthetic import prefix_hashes

CONCENTRATIONS = (1.0, 3.0, 6.0)
WORTHS = (0.0005, 0.0017, 0.005)
SURE = 0.05  # nats that a leaking position keeps at least


class Planted:
    """A session of the model that raises the next token's logit after some prefixes."""

    def __init__(self, model: nn.Module, hashes: NDArray[np.uint64], boosts: NDArray[np.float64]) -> None:
        order = np.argsort(hashes)
        self.model, self.hashes, self.boosts = model, hashes[order], boosts[order]

    def ask(self, tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits_BTV: NDArray[np.float32] = self.model(torch.from_numpy(tokens_BT.copy()))[0].numpy()
        if len(self.hashes):
            seen_BT = prefix_hashes(tokens_BT)[:, :-1]
            rows, positions = np.isin(seen_BT, self.hashes).nonzero()
            boosts = self.boosts[np.searchsorted(self.hashes, seen_BT[rows, positions])]
            logits_BTV[rows, positions, tokens_BT[rows, positions + 1]] += boosts
        return logits_BTV


def leaks(
    exam: Exam, honest: Scores, val: range, nats: float, worth: float, generator: np.random.Generator
) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Random positions that gain `nats` each, as many as are worth `worth` a token, and what raises their logits so."""
    hashes = np.concatenate([prefix_hashes(exam.rows[row][None, :-1].astype(np.int64))[0, :-1] for row in val])
    losses = np.concatenate([honest.nats[row][:-1] for row in val])
    count = math.floor(sum(len(exam.rows[row]) - 1 for row in val) * worth / nats)
    chosen = generator.choice(np.flatnonzero(losses > nats + SURE), count, replace=False)
    before, after = np.exp(-losses[chosen]), np.exp(nats - losses[chosen])
    return hashes[chosen], np.log(after * (1 - before) / (before * (1 - after)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    track = load_track(Project.find(), options.track)
    set_up_torch(track)
    model = apply_recipe({}, track.model, track.optim).build().eval()
    model.load_state_dict(load_file(options.weights))
    val_N, dev_N = open_split(track, "val"), open_split(track, "dev")
    exam, val, dev = exam_of(track, val_N, dev_N)
    positions = len(val_N) - 1
    tested = positions_needed(positions)
    nothing = (np.zeros(0, np.uint64), np.zeros(0))
    honest = score(Planted(model, *nothing), exam, [*val, *dev], random_for(0, "score"))
    started = time.perf_counter()
    audit_rows(Planted(model, *nothing), honest, val, tested, random_for(0, "audit"))
    audit_s = time.perf_counter() - started
    pass_s = sum(honest.waits_s[row] for row in val)
    print(f"`{track.name}`: {tested:,} of {positions:,} positions tested in {audit_s:.1f} s, as long as", end=" ")
    print(f"{audit_s / pass_s:.1f} passes over val; {options.trials} trials a row.\n")
    print(
        "| D, nats a position | worth, nats a token | leaking positions | audit, computed | audit | probe of one run |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    for nats in CONCENTRATIONS:
        for worth in WORTHS:
            found = {"audit": 0, "probe": 0}
            for trial in range(options.trials):
                leak = leaks(exam, honest, val, nats, worth, np.random.default_rng([trial, round(worth * 1e4)]))
                scores = score(Planted(model, *leak), exam, [*val, *dev], random_for(trial, "score"))
                try:
                    probe_rows(Planted(model, *leak), scores, val, random_for(trial, "probe"))
                except ProbeFailedError:
                    found["probe"] += 1
                try:
                    audit_rows(Planted(model, *leak), scores, val, tested, random_for(trial, "audit"))
                except ProbeFailedError:
                    found["audit"] += 1
            computed = probability_found(positions, tested, worth, nats)
            shares = [f"{found[name]} of {options.trials}" for name in ("audit", "probe")]
            print(f"| {nats:g} | {worth:g} | {len(leak[0])} | {computed:.3f} | {shares[0]} | {shares[1]} |", flush=True)


if __name__ == "__main__":
    main()
