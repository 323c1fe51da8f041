"""Finds out which tracks can be trained on this machine, and estimates how long a run takes."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from typing import NamedTuple

from pydantic import TypeAdapter

from harness.board.flags import multiplied_params
from harness.core.errors import LlmbenchError
from harness.core.project import CHECKOUT, Project, write_atomic
from harness.core.runs import FinishedRun, Machine, dump_json, load_run, read_record
from harness.core.schema import Count, Positive, Strict
from harness.core.track import Track, load_track, track_names
from harness.data.cache import read_manifest
from harness.lab.executor import LocalExecutor, alike_gpus
from harness.lab.provenance import available_cores, this_machine
from harness.lab.store import RUN_FILE
from harness.player.bubble import NAME, bubble_works
from harness.rule.forecast import TimeSource, look_costs
from harness.rule.verdict import Stage
from harness.variants.recipe import apply_recipe

# Operations per second of a training run, divided by operations per second of products of square matrices. The quotient
# was 0.6 on two idle cores (benchmarks/speed), and 0.3 to 0.6 in the stored runs of `pocket`, some on shared cores.
UTILISATION = 0.5

# Seconds until torch is loaded and the first step runs (measured on `smoke`).
START_S = 3.0

# Passes over val: one for the score, two for probes, which change tokens, neighbouring rows or the order of rows.
VAL_PASSES = 3

# Seconds until a trained model is loaded and scoring begins (measured on `smoke` and `pocket`).
SCORING_START_S = 1.0

MEASURED_S = 0.3  # seconds of matrix products on each device
RATES_FILE = "matrix-rates.json"


class TrackOutlook(Strict):
    """Whether a track can be trained on this machine, and about how long a run takes."""

    track: str
    runnable: bool
    hindrances: tuple[str, ...]
    """Reasons why the track does not train here; empty if it does."""
    remarks: tuple[str, ...]
    """Sentences to read before training, for example that the text is downloaded first."""
    num_params: Positive
    """Number of parameters of the base."""
    train_flops: float
    """Floating-point operations of one training run: 6 for each token and each parameter of a matrix product
    (arXiv:2001.08361), plus attention."""
    memory_gib: float
    """Least memory of one run, in GiB, in float32: weights, a copy of them for evaluation, gradients, optimizer state
    and logits."""
    jobs: Positive
    """Number of runs that train at the same time."""
    run_s: float | None
    """Seconds of one run; None if it cannot be estimated here."""
    screen_first_s: float | None
    """Seconds until the screen can first decide, if the record's runs are kept already; None without a screen."""
    screen_last_s: float | None
    """Seconds until the screen ends, if it needs all its runs."""
    first_look_s: float | None
    """Seconds from the end of the screen until the confirmation can first decide."""
    last_look_s: float | None
    """Seconds from the end of the screen until the confirmation ends, if it needs all its pairs."""
    source: TimeSource | None
    """From what these times are estimated; None if they are not known."""


class Diagnosis(Strict):
    """This machine, and which tracks it can train."""

    python: str
    packages: dict[str, str]
    cpu: str
    cores: Positive
    memory_gib: Positive
    gpu: str | None
    """Name of the first CUDA GPU; None without one."""
    gpu_memory_gib: float | None
    bf16: bool
    """Whether that GPU has bfloat16 in hardware."""
    disk_free_gib: float
    """Free space on the checkout's disk, in GiB."""
    confinement: tuple[str, ...]
    """Mechanisms that can deny a variant access to files, network and processes; empty if there are none."""
    cpu_flops_per_s: float
    """Operations per second in float32 products of 512 x 512 matrices on one thread. Measured once, kept in runs/."""
    gpu_flops_per_s: float | None
    """Operations per second in products of 4096 x 4096 matrices in the precision of training; None without a GPU."""
    kept_runs: Count
    """Number of kept runs, from which times are estimated."""
    tracks: tuple[TrackOutlook, ...]


def diagnose(project: Project, tell: Callable[[str], None] = lambda doing: None) -> Diagnosis:
    """Examine the machine. Takes seconds, mostly to load torch. Calls `tell` with a text before each long step."""
    tell("loading torch")
    import torch

    machine, has_gpu = this_machine(), torch.cuda.is_available()
    tell("measuring the speed of matrix products")
    rates = matrix_rates(project)
    gpu_gib = torch.cuda.get_device_properties(0).total_memory / 2**30 if has_gpu else None
    tell("trying to confine a process")
    confinement = available_confinement()
    outlooks = []
    for name in track_names(project):
        tell(f"estimating the times of {name}")
        outlooks.append(_outlook(project, load_track(project, name), rates, machine.memory_gib, gpu_gib))
    return Diagnosis(
        **machine.model_dump(include={"python", "cpu", "cores", "memory_gib"}),
        packages={package: version(package) for package in ("llmbench", "torch")},
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        gpu_memory_gib=gpu_gib,
        bf16=has_gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        disk_free_gib=shutil.disk_usage(project.root).free / 2**30,
        confinement=confinement,
        cpu_flops_per_s=rates["cpu"],
        gpu_flops_per_s=rates.get("cuda"),
        kept_runs=len(list(project.runs.glob(f"*/*/*/seed-*/{RUN_FILE}"))),
        tracks=tuple(outlooks),
    )


def available_confinement() -> tuple[str, ...]:
    """Names of the mechanisms that can confine a variant's process on this machine.

    A separate process tries them, because a process cannot undo them.
    """
    code = "from harness.player.confine import confine; print(*confine([], []))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return (*((NAME,) if bubble_works() else ()), *done.stdout.split())


class MatrixRates(Strict):
    """Speeds of matrix products.

    They are measured once and kept in `runs/`, so that estimates of time do not change.
    """

    machine: Machine
    torch: str
    flops_per_s: dict[str, float]
    """Device -> floating-point operations per second in products of square matrices."""


def matrix_rates(project: Project) -> dict[str, float]:
    """Device -> operations per second in products of square matrices.

    The CPU's rate is for one thread and float32, a GPU's for the precision of training. Uses the rates kept for this
    machine and torch version. If no rates are kept, they are measured, and kept if the folder can be written.
    """
    import torch

    machine = this_machine(torch.cuda.get_device_name() if torch.cuda.is_available() else None)
    path, packages = project.runs / RATES_FILE, version("torch")
    with suppress(LlmbenchError):  # the file is missing or not valid: measure again
        kept = read_record(path, TypeAdapter(MatrixRates))
        if (kept.machine, kept.torch) == (machine, packages):
            return kept.flops_per_s
    rates = measure_rates()
    with suppress(LlmbenchError):  # the estimate works without a folder to keep it in
        write_atomic(path, dump_json(MatrixRates(machine=machine, torch=packages, flops_per_s=rates)))
    return rates


def measure_rates() -> dict[str, float]:
    """Measure the rates that `matrix_rates` returns: the fastest of many tries, because other load only slows a try."""
    import torch
    from torch.utils.benchmark import Timer  # uses one thread, and waits for the GPU

    shapes = {"cpu": (512, torch.float32)}
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        shapes["cuda"] = (4096, torch.bfloat16 if bf16 else torch.float32)
    rates = {}
    for device, (width, dtype) in shapes.items():
        timer = Timer("one @ one", globals={"one": torch.ones(width, width, device=device, dtype=dtype)})
        until, times = time.monotonic() + MEASURED_S, [timer.timeit(1).median]
        while time.monotonic() < until:
            times.append(timer.timeit(1).median)
        rates[device] = 2 * width**3 / min(times)
    return rates


class Work(NamedTuple):
    """The computation and the memory that a run of a track's base recipe needs; the memory is that of one process."""

    num_params: int
    train_flops: float
    eval_flops: float
    memory_gib: float


def track_work(track: Track) -> Work:
    """Computation and memory of a run of the base. The model is built on torch's meta device, which needs no memory."""
    import torch

    model, budget = track.model, track.budget
    with torch.device("meta"):
        num_params = sum(p.numel() for p in apply_recipe({}, model, track.optim).build().parameters())
    attention = (
        2 * model.num_layers * budget.seq_len * model.dim
    )  # attention scores and weighted sums of values; with a causal mask, half of both is needed
    forward = 2 * multiplied_params(model, num_params) + attention  # operations per token
    scored: float = 0
    if track.data.pinned:  # otherwise the sizes of the splits are not known yet
        dev, val = track.data.pin("dev"), track.data.pin("val")
        scored = dev.tokens * budget.dev_evaluations + val.tokens * VAL_PASSES
    # The logits, their gradient, and the softmax between them.
    logits = 3 * budget.batch_tokens // track.num_processes * model.vocab_size
    return Work(num_params, 3.0 * forward * budget.tokens, forward * scored, 4 * (5 * num_params + logits) / 2**30)


def run_seconds(
    project: Project, track: Track, jobs: int, rates: Mapping[str, float] | None = None
) -> tuple[float | None, TimeSource | None]:
    """Estimated seconds of one whole run on this machine, and what the estimate was computed from.

    It is computed from kept runs of the track or, if there are none, from `rates` (default: this machine's rates of
    matrix products). Returns (None, None) if the machine lacks the track's device.
    """
    kept_s = kept_run_seconds(project, track, jobs)
    if kept_s is not None:
        return kept_s, "kept runs"
    rates = rates or matrix_rates(project)
    if track.device not in rates:
        return None, None
    rate = rates[track.device] * (track.threads if track.device == "cpu" else 1)
    work = track_work(track)
    return START_S + (work.train_flops / track.num_processes + work.eval_flops) / (UTILISATION * rate), "matrix rate"


def kept_run_seconds(project: Project, track: Track, jobs: int) -> float | None:
    """Median seconds of the track's finished runs on this kind of processor; None if no such run is kept.

    If some of these runs were trained `jobs` at a time, only those are used.
    """
    kept, here = defaultdict[int, list[float]](list), (track.training_digest, this_machine().cpu)
    for path in project.runs.glob(f"{track.name}/*/*/seed-*/{RUN_FILE}"):
        with suppress(LlmbenchError):  # a file that is not valid is reported by the command that needs its numbers
            run = load_run(path)
            if isinstance(run, FinishedRun) and (run.training_digest, run.provenance.machine.cpu) == here:
                kept[run.provenance.jobs].append(whole_seconds(run))
    return statistics.median(kept.get(jobs) or chain(*kept.values())) if kept else None


def whole_seconds(run: FinishedRun) -> float:
    """Seconds of a run from its start until its score was known.

    Only one of the passes over val was timed; the other passes are assumed to take as long.
    """
    return run.training.wall_s + SCORING_START_S + VAL_PASSES * run.evaluation.eval_s


def _outlook(
    project: Project, track: Track, rates: Mapping[str, float], memory_gib: float, gpu_memory_gib: float | None
) -> TrackOutlook:
    work, jobs = track_work(track), LocalExecutor.room(track)
    hindrances = tuple(_hindrances(track, work, memory_gib, gpu_memory_gib))
    run_s, source = run_seconds(project, track, jobs, rates)

    def ends(stage: Stage) -> tuple[float | None, float | None]:
        costs = look_costs(track.rule, stage, jobs)
        return (None, None) if run_s is None or not costs else (costs[0].slots * run_s, costs[-1].slots * run_s)

    screen, confirmation = ends("screen"), ends("confirmation")
    return TrackOutlook(
        track=track.name,
        runnable=not hindrances,
        hindrances=hindrances,
        remarks=tuple(_remarks(track)),
        num_params=work.num_params,
        train_flops=work.train_flops,
        memory_gib=work.memory_gib,
        jobs=jobs,
        run_s=run_s,
        screen_first_s=screen[0],
        screen_last_s=screen[1],
        first_look_s=confirmation[0],
        last_look_s=confirmation[1],
        source=source,
    )


def _hindrances(track: Track, work: Work, memory_gib: float, gpu_memory_gib: float | None) -> list[str]:
    """Reasons why the track cannot train here."""
    held = memory_gib / track.num_processes
    if track.device == "cuda":
        if gpu_memory_gib is None:
            return ["needs a CUDA GPU"]
        if (num_gpus := len(alike_gpus())) < track.num_processes:
            return [f"needs {track.num_processes} GPUs of one kind, found {num_gpus}"]
        held = gpu_memory_gib
    return [f"needs {work.memory_gib:.0f} GiB of memory or more, found {held:.0f}"] if work.memory_gib > held else []


def _remarks(track: Track) -> list[str]:
    """Sentences that the user should read before the track trains."""
    remarks = ["downloads its text first"] if track.data.source == "hub" and read_manifest(track) is None else []
    if track.num_threads > available_cores():
        remarks.append(f"a run has {track.num_threads} threads, which share {available_cores()} core(s)")
    return (
        remarks
        if track.data.pinned
        else [*remarks, "tokens not pinned (run `llmbench data pin`), so nothing can be submitted"]
    )
