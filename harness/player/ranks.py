"""The ranks of a run: several players (processes) that train one model, each on a part of the rows of every batch.

They start from the same weights and update them with the mean gradient (DistributedDataParallel, arXiv:2006.15704).
They communicate over gloo and, on GPUs, also over NCCL; NCCL is not tested. The referee sends each rank its part of the
rows.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.track import Track

if TYPE_CHECKING:
    from torch import nn

JOIN_S = 60  # for all ranks to connect


@dataclass(frozen=True)
class Ranks:
    """The rank of one player in its run, and the number of ranks of the run."""

    rank: int = 0
    size: int = 1

    @property
    def key(self) -> tuple[int, ...]:
        """Key of this rank's random streams.

        The first rank has an empty key, so that it draws like a single process.
        """
        return () if self.rank == 0 else (self.rank,)

    def spread(self, model: nn.Module) -> nn.Module:
        """The model, wrapped so that a backward pass gives every rank the mean gradient. All ranks must call this."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # With find_unused_parameters, a parameter that no process used keeps gradient None, as without the wrapper.
        return DistributedDataParallel(model, find_unused_parameters=True)


def open_store(track: Track, port: int | None) -> Any:
    """The key-value store through which ranks find each other.

    If `port` is None, it is a new store at a free port, else the store that another rank opened at `port`.
    """
    import datetime

    from torch import distributed

    return distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1",
        port or 0,
        is_master=port is None,
        wait_for_workers=False,
        timeout=datetime.timedelta(seconds=JOIN_S),
    )


def join(track: Track, ranks: Ranks, store: Any) -> None:
    """Connect this rank with the other ranks of the run, which must call this too."""
    import torch
    from torch import distributed

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # not reachable from the network
    backend = "gloo" if track.device == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size)
    for device in {"cpu", track.device}:
        distributed.all_reduce(torch.zeros(1, device=device))  # NCCL connects at its first use: now
