"""The player: the confined process that runs a variant's code, how it starts, and the requests that it answers.

This package imports only harness.core, harness.variants and harness.data. Code that trains a model or confines a
process belongs here, but no code that decides about a candidate.
"""

from __future__ import annotations

from harness.core.project import Project, sha256

# Files that a run's numbers depend on, besides the track and the variants.
CODE_FILES = (
    "models/parts.py",
    "models/attention.py",
    "models/gpt.py",
    "models/kernels.py",
    "models/moe.py",
    "models/muon.py",
    "models/optim.py",
    "models/seams.py",
    "harness/data/cache.py",
    "harness/data/batches.py",
    "harness/data/plan.py",
    "harness/variants/recipe.py",
    "harness/player/device.py",
    "harness/player/ranks.py",
    "harness/player/process.py",
    "harness/player/protocol.py",
    "harness/player/play.py",
    "harness/player/compiler.py",
    "harness/player/train.py",
    "harness/referee/casting.py",
    "harness/referee/session.py",
    "harness/referee/clock.py",
    "harness/referee/checkpoint.py",
    "harness/referee/train.py",
    "harness/referee/run.py",
    "harness/referee/evaluate.py",
    "harness/referee/probes.py",
)


def code_digest(project: Project) -> str:
    """SHA-256 over CODE_FILES, the code that a run's numbers depend on.

    Both runs of a pair must have the same digest.
    """
    return sha256("\n".join(sha256((project.root / file).read_bytes()) for file in CODE_FILES).encode())
