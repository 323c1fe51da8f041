"""How fast a CPU track trains, as ratios: to a plain PyTorch loop, to the machine's matrix products, lever by lever.

    python benchmarks/speed.py pocket     # where nothing else runs; writes benchmarks/speed/README.md

Every arm is a process of its own that takes a training step when it is asked to, and waits. In a round each arm takes
one, one right after the other, and the order turns from round to round; a ratio is taken within a round, and the median
and the quartiles of the rounds are printed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from plain import PlainGPT, train_plainly
from rich.progress import track as progress
from studies import train_in
from torch import nn
from tune import with_knobs

import harness.player.device
import harness.player.train
import models.gpt
import models.kernels
import models.moe
import models.muon
from harness.core.errors import LlmbenchError
from harness.core.project import CHECKOUT, Project
from harness.core.runs import load_run, require_finished
from harness.core.track import Track, load_track
from harness.data.batches import Batches
from harness.data.cache import open_split
from harness.data.prepare import prepare
from harness.lab.provenance import default_jobs
from harness.player.train import cross_entropy
from harness.referee.casting import Casting
from harness.variants.recipe import apply_recipe
from tests.players import OpenCasting, ThreadCasting

ROUNDS = 60
WARMUP = 3
PROFILED = 10

Tell = Callable[[float], None]
"""Takes what one step, or one second of products, came to; returns when the next is due."""


def matrix_rate(track: Track, tell: Tell) -> None:
    """Floating-point operations a second of square products on the track's threads."""
    torch.set_num_threads(track.threads)
    matrix_rate_on_all_cores(track, tell)


def matrix_rate_on_all_cores(track: Track, tell: Tell) -> None:
    """The same as PyTorch sets itself up."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    while True:
        repeats, started = 15, time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right)
        tell(2 * 1024**3 * repeats / (time.perf_counter() - started))


def ours(track: Track, tell: Tell, kind: Callable[..., Casting] = OpenCasting) -> None:
    """Tokens a second of a run as it is, its player a process of its own: a batch handed over until it is done."""
    track = track.model_copy(update={"budget": track.budget.model_copy(update={"dev_evaluations": 1})})
    asked = time.perf_counter()

    def hear(event: Any) -> None:
        nonlocal asked
        tell(track.budget.batch_tokens / (time.perf_counter() - asked))
        asked = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        train_in(folder, track, kind, watch=hear)


def in_a_thread(track: Track, tell: Tell) -> None:
    """The same with the player in a thread of this process, whose parts can be exchanged."""
    ours(track, tell, ThreadCasting)


def plain(track: Track, tell: Tell) -> None:
    """Tokens a second of the plain loop on the track's threads."""
    torch.set_num_threads(track.threads)
    plain_on_all_cores(track, tell)


def plain_on_all_cores(track: Track, tell: Tell) -> None:
    """Tokens a second of the plain loop as PyTorch sets itself up."""
    train_plainly(track, torch.from_numpy(open_split(track, "train").astype("int64")), tell)


def plain_compiled(track: Track, tell: Tell) -> None:
    """Tokens a second of the plain loop compiled, once that is done."""
    torch.set_num_threads(track.threads)
    train_plainly(track, torch.from_numpy(open_split(track, "train").astype("int64")), tell, compiled=True)


def without_kept_memory(track: Track, tell: Tell) -> None:
    harness.player.device.keep_freed_memory = lambda: None
    in_a_thread(track, tell)


def without_attention(track: Track, tell: Tell) -> None:
    models.kernels.MAX_KEPT_POSITIONS = 0
    in_a_thread(track, tell)


def without_norm(track: Track, tell: Tell) -> None:
    models.kernels.RMSNorm.forward = nn.RMSNorm.forward  # type: ignore[method-assign]
    in_a_thread(track, tell)


def without_squared_relu(track: Track, tell: Tell) -> None:
    models.gpt.squared_relu = models.moe.squared_relu = lambda x: F.relu(x).square()
    in_a_thread(track, tell)


def without_cross_entropy(track: Track, tell: Tell) -> None:
    harness.player.train.cross_entropy = lambda logits, targets: F.cross_entropy(  # type: ignore[attr-defined]
        logits.flatten(0, -2), targets.flatten()
    )
    in_a_thread(track, tell)


def without_gram(track: Track, tell: Tell) -> None:
    models.muon.LONG = 10**9
    in_a_thread(track, tell)


def with_bf16(track: Track, tell: Tell) -> None:
    orthogonalize = models.muon.orthogonalize

    def in_bf16(matrices: torch.Tensor, *quintics: Any) -> torch.Tensor:
        torch.Tensor.float, kept = torch.Tensor.bfloat16, torch.Tensor.float  # type: ignore[method-assign]
        try:
            return orthogonalize(matrices, *quintics)
        finally:
            torch.Tensor.float = kept  # type: ignore[method-assign]

    models.muon.orthogonalize = in_bf16
    in_a_thread(track, tell)


LEVERS: dict[str, Callable[[Track, Tell], None]] = {
    "freed memory is kept (`keep_freed_memory`)": without_kept_memory,
    "cross-entropy in fewer passes (`harness/player/train.py`)": without_cross_entropy,
    "attention in blocks, its weights kept (`models/kernels.py`)": without_attention,
    "RMSNorm in one node (`models/kernels.py`)": without_norm,
    "squared ReLU in one node (`models/kernels.py`)": without_squared_relu,
    "Muon on the Gram matrix (`models/muon.py`)": without_gram,
    "Muon in float32, not in bfloat16 (`models/muon.py`)": with_bf16,
}
LOOPS = (matrix_rate, matrix_rate_on_all_cores, ours, plain, plain_on_all_cores)
ARMS: dict[str, Callable[[Track, Tell], None]] = {
    function.__name__: function for function in (*LOOPS, in_a_thread, plain_compiled, *LEVERS.values())
}


def where_time_goes(track: Track) -> dict[str, float]:
    """Part of a training step -> its share of the processor's time, by PyTorch's profiler."""
    harness.player.device.set_up_torch(track)
    recipe, budget = apply_recipe({}, track.model, track.optim), track.budget
    model = recipe.build()
    harness.variants.recipe.draw_parameters(model, 0)
    optimizers = harness.player.train.build_optimizers(recipe, model)
    batches = Batches(open_split(track, "train"), budget.seq_len, budget.batch_sequences, 0)

    def steps(numbers: range) -> None:
        for number in numbers:
            tokens_BT1 = torch.from_numpy(batches.batch(number))
            cross_entropy(model(tokens_BT1[:, :-1])[0], tokens_BT1[:, 1:]).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    steps(range(3))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        steps(range(3, 3 + PROFILED))
    events = profiler.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)

    def share(*names: str) -> float:
        return sum(event.cpu_time_total for event in events if event.key in names) / whole

    found = {
        "matrix products of the layers and the head": share("aten::mm"),
        "attention": share("_CausalAttention", "_CausalAttentionBackward"),
        "Muon": share("Optimizer.step#Muon.step"),
        "cross-entropy": share("_CrossEntropy", "_CrossEntropyBackward"),
        "RMSNorm": share("_RMSNorm", "_RMSNormBackward"),
        "squared ReLU": share("_SquaredReLU", "_SquaredReLUBackward"),
        "AdamW": share("Optimizer.step#AdamW.step"),
    }
    return {**found, "the rest: rotary positions, residuals, embedding": 1 - sum(found.values())}


class Arm:
    """A process that works when it is asked to."""

    def __init__(self, track: Track, name: str, **variables: str) -> None:
        command = [sys.executable, __file__, track.name, name, str(track.budget.batch_sequences)]
        environment = {**os.environ, **variables}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self) -> None:
        print(file=self.process.stdin, flush=True)

    def answer(self) -> float:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)} ended with code {self.process.wait()}")  # type: ignore[arg-type]
        return float(line)

    def end(self) -> None:
        self.process.communicate()


def work_when_asked(track: Track, name: str) -> None:
    """An arm's life."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(rate: float) -> None:
        print(rate, file=answers, flush=True)
        if not sys.stdin.readline():
            raise SystemExit

    sys.stdin.readline()
    ARMS[name](track, tell)


def measure(arms: dict[str, list[Arm]]) -> dict[str, float]:
    """One round: what each arm came to, one arm after the other; the processes of one arm work side by side."""
    found = {}
    for name, processes in arms.items():
        for process in processes:
            process.ask()
        found[name] = sum(process.answer() for process in processes)
    return found


def take_rounds(track: Track, arms: dict[str, list[Arm]]) -> list[dict[str, float]]:
    """All rounds of these arms, and of as many runs side by side as fill the cores; then the arms end."""
    count = max(1, (os.cpu_count() or 1) // track.threads)
    arms = {**arms, "side_by_side": [Arm(track, "ours") for _ in range(count)]}
    for _ in range(WARMUP):
        measure(arms)
    rounds = []
    for _ in progress(range(ROUNDS), description=f"batches of {track.budget.batch_tokens:,} tokens"):
        rounds.append(measure(arms))
        first = next(iter(arms))
        arms[first] = arms.pop(first)  # the order turns
    for arm in (arm for processes in arms.values() for arm in processes):
        arm.end()
    return rounds


def flops_per_token(track: Track, *, causal: bool) -> float:
    """Of the model, forward and backward: 6 per matrix weight, and attention (arXiv:2204.02311, appendix B).

    That convention counts all T positions for every query; `causal` counts those that it sees.
    """
    parameters = dict(apply_recipe({}, track.model, track.optim).build().named_parameters())
    tied = track.model.tie_embeddings  # then the head has no matrix of its own, and the embedding's is its
    counted = {name: p.numel() for name, p in parameters.items() if p.ndim > 1 and (tied or "embedding" not in name)}
    at_work = track.model.top_k / track.model.num_experts if track.model.num_experts else 1.0
    weights = sum(count * (at_work if ".experts." in name else 1.0) for name, count in counted.items())
    attention = 12 * track.model.num_layers * track.model.num_heads * track.model.head_dim * track.budget.seq_len
    return 6 * weights + attention / (2 if causal else 1)


def training_share(track: Track) -> tuple[float, float, list[float]]:
    """`run baseline` on a copy without runs: (share of training in its wall seconds, these, each run's training).

    The share is what the training steps alone would have taken, handed to the cores in the same order.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "llmbench"
        for part in ("harness", "models", "tracks"):
            shutil.copytree(CHECKOUT / part, root / part)
        started = time.perf_counter()
        command = [sys.executable, "-m", "harness.cli", "run", "baseline", "--track", track.name]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        wall_s = time.perf_counter() - started
        runs = require_finished([load_run(path) for path in root.glob("runs/**/run.json")])
        train_s = [run.training.train_s for run in sorted(runs, key=lambda run: run.seed)]
    cores = [0.0] * default_jobs(track)
    for run_s in train_s:
        heapq.heapreplace(cores, cores[0] + run_s)
    return max(cores) / wall_s, wall_s, train_s


def seconds_of(*arguments: str) -> float:
    """Median wall seconds of a command."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "harness.cli", *arguments], cwd=CHECKOUT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def told(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track")
    parser.add_argument("arm", nargs="*", default=[], help=argparse.SUPPRESS)  # its name, and the sequences of a batch
    options = parser.parse_args()
    try:
        track = load_track(Project(CHECKOUT), options.track)
    except LlmbenchError as error:
        raise SystemExit(str(error)) from error
    if options.arm == ["where_time_goes"]:
        print(json.dumps(where_time_goes(track)))
        return
    if options.arm:
        work_when_asked(with_knobs(track, {"batch_sequences": int(options.arm[1])}), options.arm[0])
        return
    if track.device != "cpu":
        raise SystemExit(f"{track.name} is not a CPU track; on a GPU run benchmarks/gpu.py")
    doubled = with_knobs(track, {"batch_sequences": 2 * track.budget.batch_sequences})
    if doubled.budget.num_steps <= WARMUP + ROUNDS:
        raise SystemExit(f"{track.name} is too short: this takes {2 * (WARMUP + ROUNDS + 1)} steps")
    prepare(track)
    count = sum(p.numel() for p in PlainGPT(track.model, 1).parameters())
    assert count == sum(p.numel() for p in apply_recipe({}, track.model, track.optim).build().parameters())

    print("compiling a plain loop takes half a minute; all of it ten minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        arms = {"plain_compiled": [Arm(track, "plain_compiled", TORCHINDUCTOR_CACHE_DIR=folder)]}
        measure(arms)
        compile_s = time.perf_counter() - started
        rounds = take_rounds(track, {name: [Arm(track, name)] for name in ARMS if name not in arms} | arms)
    rounds_of_doubled = take_rounds(doubled, {loop.__name__: [Arm(doubled, loop.__name__)] for loop in LOOPS})

    def ratio(over: str, under: str, factor: float = 1.0, *, taken: list[dict[str, float]] = rounds) -> str:
        return told([factor * found[over] / found[under] for found in taken])

    def both(over: str, under: str, factor: float = 1.0) -> str:
        return f"{ratio(over, under, factor)} | {ratio(over, under, factor, taken=rounds_of_doubled)}"

    command = [sys.executable, __file__, track.name, "where_time_goes"]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    parts: dict[str, float] = json.loads(out.splitlines()[-1])
    share, wall_s, train_s = training_share(track)
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}"
    rate = statistics.median(found["matrix_rate"] for found in rounds) / 1e9
    tokens = statistics.median(found["ours"] for found in rounds)
    flops, needed_flops = flops_per_token(track, causal=False), flops_per_token(track, causal=True)
    lines = [
        f"# Speed of `{track.name}` on {machine}",
        "",
        f"Written by `python benchmarks/speed.py {track.name}`: {ROUNDS} rounds of a step an arm; medians, and",
        f"the quartiles of the rounds' ratios. In absolute terms: {tokens:,.0f} tokens a second a run, "
        f"{rate:.0f} GFLOP/s of matrix products, both on {track.threads} thread(s).",
        "",
        f"| training | batches of {track.budget.batch_tokens:,} tokens, as on the track | of twice as many |",
        "|---|---|---|",
        "| model FLOPs over the matrix-product rate, attention counted in full (arXiv:2204.02311) | "
        f"{both('ours', 'matrix_rate', flops)} |",
        f"| the same, attention counted below the diagonal only | {both('ours', 'matrix_rate', needed_flops)} |",
        f"| a plain loop's share, AdamW only, on as many threads | {both('plain', 'matrix_rate', flops)} |",
        "| a plain loop's share as PyTorch sets itself up, over the rate of all cores | "
        f"{both('plain_on_all_cores', 'matrix_rate_on_all_cores', flops)} |",
        f"| tokens a second over the plain loop on as many threads | {both('ours', 'plain')} |",
        f"| the same over a player in a thread of its referee | {ratio('ours', 'in_a_thread')} | |",
        "| runs side by side that fill the cores, over one plain loop as PyTorch sets itself up | "
        f"{both('side_by_side', 'plain_on_all_cores')} |",
        f"| the plain loop compiled, once that is done, over itself | {ratio('plain_compiled', 'plain')} | |",
        f"| seconds until the first step is done of a compiled loop that nobody compiled before | {compile_s:.0f} | |",
        "",
        "| lever: tokens a second with it over those without | ratio |",
        "|---|---|",
        *(f"| {name} | {ratio('in_a_thread', function.__name__)} |" for name, function in LEVERS.items()),
        "",
        "| where a step's time goes (PyTorch's profiler) | |",
        "|---|---:|",
        *(f"| {part} | {share:.0%} |" for part, share in parts.items()),
        "",
        "| the harness | |",
        "|---|---|",
        f"| share of training steps in the wall time of `run baseline` | {share:.1%} |",
        f"| that wall time | {wall_s:.0f} s; its runs trained {', '.join(f'{s:.0f}' for s in train_s)} s |",
        f"| `llmbench --help` | {seconds_of('--help'):.2f} s |",
        f"| `llmbench leaderboard` | {seconds_of('leaderboard'):.2f} s |",
    ]  # fmt: skip
    target = CHECKOUT / "benchmarks" / "speed" / "README.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
