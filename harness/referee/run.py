"""Makes one run, from its first batch to its val loss."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Literal

from pydantic import ValidationError

from harness.core.dataspec import SPLITS
from harness.core.errors import LlmbenchError
from harness.core.events import Evaluating, RunEvent
from harness.core.project import read_bytes, sha256
from harness.core.runs import FailedRun, FinishedRun, RunFailedError, RunIdentity, Training
from harness.data.cache import open_split
from harness.player.device import keep_freed_memory
from harness.player.protocol import Built
from harness.referee.casting import Casting
from harness.referee.evaluate import evaluate
from harness.referee.probes import probe_seed
from harness.referee.session import ProbeFailedError, Session
from harness.referee.train import start_ranks, train
from harness.referee.weights import deserialize, in_order


def make_run(casting: Casting, run: RunIdentity, watch: Callable[[RunEvent], None]) -> FinishedRun | FailedRun:
    """Train and evaluate `run`, and write its weights to the job's folder.

    Raises LlmbenchError if the run cannot start, and InterruptedRunError if it has to stop.
    """
    track, job = casting.track, casting.job
    keep_freed_memory()  # logits take hundreds of megabytes each time
    tokens = {split: open_split(track, split) for split in SPLITS}
    try:
        training = _find_training(casting) or train(casting, tokens, watch)
        watch(Evaluating())
        seed = probe_seed(read_bytes(job.weights), tokens["val"])
        with closing(sessions(casting)) as own:
            evaluation = evaluate(track, tokens["val"], tokens["dev"], training.curve[-1].dev_loss_nats, own, seed)
    except RunFailedError as error:
        return FailedRun(**dict(run), status=error.status, reason=str(error))
    except ProbeFailedError as error:
        return FailedRun(**dict(run), status="invalid", reason=str(error))
    return FinishedRun(**dict(run), training=training, evaluation=evaluation)


Weights = Literal["fresh", "trained"]


def sessions(
    casting: Casting, kinds: Sequence[Weights] = ("fresh", "fresh", "trained", "trained")
) -> Generator[Session]:
    """Players that evaluate the run's model, one after the other, with fresh (untrained) or with trained weights.

    When the next player is taken, the one before it is ended, so that nothing which its model stored remains.
    """
    weights = deserialize(read_bytes(casting.job.weights))
    for place, kind in enumerate(kinds, 1):
        fresh = kind == "fresh"
        assignment = casting.assignment(start="noisy" if fresh else "empty", **({"seed": 0} if fresh else {}))
        with casting.start(f"evaluate-{place}", assignment) as session:  # a shared log could carry messages
            if not fresh:
                session.load(in_order(session.tensors, weights))
            yield session


def _find_training(casting: Casting) -> Training | None:
    """The results of a training whose evaluation was interrupted; None if there are none."""
    job = casting.job
    if not job.trained.exists():
        return None
    with suppress(ValidationError, LlmbenchError):
        training = Training.model_validate_json(read_bytes(job.trained))
        if sha256(read_bytes(job.weights)) == training.weights_sha256:
            return training
    return None


def rehearse(casting: Casting) -> Built:
    """Start the run's players up to their first step and end them, which takes seconds. Returns what they built.

    Raises RunFailedError or LlmbenchError if training would fail.
    """
    with ExitStack() as stack:
        return start_ranks(casting, stack)[0].built
