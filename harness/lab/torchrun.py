"""A training worker with several ranks: torchrun's agent starts them and ends all of them when one fails.

The first rank's events are this worker's. The ranks end with this worker.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import uuid
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from harness.core.events import WORKER_EVENT
from harness.player.job import Job
from harness.player.process import Emit, answer, emit_lines, end_with_parent

# The agent sends SIGKILL to the remaining ranks 30 s after the first failure: those were not killed from outside.
PATIENCE_S = 15


def work(job: Job, emit: Emit) -> None:
    """Start the ranks and forward the first one's events. Ends by SIGKILL where a rank was killed so."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    theirs, ours = os.pipe()
    with socket.socket() as probe:  # which port is free
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    relay = threading.Thread(target=_pass_on, args=(theirs, emit))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.load_track().num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="static",  # torchrun's default unpickles what any process writes, the confined ones among them
        rdzv_endpoint=f"localhost:{port}",
        rdzv_configs={"rank": 0},
        max_restarts=0,
        logs_specs=_streams(f"/dev/fd/{ours}"),
    )
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else on the network can knock
    logging.disable()  # the log's last word is the reason for a failure
    relay.start()
    try:
        elastic_launch(config, sys.executable)("-m", "harness.lab.torchrun", job.model_dump_json())
    except SignalException:
        pass  # all events were sent
    except ChildFailedError as error:
        first_s = min(failure.timestamp for failure in error.failures.values())
        for failure in error.failures.values():
            if failure.exitcode == -signal.SIGKILL and failure.timestamp - first_s < PATIENCE_S:
                signal.raise_signal(signal.SIGKILL)
        sys.exit(1)
    finally:
        os.write(ours, b"\n\n")
        relay.join()


def _streams(events: str) -> Any:
    """For torchrun: the first rank's stdout goes to the path `events`, the others' to nothing; all log to stderr."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

    class Streams(DefaultLogsSpecs):
        def reify(self, envs: dict[int, dict[str, str]]) -> Any:
            streams = super().reify(envs)
            streams.stdouts.update({rank: os.devnull if rank else events for rank in envs})
            return streams

    return Streams(log_dir=os.devnull)  # else it leaves folders behind


def _pass_on(events: int, emit: Emit) -> None:
    """Each event, until an empty line follows."""
    with os.fdopen(events) as lines:
        for line in iter(lines.readline, "\n"):
            with suppress(ValidationError):  # a process was killed in the middle of a word
                emit(WORKER_EVENT.validate_json(line))


def main() -> None:
    """One rank."""
    end_with_parent()
    from harness.player.train import work as train

    answer(train, Job.model_validate_json(sys.argv[1]), emit_lines())
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort a process that tidies up, with all of its work done


if __name__ == "__main__":
    main()
