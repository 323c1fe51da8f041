"""What one training process is among the several of a run: its share of a batch, and what all of them agree on.

torchrun (harness/lab/torchrun.py) starts one process a GPU, or on a CPU track one for each set of the track's
threads. Each draws the same start, takes its rows of the same batches, and steps on the same gradients, the mean over
all of them (DistributedDataParallel, arXiv:2006.15704). Losses, counts and decisions go over gloo, on GPUs too, and so
do the gradients on a CPU; those of GPUs go over NCCL, which has never run here. A run of one process opens none of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from harness.core.errors import LlmbenchError
from harness.core.track import Track

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


Answer = TypeVar("Answer")


class RunEndedError(Exception):
    """A run ends without a result; where one of its processes finds that, all of them learn it."""


@dataclass(frozen=True)
class Ranks:
    """One process's place among those of a run. Every method that says so is called by all of them, in one order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for the run: it evaluates, writes and tells."""
        return self.rank == 0

    @property
    def key(self) -> tuple[int, ...]:
        """What tells this process's random streams from those of the first, which are a single process's."""
        return () if self.is_first else (self.rank,)

    def share(self, batch_BT1: NDArray[Any]) -> NDArray[Any]:
        """This process's rows of a batch: those of all processes, in order, are the batch."""
        rows = len(batch_BT1) // self.size
        return batch_BT1[self.rank * rows : (self.rank + 1) * rows]

    def spread(self, model: nn.Module) -> nn.Module:
        """The model, wrapped so that a backward pass leaves every process the mean of all gradients. Asks all."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # A parameter that no process used keeps its gradient None, as without the wrapper, instead of an error.
        return DistributedDataParallel(model, find_unused_parameters=True)

    def gather(self, value: Answer) -> list[Answer]:
        """The processes' values, by rank. Asks all."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def of_first(self, action: Callable[..., Answer], *arguments: Any) -> Answer:
        """What the first process's `action` returns, or raises to end the run. Asks all, which wait for it."""
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
        answer: Answer = said[0]
        return answer


ALONE = Ranks()
"""Of a run that one process trains."""


@contextmanager
def open_ranks(track: Track) -> Iterator[Ranks]:
    """This process's place among those of the run, as torchrun's environment tells it; alone where the track has one.

    It connects the processes, so call it before this one is confined: then no more connections can be made.
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
    """An excepthook that leaves the log's last word to the process that failed first: the others only lost it."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if store.add("failures", 1) == 1:
            sys.__excepthook__(kind, error, trace)

    return hook
