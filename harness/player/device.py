"""The device of a run, and the precision of matrix products on it.

A CPU computes in float32. A CUDA device trains with bfloat16 products if its hardware supports bfloat16 (autocast:
weights, gradients and optimizer stay float32), else in float32, for example on a T4. Evaluation computes in float32 on
all devices, so that val losses from two devices differ only because training differs.
"""

from __future__ import annotations

import inspect
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import LlmbenchError
from harness.core.track import Track

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.track import Track


def set_up_torch(track: Track) -> None:
    """Fix the number of threads and, on a CPU, use deterministic kernels, so that a run repeats bit for bit.

    On a GPU, two runs with the same seed may differ by rounding. Deterministic kernels are slower there, and some
    operations have none.
    """
    import torch

    torch.set_num_threads(track.threads)
    if track.device == "cpu":
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms, without importing the compiler
        leave_out_the_compiler()
    keep_freed_memory()


def leave_out_the_compiler() -> None:
    """Keep optimizers from importing torch's compiler, which takes 1.5 s in each run.

    They import it only to declare that they are not to be compiled.
    """
    import torch

    for method in vars(torch.optim.Optimizer).values():
        if function := getattr(method, "__wrapped__", None):
            function.__dynamo_disable = function  # what torch._disable_dynamo looks for before it imports
    torch.optim.Adam.step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))  # type: ignore[method-assign]


def keep_freed_memory() -> None:
    """Make glibc keep freed memory and use it again; else each step maps and zeroes memory for each large activation.

    `python benchmarks/speed.py` measures how much time this saves.
    """
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # only in glibc
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in malloc.h
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


@dataclass(frozen=True)
class Device:
    """An opened device."""

    name: str
    """As torch calls it: `cpu` or `cuda`."""
    bf16: bool = False
    """Whether training multiplies in bfloat16."""
    steps_between_waits: int = 1
    """Number of training steps between two synchronisations, at which time and losses are read."""

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which matrix products have this device's training precision."""
        import torch

        return torch.autocast(self.name, dtype=torch.bfloat16, enabled=self.bf16)

    def wait(self) -> None:
        """Wait until the device is idle. Call it before reading a clock."""
        import torch

        if self.name == "cuda":
            torch.cuda.synchronize()

    def peak_memory_mib(self) -> int | None:
        """Most memory used so far, in MiB: by torch on a GPU, else by this process (resident); None on Windows."""
        if self.name == "cuda":
            import torch

            return max(1, torch.cuda.max_memory_allocated() >> 20)
        try:
            status = Path("/proc/self/status").read_text()  # Linux: getrusage would count the parent's peak too
            return int(status.partition("VmHWM:")[2].split()[0]) >> 10
        except (OSError, IndexError, ValueError):
            if sys.platform == "win32":
                return None
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return max(1, peak >> (20 if sys.platform == "darwin" else 10))

    def tensor(self, batch: Any) -> Tensor:
        """A numpy batch on this device; the copy to a GPU is asynchronous."""
        import torch

        tensor = torch.from_numpy(batch)
        return tensor.pin_memory().to(self.name, non_blocking=True) if self.name == "cuda" else tensor


def require_device(track: Track) -> None:
    """Raises LlmbenchError if the track needs more CUDA devices than torch can use on this machine."""
    if track.device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        why = ""
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (AssertionError, RuntimeError) as error:
            why = f" ({str(error).splitlines()[0]})"
        raise LlmbenchError(
            f"the track {track.name} needs a CUDA GPU, and torch {torch.__version__} finds none here{why}; run it "
            "on a machine with a GPU, or try it with `--set device=cpu` (and a small model: `--set model.num_layers=2`)"
        )
    if torch.cuda.device_count() < track.num_processes:
        raise LlmbenchError(
            f"a run of {track.name} needs {track.num_processes} GPUs, one for each process, but torch finds "
            f"{torch.cuda.device_count()} here; use a machine with more GPUs, or try it with `--set processes=1`"
        )


def open_device(track: Track) -> Device:
    """The track's device on this machine. Raises LlmbenchError if the machine has no such device."""
    require_device(track)
    if track.device == "cpu":
        return Device("cpu")
    import torch

    return Device("cuda", bf16=torch.cuda.is_bf16_supported(including_emulation=False), steps_between_waits=10)


def start_device(track: Track, rank: int = 0) -> None:
    """Initialise the GPU of this rank (process of a run) and make it the default `cuda` device.

    Does nothing on a CPU.
    """
    require_device(track)
    if track.device == "cuda":
        import torch

        torch.cuda.set_device(rank)
        torch.zeros(1, device="cuda")
        torch.cuda.synchronize()


def gpu_name(track: Track) -> str | None:
    """Name of the GPU and precision of training on it, as text that is stored with each run; None on a CPU track."""
    device = open_device(track)
    if device.name == "cpu":
        return None
    import torch

    precision = "bfloat16" if device.bf16 else "float32 (it has no bfloat16)"
    return f"{torch.cuda.get_device_name()}, {precision}"


def device_files() -> list[Path]:
    """The files through which a confined process uses NVIDIA's driver; in WSL this is /dev/dxg."""
    nodes = [*Path("/dev").glob("nvidia*"), *Path("/proc/driver").glob("nvidia*")]
    return [path for path in (*nodes, Path("/dev/dxg"), Path("/proc/devices")) if path.exists()]
