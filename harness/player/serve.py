"""The model behind a pipe: tokens in, logits out. This process runs the variant's code; the scorer never does.

Each session is a process of its own, forked before any of the variant's code ran: what a model remembers ends with
its session. Both ends of the pipe are in this file. Of a session nothing is believed but that its numbers are
logits. Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed
from harness.core.track import Track
from harness.player.device import open_device, set_up_torch
from harness.player.job import Job
from harness.player.process import close_all_but, exit_code, fork
from harness.variants.recipe import draw_parameters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from harness.variants.recipe import Recipe


Weights = Literal["fresh", "trained"]
"""`trained`: the run's final weights; `fresh`: random ones, where a leak cannot hide behind a learned zero."""


_HEADER = struct.Struct("<4q")  # kind, then three sizes


_TOKENS, _LOGITS, _TEXT, _REFUSAL = range(4)


_PIPE_BYTES = 1 << 20


class ProbeFailedError(Exception):
    """The model breaks a rule that its score depends on; the message starts with the rule's name."""


class Session:
    """The scorer's end of one session."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, vocab_size: int) -> None:
        self.requests, self.answers, self.vocab_size = requests, answers, vocab_size
        self.confinement: tuple[str, ...] | None = None
        """What keeps the model's process from the rest of the machine; known after the first answer."""

    def ask(self, tokens_BT: NDArray[np.int64]) -> NDArray[np.float32]:
        """The model's logits_BTV for tokens_BT.

        Raises ProbeFailedError where they are not one finite distribution a position, LlmbenchError where the
        recipe cannot be built.
        """
        import numpy as np

        with suppress(BrokenPipeError):  # then the answer says why
            self.requests.write(_HEADER.pack(_TOKENS, *tokens_BT.shape, 0))
            self.requests.write(np.ascontiguousarray(tokens_BT, dtype="<i8").data)
            self.requests.flush()
        if self.confinement is None:
            self.confinement = tuple(json.loads(self._read(_HEADER.unpack(self._read(_HEADER.size))[1])))
        kind, *shape = _HEADER.unpack(self._read(_HEADER.size))
        if kind == _REFUSAL:
            raise LlmbenchError(bytes(self._read(shape[0])).decode())
        if shape != [*tokens_BT.shape, self.vocab_size]:
            raise ProbeFailedError(f"shape: logits are {tuple(shape)}, not {(*tokens_BT.shape, self.vocab_size)}")
        logits_BTV = np.frombuffer(self._read(4 * int(np.prod(shape))), dtype="<f4").reshape(shape)
        if not np.isfinite(logits_BTV).all():
            raise ProbeFailedError("finiteness: a logit is not a finite number")
        return logits_BTV

    def _read(self, count: int) -> bytearray:
        data = bytearray(count)
        if self.answers.readinto(data) != count:  # type: ignore[attr-defined]
            raise ProbeFailedError("answer: the model failed in evaluation, its traceback is in evaluate.log")
        return data

    def close(self) -> None:
        """End the session; the next one can start."""
        with suppress(BrokenPipeError):
            self.requests.close()
        self.answers.close()


@contextmanager
def model_sessions(job: Job, track: Track, order: Sequence[Weights]) -> Iterator[Iterator[Session]]:
    """Sessions of the job's model, one after the other; asking for the next one ends the one before.

    They are forked from this process: call it before it knows what a model must not, and while it has one thread.
    A model that is killed from outside takes this process along, by the same signal.
    """
    pipes = [(os.pipe(), os.pipe()) for _ in order]
    theirs = [(requests[0], answers[1]) for requests, answers in pipes]
    server = fork(lambda: _serve_one_by_one(job, track, list(zip(order, theirs, strict=True))))
    for end in (end for ends in theirs for end in ends):
        os.close(end)
    with ExitStack() as stack:
        stack.callback(_follow, server)
        ours = [
            stack.enter_context(
                closing(Session(_open(requests[1], "wb"), _open(answers[0], "rb"), track.model.vocab_size))
            )
            for requests, answers in pipes
        ]
        yield _one_by_one(ours)


def _one_by_one(sessions: list[Session]) -> Iterator[Session]:
    for session in sessions:
        yield session
        session.close()


def _follow(child: int) -> int:
    """Wait for a forked process to end; its exit code, unless a signal killed it: that then kills this one too."""
    code = exit_code(child)
    if code < 0:
        signal.raise_signal(-code)
    return code


def _open(descriptor: int, mode: str) -> Any:
    with suppress(ImportError, AttributeError, OSError):  # fewer turns for large answers, where the system allows it
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return os.fdopen(descriptor, mode)


def serve(job: Job, track: Track, weights: Weights, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer one session's requests until they end."""
    import numpy as np
    import torch

    def send(kind: int, shape: Sequence[int], payload: bytes | memoryview) -> None:
        answers.write(_HEADER.pack(kind, *[*shape, -1, -1, -1][:3]))
        answers.write(payload)
        answers.flush()

    confinement = json.dumps(job.confine(track, (), writes=False)).encode()
    send(_TEXT, [len(confinement)], confinement)
    try:
        device = open_device(track)
        model = _load_model(job, job.load_recipe(track), weights).to(device.name)
    except LlmbenchError as error:
        send(_REFUSAL, [len(str(error).encode())], str(error).encode())
        return
    while header := requests.read(_HEADER.size):
        _, batch, positions, _ = _HEADER.unpack(header)
        tokens_BT = np.frombuffer(requests.read(8 * batch * positions), dtype="<i8").reshape(batch, positions)
        torch.manual_seed(derive_seed("evaluation"))
        with torch.no_grad():
            logits_BTV = model(device.tensor(tokens_BT.copy()))[0].float().contiguous().cpu()
        send(_LOGITS, logits_BTV.shape, memoryview(logits_BTV.numpy()).cast("B"))


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


def _serve_one_by_one(job: Job, track: Track, sessions: Sequence[tuple[Weights, tuple[int, int]]]) -> None:
    """Fork one process a session, each when the one before has ended."""
    close_all_but(*(end for _, ends in sessions for end in ends))
    set_up_torch(track)
    for weights, ends in sessions:

        def session(weights: Weights = weights, ends: tuple[int, int] = ends) -> None:
            close_all_but(*ends)
            serve(job, track, weights, _open(ends[0], "rb"), _open(ends[1], "wb"))

        child = fork(session)
        for end in ends:
            os.close(end)
        if code := _follow(child):
            sys.exit(code)
