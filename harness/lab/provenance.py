"""The provenance of a run: git revision, package versions and machine. It contains no user or host names."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil

from harness.core.errors import LlmbenchError
from harness.core.git import git
from harness.core.project import Project
from harness.core.runs import Machine, Provenance
from harness.core.track import Track

PACKAGES = ("llmbench", "numpy", "safetensors", "tokenizers", "torch")
TRACKED = ("models", "harness", "tracks", ":!models/variants")  # variants have digests of their own


def collect_provenance(project: Project, track: Track, *, jobs: int, gpu: str | None = None) -> Provenance:
    """Provenance of a run of `track` on this machine, where `jobs` runs are trained at a time."""
    revision, dirty = None, False
    with suppress(LlmbenchError):  # no git, or no repository
        dirty = bool(git(project.root, "status", "--porcelain", "--", *TRACKED).strip())
        revision = git(project.root, "rev-parse", "HEAD").decode().strip()
    return Provenance(
        revision=revision,
        dirty=dirty,
        packages={package: version(package) for package in PACKAGES},
        machine=this_machine(gpu),
        threads=track.threads,
        processes=track.processes,
        jobs=jobs,
    )


def this_machine(gpu: str | None = None) -> Machine:
    """This machine's properties on which times and the last bits of a loss depend."""
    return Machine(
        cpu=_cpu_name(),
        cores=available_cores(),
        memory_gib=max(1, round(psutil.virtual_memory().total / 2**30)),
        os=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        gpu=gpu,
    )


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(track: Track) -> int:
    """Default number of runs of `track` at a time: one on a GPU, else as many as the cores suffice for."""
    return 1 if track.device == "cuda" else max(1, available_cores() // track.num_threads)


def _cpu_name() -> str:
    """Model name of the processor, from /proc/cpuinfo or the platform module."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" in fields:
        # Processors with the same name can differ in family and model.
        numbers = {"family": fields.get("cpu family"), "model": fields.get("model")}
        return " ".join([fields["model name"], *(f"{key} {number}" for key, number in numbers.items() if number)])
    return platform.processor() or platform.machine()
