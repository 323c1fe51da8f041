"""The model behind a pipe: tokens in, logits out. This process runs the variant's code; the scorer never does.

Each session is a process of its own, started before the scorer knows val: what a model remembers ends with it. Both
ends of the pipe are in this file. Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import multiprocessing
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal

from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed
from harness.core.schema import Strict
from harness.core.track import Track
from harness.player.device import open_device, set_up_torch
from harness.player.job import Job
from harness.player.process import close_all_but, end_with_parent, start_method
from harness.variants.recipe import draw_parameters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from harness.variants.recipe import Recipe

Weights = Literal["fresh", "trained"]
"""`trained`: the run's final weights; `fresh`: random ones, where a leak cannot hide behind a learned zero."""

_SHAPE = struct.Struct("<2q")  # B and T before the tokens of a request
_LONGEST_HEAD = 1 << 16  # bytes of what goes before logits
_PIPE_BYTES = 1 << 20


class ProbeFailedError(Exception):
    """The model breaks a rule that its score depends on; the message starts with the rule's name."""


class Answer(Strict):
    """What goes before the logits, which follow as float32."""

    shape: tuple[int, ...]
    confinement: tuple[str, ...]
    """What keeps the model's process from the rest of the machine."""
    refusal: str | None = None
    """Why the recipe cannot be built; then no logits follow."""


class Session:
    """The scorer's end of one session."""

    def __init__(
        self, requests: Connection, answers: Connection, vocab_size: int, wait: Callable[[], int] = lambda: 0
    ) -> None:
        """`wait` waits for the model's end; its exit code, negative for a signal."""
        self._requests, self._answers, self.vocab_size, self._wait = requests, answers, vocab_size, wait
        self.confinement: tuple[str, ...] | None = None
        """Known after the first answer."""

    def ask(self, tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """The model's logits_BTV for tokens_BT.

        Raises ProbeFailedError where they are no finite distribution, LlmbenchError where the recipe cannot be built.
        A session that was killed from outside takes this process along, by the same signal.
        """
        import numpy as np

        with suppress(BrokenPipeError):  # then the answer says why
            self._requests.send_bytes(_SHAPE.pack(*tokens_BT.shape) + tokens_BT.astype("<i8").tobytes())
        answer = Answer.model_validate_json(self._read(_LONGEST_HEAD))
        self.confinement = answer.confinement
        if answer.refusal is not None:
            raise LlmbenchError(answer.refusal)
        expected = (*tokens_BT.shape, self.vocab_size)
        if answer.shape != expected:
            raise ProbeFailedError(f"shape: logits are {answer.shape}, not {expected}")
        logits_BTV = np.frombuffer(self._read(4 * int(np.prod(expected))), dtype="<f4").reshape(expected)
        if not np.isfinite(logits_BTV).all():
            raise ProbeFailedError("finiteness: a logit is not a finite number")
        return logits_BTV

    def _read(self, most: int) -> bytes:
        """The next message, of at most so many bytes."""
        try:
            return self._answers.recv_bytes(most)
        except (EOFError, OSError) as error:
            if (code := self.close()) < 0:
                signal.raise_signal(-code)
            raise ProbeFailedError(
                "answer: the model failed in evaluation, its traceback is in evaluate.log"
            ) from error

    def close(self) -> int:
        """End the session; its exit code, negative for a signal."""
        self._requests.close()
        self._answers.close()
        return self._wait()


def _start_method() -> Literal["fork", "spawn"]:
    """A fork of the scorer is there at once, and has its memory: of before it knows val."""
    return "fork" if start_method() == "forkserver" else "spawn"


def start_session(job: Job, track: Track, weights: Weights) -> Session:
    """A session in a process of its own."""
    context: Any = multiprocessing.get_context(_start_method())
    (requested, requests), (answers, answered) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    with suppress(ImportError, AttributeError, OSError):  # fewer turns for large answers, where the system allows it
        import fcntl

        fcntl.fcntl(answers.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    process = context.Process(target=_live, args=(job, track, weights, requested, answered))
    with requested, answered:
        process.start()

    def wait() -> int:
        process.join()
        return process.exitcode or 0

    return Session(requests, answers, track.model.vocab_size, wait)


def _live(job: Job, track: Track, weights: Weights, requests: Connection, answers: Connection) -> None:
    """A session's process."""
    end_with_parent()
    if _start_method() == "fork":
        close_all_but(requests.fileno(), answers.fileno())
    set_up_torch(track)
    with suppress(EOFError):  # the scorer has asked all
        serve(job, track, weights, requests, answers)


@contextmanager
def model_sessions(job: Job, track: Track, order: Sequence[Weights]) -> Iterator[Iterator[Session]]:
    """Sessions of the job's model, one after the other; asking for the next one ends the one before.

    Call it before this process knows what a model must not, and while it has one thread.
    """
    with ExitStack() as stack:

        def start(weights: Weights) -> Session:
            session = start_session(job, track, weights)
            stack.callback(session.close)
            return session

        started = map(start, order)  # a fresh interpreter is started when its session begins
        yield _one_by_one(iter(list(started)) if _start_method() == "fork" else started)


def _one_by_one(sessions: Iterator[Session]) -> Iterator[Session]:
    for session in sessions:
        yield session
        session.close()


def serve(job: Job, track: Track, weights: Weights, requests: Connection, answers: Connection) -> None:
    """The model's end of a session: nothing is built before the first request. Raises EOFError after the last."""
    import numpy as np
    import torch

    request = requests.recv_bytes()
    confinement = job.confine(track, (), writes=False)
    try:
        device = open_device(track)
        model = _load_model(job, job.load_recipe(track), weights).to(device.name)
    except LlmbenchError as error:
        refusal = Answer(shape=(), confinement=confinement, refusal=str(error))
        answers.send_bytes(refusal.model_dump_json().encode())
        return
    while True:
        tokens_BT = np.frombuffer(request, dtype="<i8", offset=_SHAPE.size).reshape(_SHAPE.unpack_from(request))
        torch.manual_seed(derive_seed("evaluation"))
        with torch.no_grad():
            logits_BTV = model(device.tensor(tokens_BT.copy()))[0].float().contiguous().cpu()
        head = Answer(shape=tuple(logits_BTV.shape), confinement=confinement)
        answers.send_bytes(head.model_dump_json().encode())
        answers.send_bytes(memoryview(logits_BTV.numpy()).cast("B"))
        request = requests.recv_bytes()


def _load_model(job: Job, recipe: Recipe, weights: Weights) -> nn.Module:
    """The recipe's model in evaluation mode."""
    import torch
    from safetensors.torch import load_file

    model = recipe.build().eval()
    if weights == "trained":
        model.load_state_dict(load_file(job.weights), strict=True)
        return model
    draw_parameters(model, seed=0)
    torch.manual_seed(derive_seed("fresh"))
    with torch.no_grad():
        for parameter in model.parameters():  # matrices that start at zero would hide a leak
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model
