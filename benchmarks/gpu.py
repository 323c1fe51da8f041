"""How fast the GPU tracks train: tokens a second, and the share of the GPU's own matrix rate. Has not run on a GPU yet.

    python benchmarks/gpu.py             # blueberry-8m and moe-24gb
    python benchmarks/gpu.py pocket      # any track, where it is at home

Loops over one model and the same shapes, one after the other, several rounds: llmbench's training loop as it trains,
eager and compiled, and a plain PyTorch loop (dense tracks; AdamW, bfloat16 where the GPU has it), eager and compiled.
Printed are medians with the smallest and largest of the rounds. Random tokens train as fast as text, so nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from plain import PlainGPT
from speed import flops_per_token
from studies import train_in

from harness.core.errors import LlmbenchError
from harness.core.project import CHECKOUT, Project
from harness.core.track import Track, load_track
from harness.player.device import Device, open_device, set_up_torch
from tests.players import OpenCasting

ROUNDS = 3
STEPS = 40
WARMUP = 10


def matrix_rate(device: Device) -> float:
    """Floating-point operations a second of large square products in the training's precision."""
    size = 8192 if device.name == "cuda" else 1024
    kind = torch.bfloat16 if device.bf16 else torch.float32
    left = torch.randn(size, size, device=device.name, dtype=kind)
    best = 0.0
    for repeats in (3, 20, 20, 20):  # the first is a warm-up
        device.wait()
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, left)
        device.wait()
        best = max(best, 2 * size**3 * repeats / (time.perf_counter() - started))
    return best


def ours(track: Track) -> tuple[float, int]:
    """Tokens a second between two of a run's own looks at its clock, its first steps left out; peak memory in MiB."""
    budget = track.budget
    rng = np.random.default_rng(0)
    noise = rng.integers(0, track.model.vocab_size, (STEPS + WARMUP + 1) * budget.batch_tokens)
    tokens = {"train": noise.astype(np.uint16), "dev": noise[: 4 * budget.seq_len + 1].astype(np.uint16)}
    cut = budget.model_copy(update={"tokens": (STEPS + WARMUP) * budget.batch_tokens, "dev_evaluations": 1})
    track = track.model_copy(update={"budget": cut})
    seen: dict[int, float] = {0: 0.0}

    def hear(event: Any) -> None:
        seen[event.step] = event.train_s

    with tempfile.TemporaryDirectory() as folder:
        training = train_in(folder, track, OpenCasting, watch=hear, tokens=tokens)
    first, last = min(step for step in seen if step >= WARMUP), max(seen)
    return (last - first) * budget.batch_tokens / (seen[last] - seen[first]), training.peak_memory_mib or 0


def plain(track: Track, device: Device, *, compiled: bool) -> float:
    """Tokens a second of the loop that everyone writes, its first steps left out."""
    budget = track.budget
    model = PlainGPT(track.model, budget.seq_len).to(device.name)
    model.cos, model.sin = model.cos.to(device.name), model.sin.to(device.name)
    forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens_BT1 = torch.randint(track.model.vocab_size, (budget.batch_sequences, budget.seq_len + 1), device=device.name)
    started = 0.0
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            device.wait()
            started = time.perf_counter()
        with device.autocast():
            logits = forward(tokens_BT1[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens_BT1[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    device.wait()
    return STEPS * budget.batch_tokens / (time.perf_counter() - started)


def report(track: Track) -> None:
    """One track's table."""
    set_up_torch(track)
    device = open_device(track)
    peaks_mib = {}

    def run(*, compiled: bool) -> float:
        rate, peaks_mib[compiled] = ours(track.model_copy(update={"compile": compiled}))
        return rate

    arms: dict[str, Callable[[], float]] = {"llmbench's loop, eager": lambda: run(compiled=False)}
    if device.name == "cuda":
        arms["llmbench's loop, compiled"] = lambda: run(compiled=True)
    if not track.model.num_experts:
        arms["a plain loop, eager"] = lambda: plain(track, device, compiled=False)
        if device.name == "cuda":
            arms["a plain loop, compiled"] = lambda: plain(track, device, compiled=True)
    rounds = []
    for _ in range(ROUNDS):
        found = {"rate": matrix_rate(device)} | {name: arm() for name, arm in arms.items()}
        rounds.append(found)
        print("round:", {name: f"{value:,.0f}" for name, value in found.items()}, flush=True)
    flops = flops_per_token(track, causal=False)
    rate = statistics.median(found["rate"] for found in rounds)
    where = torch.cuda.get_device_name() if device.name == "cuda" else "the CPU"
    print(f"\n{track.name} on {where}, matrix products at {rate / 1e12:.3g} TFLOP/s\n")
    print("| loop | tokens a second | share of the matrix rate | over the eager loop |\n|---|---:|---:|---:|")
    for name in arms:
        speeds = [found[name] for found in rounds]
        share = statistics.median(found[name] * flops / found["rate"] for found in rounds)
        eager = [found[name] / found["a plain loop, eager"] for found in rounds if "a plain loop, eager" in found]
        over = f"{statistics.median(eager):.2f} ({min(eager):.2f} to {max(eager):.2f})" if eager else ""
        print(f"| {name} | {statistics.median(speeds):,.0f} | {share:.1%} | {over} |")
    if device.name == "cuda":
        print(f"\npeak memory of a run, eager: {peaks_mib[False] / 2**10:.1f} GiB")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tracks", nargs="*", default=["blueberry-8m", "moe-24gb"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `llmbench run --set`")
    options = parser.parse_args()
    try:
        for name in options.tracks:
            report(load_track(Project(Path(CHECKOUT)), name, options.set))
    except LlmbenchError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
