"""Where a run comes from: revision, packages, machine. No user and no host names."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from harness.errors import LlmbenchError
from harness.project import Project, sha256
from harness.repository import git
from harness.results import Machine, Provenance
from harness.track import Track

# What a run's numbers depend on besides the track and the variants.
CODE_FILES = (
    "models/parts.py",
    "models/gpt.py",
    "models/kernels.py",
    "models/moe.py",
    "models/optim.py",
    "harness/data.py",
    "harness/catalog.py",
    "harness/device.py",
    "harness/ranks.py",
    "harness/job.py",
    "harness/serve.py",
    "harness/devset.py",
    "harness/compiler.py",
    "harness/checkpoint.py",
    "harness/train.py",
    "harness/evaluate.py",
)
PACKAGES = ("llmbench", "numpy", "safetensors", "tokenizers", "torch")


def code_digest(project: Project) -> str:
    """SHA-256 over the files that every run goes through, so that a pair proves to share them."""
    return sha256("\n".join(sha256((project.root / file).read_bytes()) for file in CODE_FILES).encode())


def collect_provenance(project: Project, track: Track, *, jobs: int, gpu: str | None = None) -> Provenance:
    """This checkout, these packages, this machine, and how it trains a run of `track`."""
    return Provenance(
        revision=_git(project, "rev-parse", "HEAD"),
        dirty=bool(_git(project, "status", "--porcelain", "--", "models", "harness", "tracks", ":!models/variants")),
        packages={package: version(package) for package in PACKAGES},
        machine=this_machine(gpu),
        threads=track.threads,
        processes=track.processes,
        jobs=jobs,
    )


def this_machine(gpu: str | None = None) -> Machine:
    """What times and last bits depend on."""
    return Machine(
        cpu=_cpu_name(),
        cores=available_cores(),
        memory_gib=max(1, round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)),
        os=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        gpu=gpu,
    )


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(track: Track) -> int:
    """Runs of `track` that this machine trains at a time: one on a GPU, else as many as its cores hold."""
    return 1 if track.device == "cuda" else max(1, available_cores() // track.num_threads)


def _cpu_name() -> str:
    """Model name of the processor, as /proc/cpuinfo or the platform module tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" in fields:
        # Family and model tell processors apart that share a marketing name.
        numbers = [
            f"{key} {fields[field]}" for key, field in (("family", "cpu family"), ("model", "model")) if field in fields
        ]
        return " ".join([fields["model name"], *numbers])
    return platform.processor() or platform.machine()


def _git(project: Project, *arguments: str) -> str | None:
    """Output of one git command, or None outside a repository or without git."""
    try:
        return git(project.root, *arguments).decode().strip()
    except LlmbenchError:
        return None
