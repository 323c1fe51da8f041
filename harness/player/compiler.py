"""`torch.compile` for tracks that ask for it: in a player that sees no batch, whose folder the others only read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.errors import LlmbenchError
from harness.core.project import read_text
from harness.player.protocol import RuleBrokenError

SAID = "said.json"
"""Name of a file beside what was compiled: what the programs said that torch asked, by their command line."""
_said: dict[str, tuple[int, str]] = {}  # exit code and output


def compile_forward(model: nn.Module, folder: Path, *, compiles: bool) -> None:
    """Have training compile the model's forward and backward pass; what evaluates it stays eager.

    A player that `compiles` fills `folder`, and calls `keep_answers` in the end; the others read it, lock nothing and
    start no program. Raises LlmbenchError where a model on the CPU finds no C++ compiler.
    """
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch chooses
    if compiles and next(model.parameters()).device.type == "cpu" and shutil.which(wanted) is None:
        raise LlmbenchError(
            f"compile = true needs a C++ compiler on a CPU, and there is no {wanted}; install it, or explore the track "
            f"without: `--set compile=false`"
        )
    _answer_for_programs(folder, compiles)
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # more would be processes that stay
    os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"  # each player would make its own
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


def _answer_for_programs(folder: Path, compiles: bool) -> None:
    """Keep what programs answer, or say it where none may be started: torch asks the compiler who it is."""
    start = subprocess.run
    if not compiles:
        _said.update(json.loads(read_text(folder / SAID)))
        from torch.utils import _filelock

        _filelock.FileLock = lambda *_, **__: nullcontext()  # type: ignore[assignment, misc]

    def run(command: Any, *, check: bool = False, **options: Any) -> Any:
        key = json.dumps(command, default=str)
        if compiles:
            done = start(command, **options)
            said = done.stdout or ""
            _said[key] = done.returncode, said if isinstance(said, str) else said.decode(errors="replace")
        elif key not in _said:
            raise PermissionError(f"{command} is no program that was asked when this model was compiled")
        else:
            code, said = _said[key]
            is_text = options.get("text") or options.get("encoding")
            done = subprocess.CompletedProcess(
                command, code, said if is_text else said.encode(), "" if is_text else b""
            )
        if check:
            done.check_returncode()
        return done

    subprocess.run = run  # type: ignore[assignment]


def keep_answers(folder: Path) -> None:
    """Leave what the programs said to the players that train."""
    fresh = folder / f"said-{os.getpid()}"
    fresh.write_text(json.dumps(_said))
    fresh.replace(folder / SAID)  # another seed's player may be reading


def forbid_compiling() -> None:
    """From here on what was compiled is used: a model that would be compiled again breaks the rule `compile`."""
    torch._dynamo.config.error_on_recompile = True
