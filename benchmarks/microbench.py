"""What two choices in the hot loop are worth on this machine, as ratios of times. Run it where nothing else runs.

    python benchmarks/microbench.py pocket

1. Keeping freed memory (`harness/job.py: keep_freed_memory`): training steps with it and without, each in a process
   of its own, because malloc's settings cannot be taken back.
2. float32 for the optimizer on a CPU (`models/optim.py: orthogonalize`): one step's matrices in float32 and in
   bfloat16.

Both sides of a round are measured one right after the other, and who goes first alternates. Printed are the median
of the rounds' ratios, and the smallest and largest of them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from tune import measure

import harness.job
from harness.catalog import apply_recipe
from harness.prepare import prepare
from harness.project import Project
from harness.track import Track, load_track
from models.optim import orthogonalize

ROUNDS = 7
STEPS = 20  # about seven seconds of `pocket` on one core
REPEATS = 20
ARMS = ("usual", "other")


def train_some_steps(track: Track, arm: str) -> float:
    """Seconds of the track's first steps; the other arm gives freed memory back to the kernel."""
    budget = track.budget.model_copy(update={"tokens": STEPS * track.budget.batch_tokens, "dev_evaluations": 1})
    if arm == "other":
        harness.job.keep_freed_memory = lambda: None
    harness.job.set_up_torch(track)
    return measure(track.model_copy(update={"budget": budget}))[1]


def in_a_process(track: Track, arm: str) -> float:
    """The same, in a new process."""
    command = [sys.executable, __file__, track.name, arm]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def orthogonalize_some(track: Track, arm: str) -> float:
    """Seconds of one step's Newton-Schulz iterations, repeated; the other arm iterates in bfloat16."""
    parts = apply_recipe({}, track.model, track.optim)
    muon, _ = parts.parts.optimizer(parts.build(), track.optim)
    shapes = [parameter.shape for group in muon.param_groups for parameter in group["params"]]
    stacks = [torch.randn(shapes.count(shape), *shape) for shape in dict.fromkeys(shapes)]
    other_type = torch.Tensor.bfloat16 if arm == "other" else torch.Tensor.float
    with patch.object(torch.Tensor, "float", other_type):  # the function chooses its type by `.float()`
        for stack in stacks:
            orthogonalize(stack)  # the first call of a shape sets up its kernel
        tick = time.perf_counter()
        for _ in range(REPEATS):
            for stack in stacks:
                orthogonalize(stack)
        return time.perf_counter() - tick


def compare(what: str, seconds: Callable[[Track, str], float], track: Track) -> None:
    """Print one row: the other arm's time over the usual one's."""
    ratios = []
    for number in range(ROUNDS):
        order = ARMS if number % 2 == 0 else ARMS[::-1]
        found = {arm: seconds(track, arm) for arm in order}
        ratios.append(found["other"] / found["usual"])
    print(
        f"| {what} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {ROUNDS} |", flush=True
    )


def main() -> None:
    track = load_track(Project.find(), sys.argv[1])
    prepare(track)
    if sys.argv[2:]:
        print(train_some_steps(track, sys.argv[2]))
        return
    torch.set_num_threads(track.threads)
    busy = os.getloadavg()[0]
    print(f"{track.name}, {track.threads} thread(s), torch {torch.__version__}; load before: {busy:.2f}\n")
    print("| time without over time with | median | range | rounds |\n|---|---:|---:|---:|")
    compare("keeping freed memory, training steps", in_a_process, track)
    compare("float32 instead of bfloat16, orthogonalize", orthogonalize_some, track)


if __name__ == "__main__":
    main()
