"""The ranks of a run: one process's share of every batch, and the collectives that join them.

torchrun (harness/lab/torchrun.py) starts the ranks. Each draws the same start, takes its rows of the same batches and
steps on the mean of all gradients (DistributedDataParallel, arXiv:2006.15704). Losses, counts and decisions go over
gloo, as do the gradients on a CPU; those of GPUs go over NCCL, which has never run here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from harness.core.errors import LlmbenchError
from harness.core.runs import FailureStatus
from harness.core.track import Track

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


Answer = TypeVar("Answer")


class RunEndedError(Exception):
    """A run ends without a result. Where one rank raises it, all ranks do."""

    status: FailureStatus


@dataclass(frozen=True)
class Ranks:
    """One process's rank in its run. A method called a collective must be called by every rank, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank scores on dev, writes files and sends events for the run."""
        return self.rank == 0

    @property
    def key(self) -> tuple[int, ...]:
        """What keys this rank's random streams; empty for the first, whose streams are a single process's."""
        return () if self.is_first else (self.rank,)

    def share(self, batch_BT1: NDArray[Any]) -> NDArray[Any]:
        """This rank's rows of a batch; the rows of all ranks, in order, are the batch."""
        rows = len(batch_BT1) // self.size
        return batch_BT1[self.rank * rows : (self.rank + 1) * rows]

    def spread(self, model: nn.Module) -> nn.Module:
        """The model, wrapped so that a backward pass leaves every rank the mean gradient. A collective."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # A parameter that no process used keeps its gradient None, as without the wrapper, instead of an error.
        return DistributedDataParallel(model, find_unused_parameters=True)

    def gather(self, value: Answer) -> list[Answer]:
        """Every rank's value, in order. A collective."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def of_first(self, action: Callable[..., Answer], *arguments: Any) -> Answer:
        """What the first rank's `action` returns, or raises to end the run. A collective: the others wait for it."""
        if self.size == 1:
            return action(*arguments)
        from torch import distributed

        said: list[Any] = [None, None]
        if self.is_first:
            try:
                said[0] = action(*arguments)
            except (RunEndedError, LlmbenchError) as error:
                said[1] = error
        distributed.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise said[1]
        return cast(Answer, said[0])


ALONE = Ranks()
"""The rank of a run that one process trains."""


@contextmanager
def open_ranks(track: Track) -> Iterator[Ranks]:
    """This process's rank, from torchrun's environment; `ALONE` where the track has one process a run.

    It connects the ranks, so call it before confinement, which forbids new connections.
    """
    if track.num_processes == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if track.device == "cuda":
        torch.cuda.set_device(ranks.rank)
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    backend = "gloo" if track.device == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size)
    sys.excepthook = _first_failure(store)
    for device in {"cpu", track.device}:
        distributed.all_reduce(torch.zeros(1, device=device))  # NCCL connects where it is first needed
    yield ranks
    distributed.destroy_process_group()  # not after an error: the others may be gone


def _first_failure(store: Any) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """An excepthook that prints the traceback of the first rank that fails: the others fail because it is gone."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if store.add("failures", 1) == 1:
            sys.__excepthook__(kind, error, trace)

    return hook
