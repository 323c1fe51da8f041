"""`torch.compile` for tracks with `compile = true`.

One player, which gets no batch, compiles the model; the players that train load the compiled files.
"""

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
"""File beside the compiled code: the output of each program that torch started, by command line."""
_said: dict[str, tuple[int, str]] = {}  # command -> exit code, output


def compile_forward(model: nn.Module, folder: Path, *, compiles: bool) -> None:
    """Compile the model's forward and backward pass for training; evaluation stays eager.

    If `compiles` is true, this player writes the compiled files to `folder`, and must call `keep_answers` at its end.
    If it is false, this player only reads these files, takes no file lock and starts no program. Raises LlmbenchError
    if the model is on a CPU and the machine has no C++ compiler.
    """
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch chooses
    if compiles and next(model.parameters()).device.type == "cpu" and shutil.which(wanted) is None:
        raise LlmbenchError(
            f"the track has compile = true, which on a CPU needs a C++ compiler, but {wanted} is not installed; "
            f"install it, or run without compiling: `--set compile=false`"
        )
    _answer_for_programs(folder, compiles)
    tempfile.tempdir = str(folder)
    os.environ["TMPDIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # with more, torch starts processes that stay
    os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"  # each player would make another one
    import torch._dynamo  # not at the top: it takes a second

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
                f"compile: the model would have to be compiled again during training; keep what changes between steps "
                f"in tensors, and do not branch on their values in Python ({why})"
            ) from error

    model.forward = forward


def _answer_for_programs(folder: Path, compiles: bool) -> None:
    """If `compiles`, record the output of programs that torch starts, for example the version of a compiler.

    Otherwise, answer torch with the recorded output, because this player may not start programs.
    """
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
            raise PermissionError(
                f"torch may not run the program {command} now, because it did not run it when this model was compiled"
            )
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
    """Write the recorded output of programs to `folder`, where the players that train read it."""
    fresh = folder / f"said-{os.getpid()}"
    fresh.write_text(json.dumps(_said))
    fresh.replace(folder / SAID)  # the player of another seed may be reading the file


def forbid_compiling() -> None:
    """From now on, raise an error if torch would have to compile the model again (rule `compile`)."""
    torch._dynamo.config.error_on_recompile = True
