"""What one training or evaluating process is asked to do, and how it answers: JSON lines on stdout."""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.catalog import Recipe, apply_recipe, recipe_sources
from harness.confine import carve, confine, interpreter_paths
from harness.corpus import private_paths
from harness.data import MANIFEST, cache_folder, derive_seed, with_found_pins
from harness.dataspec import SplitName
from harness.device import device_files, start_device
from harness.errors import LlmbenchError
from harness.project import Project, make_folder
from harness.track import Count, Positive, Sha256, Strict, Track, load_track

if TYPE_CHECKING:
    from torch import nn


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class GiveUp(Strict):
    """Where a run may end early: it is hopeless if its dev loss at `step` exceeds `dev_loss_nats`."""

    step: Positive
    dev_loss_nats: float


class Job(Strict):
    """One run for one worker process. Passed as JSON on the command line."""

    root: str
    track: str
    training_digest: Sha256
    settings: tuple[str, ...] = ()
    """Of an exploratory track."""
    recipe: str
    sources: dict[str, Sha256]
    seed: Count
    folder: str
    """The run's own folder: checkpoint and weights."""
    checkpoint_every_s: float = 30.0
    give_up: GiveUp | None = None
    final_dev_loss: float | None = None
    """Nats per token on the dev split where training ended; the evaluator must find the same."""

    @property
    def compiled(self) -> Path:
        """What `torch.compile` makes of the recipe's model: one folder for all of its seeds."""
        return Path(self.folder).parent / "compiled"

    @property
    def weights(self) -> Path:
        """The final weights."""
        return Path(self.folder) / "weights.safetensors"

    def load_track(self) -> Track:
        """The track, proved to be the one that the job names."""
        track = with_found_pins(load_track(Project(Path(self.root)), self.track, self.settings))
        if track.training_digest != self.training_digest:
            raise LlmbenchError(f"tracks/{self.track}.toml changed while its runs were being trained; start again")
        return track

    def confine(self, track: Track, splits: tuple[SplitName, ...], *, writes: bool) -> tuple[str, ...]:
        """Confine this process to the interpreter, the sources, `splits` and the run's folder.

        Call it before any of the variant's code runs; a GPU is started first. One that writes on a track that
        compiles may start programs, until `forbid_programs`. Returns what is in force.
        """
        cache, root = cache_folder(track), Path(self.root).resolve()
        denied = [path.resolve() for path in (*private_paths(track.data), cache.parent)]
        readable = [*interpreter_paths(denied), *carve(root / "harness", denied), *carve(root / "models", denied)]
        readable += [cache / MANIFEST, *(cache / f"{split}.bin" for split in splits), self.weights]
        writable, devices = [Path(self.folder)] if writes else [], []
        if track.device == "cuda":
            start_device(track)
            writable.append(Path("/proc/self/task").resolve())  # the driver's further threads get names too
            devices = device_files()
        compiles = writes and bool(track.compile)
        if compiles:
            make_folder(self.compiled)
            writable.append(self.compiled)
        return confine(readable, writable, devices, programs=compiles)

    def load_recipe(self, track: Track) -> Recipe:
        """The recipe, its sources proved to be those that the job names. This runs the variants' code."""
        sources = recipe_sources(Project(Path(self.root)), self.recipe)
        for name, source in sources.items():
            if source.digest != self.sources[name]:
                raise LlmbenchError(f"variant '{name}' changed while its runs were being trained; start again")
        return apply_recipe(sources, track.model, track.optim)


Emit = Callable[[dict[str, Any]], None]


def fork(life: Callable[[], None]) -> int:
    """Process id of a fork of this process that does `life` and ends, with its parent at the latest.

    It ends with code 1 and a traceback on stderr where `life` raises. Call it while this process has one thread.
    """
    child = os.fork()
    if child != 0:
        return child
    code: Any = 1
    try:
        end_with_parent()
        life()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001  # nothing above may go on in the fork
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)  # torch takes its time to tidy up


def exit_code(child: int) -> int:
    """Wait for a forked process to end; its exit code, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def close_all_but(*descriptors: int) -> None:
    """Close what a fork has inherited, except for stdin, stdout, stderr and `descriptors`."""
    kept = [2, *sorted(descriptors), os.sysconf("SC_OPEN_MAX")]
    for before, after in pairwise(kept):
        os.closerange(before + 1, after)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however that comes about. Linux only.

    Elsewhere the closed pipe ends it at its next word.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def run_worker(work: Callable[[Job, Emit], None], job: Job) -> None:
    """Do the work, and turn an expected error into an event.

    The events' stream is kept apart: whatever else is printed in this process goes to stderr.
    """
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    emit({"event": "started"})  # or end here: the parent may have died while this process began
    try:
        work(job, emit)
    except LlmbenchError as error:
        emit({"event": "refused", "message": str(error)})
        sys.exit(error.exit_code)


def set_up_torch(track: Track) -> None:
    """Fix what a run's last bits depend on: threads and deterministic kernels.

    On a GPU a run repeats to the last bits only by luck: its deterministic kernels are slower, some are missing.
    """
    import torch

    torch.set_num_threads(track.threads)
    if track.device == "cpu":
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms, without importing the compiler
        leave_out_the_compiler()
    keep_freed_memory()


def leave_out_the_compiler() -> None:
    """Keep optimizers from importing torch's compiler, 1.5 s a run, only to tell it to leave them alone."""
    import torch

    for method in vars(torch.optim.Optimizer).values():
        if function := getattr(method, "__wrapped__", None):
            function.__dynamo_disable = function  # what torch._disable_dynamo looks for before it imports
    torch.optim.Adam.step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))  # type: ignore[method-assign]


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step instead of returning it to the kernel.

    Otherwise every activation of some megabytes is mapped and zeroed anew, step after step
    (`python benchmarks/speed.py` measures what that costs). No effect elsewhere.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in malloc.h
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def canonical_name(name: str) -> str:
    """A parameter's name without the wrappers around it: `embedding.inner.weight` -> `embedding.weight`."""
    return ".".join(part for part in name.split(".") if part != "inner")


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Draw every parameter from its own stream, keyed by (seed, name): nothing moves another's start.

    Each module that owns parameters draws them in `reset_parameters`, PyTorch's convention.

    Raises LlmbenchError where a module has none, or where two parameters would share a stream.
    """
    import torch

    owners: dict[str, str] = {}
    done: set[nn.Parameter] = set()  # a tied parameter is drawn by its first owner
    for prefix, module in model.named_modules():
        own = {n: p for n, p in module.named_parameters(prefix=prefix, recurse=False) if p not in done}
        done |= set(own.values())
        if own and not callable(getattr(module, "reset_parameters", None)):
            raise LlmbenchError(
                f"{type(module).__name__} owns {', '.join(own)} but has no reset_parameters(); define it, "
                f"so that the harness can draw the initial values"
            )
        drawn = {}
        for name, parameter in own.items():
            key = canonical_name(name)
            if key in owners:
                raise LlmbenchError(f"parameters {owners[key]} and {name} share the random stream {key}; rename one")
            owners[key] = name
            torch.manual_seed(derive_seed("weights", seed, key))
            module.reset_parameters()
            drawn[name] = parameter.detach().clone()
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(drawn[name])
