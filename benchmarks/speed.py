"""How fast a CPU track trains, as ratios: to a plain PyTorch loop, to the machine's matrix products, lever by lever.

    python benchmarks/speed.py pocket     # where nothing else runs; writes benchmarks/speed/README.md

Every arm trains in a process of its own. In a round each arm runs once, one right after the other, and the order turns
from round to round; a ratio is taken within a round, and the median, smallest and largest of the rounds are told.
"""

from __future__ import annotations

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

import torch
import torch.nn.functional as F
from plain import PlainGPT, train_plainly
from torch import nn
from tune import measure

import harness.devset
import harness.job
import harness.train
import models.gpt
import models.kernels
import models.optim
from harness.catalog import apply_recipe
from harness.data import Batches, open_split
from harness.devset import cross_entropy
from harness.prepare import prepare
from harness.project import CHECKOUT, Project
from harness.results import load_run
from harness.track import Track, load_track

ROUNDS = 7
STEPS = 30


def matrix_rate(track: Track) -> float:
    """Floating-point operations a second of square products on the track's threads."""
    torch.set_num_threads(track.threads)
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    torch.mm(left, right)
    repeats, started = 150, time.perf_counter()
    for _ in range(repeats):
        torch.mm(left, right)
    return 2 * 1024**3 * repeats / (time.perf_counter() - started)


def ours(track: Track) -> float:
    """Tokens a second of the training loop as it is, measured by its own clock."""
    harness.job.set_up_torch(track)
    tokens = STEPS * track.budget.batch_tokens
    budget = track.budget.model_copy(update={"tokens": tokens, "dev_evaluations": 1})
    return tokens / measure(track.model_copy(update={"budget": budget}))[1]


def plain(track: Track) -> float:
    """Tokens a second of the plain loop on the track's threads."""
    torch.set_num_threads(track.threads)
    return plain_on_all_cores(track)


def plain_on_all_cores(track: Track) -> float:
    """Tokens a second of the plain loop as PyTorch sets itself up."""
    return train_plainly(track, torch.from_numpy(open_split(track, "train").astype("int64")), STEPS)


def plain_compiled(track: Track) -> float:
    """Tokens a second of the plain loop compiled, once that is done; the first round fills the compiler's cache."""
    torch.set_num_threads(track.threads)
    train_N = torch.from_numpy(open_split(track, "train").astype("int64"))
    return train_plainly(track, train_N, STEPS, compiled=True)


def without_kept_memory(track: Track) -> float:
    harness.job.keep_freed_memory = lambda: None
    return ours(track)


def without_attention(track: Track) -> float:
    models.kernels.MAX_KEPT_POSITIONS = 0
    return ours(track)


def without_norm(track: Track) -> float:
    models.kernels.RMSNorm.forward = nn.RMSNorm.forward  # type: ignore[method-assign]
    return ours(track)


def without_squared_relu(track: Track) -> float:
    models.gpt.squared_relu = lambda x: F.relu(x).square()
    return ours(track)


def without_cross_entropy(track: Track) -> float:
    harness.train.cross_entropy = lambda logits, targets: F.cross_entropy(  # type: ignore[attr-defined]
        logits.flatten(0, -2), targets.flatten()
    )
    return ours(track)


def without_gram(track: Track) -> float:
    models.optim.LONG = 10**9
    return ours(track)


def with_bf16(track: Track) -> float:
    orthogonalize = models.optim.orthogonalize

    def in_bf16(matrices: torch.Tensor) -> torch.Tensor:
        torch.Tensor.float, kept = torch.Tensor.bfloat16, torch.Tensor.float  # type: ignore[method-assign]
        try:
            return orthogonalize(matrices)
        finally:
            torch.Tensor.float = kept  # type: ignore[method-assign]

    models.optim.orthogonalize = in_bf16
    return ours(track)


LEVERS: dict[str, Callable[[Track], float]] = {
    "freed memory is kept (`keep_freed_memory`)": without_kept_memory,
    "cross-entropy in fewer passes (`harness/devset.py`)": without_cross_entropy,
    "attention in blocks, its weights kept (`models/kernels.py`)": without_attention,
    "RMSNorm in one node (`models/kernels.py`)": without_norm,
    "squared ReLU in one node (`models/kernels.py`)": without_squared_relu,
    "Muon on the Gram matrix (`models/optim.py`)": without_gram,
    "Muon in float32, not in bfloat16 (`models/optim.py`)": with_bf16,
}
ARMS: dict[str, Callable[[Track], float]] = {
    function.__name__: function
    for function in (matrix_rate, ours, plain, plain_on_all_cores, plain_compiled, *LEVERS.values())
}


def where_time_goes(track: Track) -> dict[str, float]:
    """Part of a training step -> its share of the processor's time, by PyTorch's profiler."""
    harness.job.set_up_torch(track)
    recipe, budget = apply_recipe({}, track.model, track.optim), track.budget
    model = recipe.build()
    harness.job.draw_parameters(model, 0)
    optimizers = harness.train.build_optimizers(recipe, model)
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
        steps(range(3, 3 + STEPS // 3))
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


def start(track: Track, arm: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, track.name, arm]
    return subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> float:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"an arm ended with code {process.returncode}")
    return float(out.split()[-1])


def side_by_side(track: Track) -> float:
    """Tokens a second of as many runs at once as fill the cores."""
    count = max(1, (os.cpu_count() or 1) // track.threads)
    return sum(answer(process) for process in [start(track, "ours") for _ in range(count)])


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
    """`run baseline --pairs 2` on a copy without runs: (share of training, its wall seconds, training seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "llmbench"
        for part in ("harness", "models", "tracks"):
            shutil.copytree(CHECKOUT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        started = time.perf_counter()
        command = [sys.executable, "-m", "harness.cli", "run", "baseline", "--track", track.name, "--pairs", "2"]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        wall_s = time.perf_counter() - started
        train_s = [load_run(path).training.train_s for path in root.glob("runs/**/run.json")]  # type: ignore[union-attr]
    cores = min(len(train_s), (os.cpu_count() or 1) // track.threads)
    return sum(train_s) / cores / wall_s, wall_s, train_s


def seconds_of(*arguments: str) -> float:
    """Median wall seconds of a command."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "harness.cli", *arguments], cwd=CHECKOUT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def told(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    track = load_track(Project(CHECKOUT), sys.argv[1])
    if sys.argv[2:] == ["where_time_goes"]:
        print(json.dumps(where_time_goes(track)))
        return
    if len(sys.argv) > 2:
        print(ARMS[sys.argv[2]](track))
        return
    if track.device != "cpu":
        raise SystemExit(f"{track.name} is not a CPU track; on a GPU run benchmarks/gpu.py")
    prepare(track)
    count = sum(p.numel() for p in PlainGPT(track.model, 1).parameters())
    assert count == sum(p.numel() for p in apply_recipe({}, track.model, track.optim).build().parameters())

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        answer(start(track, "plain_compiled", TORCHINDUCTOR_CACHE_DIR=folder))
        compile_s = time.perf_counter() - started
    rounds: list[dict[str, float]] = []
    for number in range(ROUNDS):
        arms = [*ARMS, "side_by_side"]
        arms = arms[number % len(arms) :] + arms[: number % len(arms)]
        rounds.append(
            {arm: side_by_side(track) if arm == "side_by_side" else answer(start(track, arm)) for arm in arms}
        )
        print(f"round {number + 1} of {ROUNDS}: {json.dumps({k: round(v) for k, v in rounds[-1].items()})}", flush=True)

    def ratio(over: str, under: str, factor: float = 1.0) -> str:
        return told([factor * found[over] / found[under] for found in rounds])

    process = start(track, "where_time_goes")
    parts: dict[str, float] = json.loads(process.communicate()[0].splitlines()[-1])
    share, wall_s, train_s = training_share(track)
    machine = f"{os.cpu_count()} cores, torch {torch.__version__}"
    rate = statistics.median(found["matrix_rate"] for found in rounds) / 1e9
    tokens = statistics.median(found["ours"] for found in rounds)
    lines = [
        f"# Speed of `{track.name}` on {machine}",
        "",
        f"Written by `python benchmarks/speed.py {track.name}`: {ROUNDS} rounds of {STEPS} steps an arm; medians, and",
        f"the smallest and largest of the rounds' ratios. In absolute terms: {tokens:,.0f} tokens a second a run, "
        f"{rate:.0f} GFLOP/s of matrix products, both on {track.threads} thread(s).",
        "",
        "| training | ratio |",
        "|---|---|",
        "| model FLOPs over the matrix-product rate, attention counted in full (arXiv:2204.02311) | "
        f"{ratio('ours', 'matrix_rate', flops_per_token(track, causal=False))} |",
        "| the same, attention counted below the diagonal only | "
        f"{ratio('ours', 'matrix_rate', flops_per_token(track, causal=True))} |",
        "| the plain loop's share, counted in full | "
        f"{ratio('plain', 'matrix_rate', flops_per_token(track, causal=False))} |",
        f"| tokens a second over a plain loop on as many threads (AdamW only) | {ratio('ours', 'plain')} |",
        f"| a plain loop compiled, once that is done, over the same loop | {ratio('plain_compiled', 'plain')} |",
        f"| seconds until {STEPS} steps of the compiled loop are done that nobody compiled before | {compile_s:.0f} |",
        "| runs side by side that fill the cores, over one plain loop as PyTorch sets itself up | "
        f"{ratio('side_by_side', 'plain_on_all_cores')} |",
        "",
        "| lever: tokens a second with it over those without | ratio |",
        "|---|---|",
        *(f"| {name} | {ratio('ours', function.__name__)} |" for name, function in LEVERS.items()),
        "",
        "| where a step's time goes (PyTorch's profiler) | |",
        "|---|---:|",
        *(f"| {part} | {share:.0%} |" for part, share in parts.items()),
        "",
        "| the harness | |",
        "|---|---|",
        f"| share of training steps in the wall time of `run baseline --pairs 2` | {share:.1%} |",
        f"| that wall time | {wall_s:.0f} s, of it training {', '.join(f'{s:.0f}' for s in train_s)} s side by side |",
        f"| `llmbench --help` | {seconds_of('--help'):.2f} s |",
        f"| `llmbench leaderboard` | {seconds_of('leaderboard'):.2f} s |",
    ]  # fmt: skip
    target = CHECKOUT / "benchmarks" / "speed" / "README.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
