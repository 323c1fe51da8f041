"""`torch.compile` for tracks that ask for it: in a player that sees no batch, whose folder the others only read."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.errors import LlmbenchError
from harness.player.loss import RuleBrokenError


def compile_forward(model: nn.Module, folder: Path) -> None:
    """Have training compile the model's forward and backward pass; what evaluates it stays eager.

    What the compiler makes is kept in `folder`: another seed takes seconds where the first took a minute. Raises
    LlmbenchError where a model on the CPU finds no C++ compiler.
    """
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch chooses
    if next(model.parameters()).device.type == "cpu" and shutil.which(wanted) is None:
        raise LlmbenchError(
            f"compile = true needs a C++ compiler on a CPU, and there is no {wanted}; install it, or explore the track "
            f"without: `--set compile=false`"
        )
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # more would be processes that stay
    import torch._dynamo  # a second: only where it is asked for

    eager = model.forward
    compiled = torch.compile(eager, dynamic=False)

    def forward(tokens_BT: Tensor) -> Any:
        if not model.training:
            return eager(tokens_BT)
        try:
            return compiled(tokens_BT)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = " ".join(str(error).split())[:300]
            raise RuleBrokenError(
                f"compile: the model does not compile once and for all; keep what changes from step to step in "
                f"tensors, and Python out of their values ({why})"
            ) from error

    model.forward = forward


def forbid_compiling() -> None:
    """From here on what was compiled is used: a model that would be compiled again breaks the rule `compile`."""
    torch._dynamo.config.error_on_recompile = True
