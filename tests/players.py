"""Players in threads of the test: the real program behind real pipes, without a process's start and confinement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from harness.core.errors import LlmbenchError
from harness.core.runs import Evaluation, RunFailedError, Training
from harness.core.track import Track
from harness.data.batches import Tokens
from harness.player.device import Device
from harness.player.play import Program, play
from harness.player.process import Player
from harness.player.protocol import Assignment
from harness.player.start import Cell
from harness.referee.casting import Casting
from harness.referee.evaluate import evaluate
from harness.referee.probes import probe_seed
from harness.referee.run import sessions
from harness.referee.session import ProbeFailedError, Session
from harness.referee.train import train
from harness.variants.recipe import Recipe

Splits = dict[str, Tokens]


class OwnProgram(Program):
    """A player's program with a recipe or a device of the test's own."""

    def __init__(self, recipe: Recipe | None = None, device: Device | None = None) -> None:
        self._recipe, self._device = recipe, device

    def recipe(self) -> Recipe:
        if self._device is not None:
            self.device = self._device
        return self._recipe or super().recipe()


class ThreadPlayer(Player):
    """A player that lives in a thread; nothing can freeze it or read its clock."""

    def __init__(self, program: Program, log: Path, should_stop: Callable[[], bool]) -> None:
        self.cell, self.log, self.should_stop, self.is_built = Cell(), log, should_stop, False
        self._memory = bytearray()
        self._deadline, self._killed_for, self._outside = None, None, None
        self._ended = threading.Event()
        theirs_in, self._requests = Pipe(duplex=False)
        self._answers, theirs_out = Pipe(duplex=False)
        self.started = time.perf_counter()
        self.confinement = ()

        def live() -> None:
            with suppress(EOFError, BrokenPipeError), theirs_in, theirs_out:
                play(theirs_in, theirs_out, program)

        self._thread = threading.Thread(target=live)
        self._thread.start()

    def cpu_s(self) -> float:
        return time.process_time()

    def peak_memory_mib(self) -> int | None:
        return None

    def kill(self) -> None:
        """A thread ends with its pipe."""

    def _wait(self) -> int:
        self._requests.close()
        self._thread.join()
        return 0


@dataclass(frozen=True)
class OpenCasting(Casting):
    """Real players, whose sources nobody has checked."""

    texts: tuple[tuple[str, str], ...] = ()

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        return self.texts


@dataclass(frozen=True)
class ThreadCasting(OpenCasting):
    """Players in threads, with unchecked sources or a recipe of the test's own."""

    recipe: Recipe | None = None
    device: Device | None = None
    started: list[Assignment] = field(default_factory=list)

    def start(self, log: str, assignment: Assignment) -> Session:
        self.started.append(assignment)
        program = OwnProgram(self.recipe, self.device)
        player = ThreadPlayer(program, self.job.log(log), self.should_stop)
        player.aliases = self.aliases
        return Session(player, assignment)


def windows(tokens: Tokens, track: Track) -> list[Tokens]:
    """The batches of an evaluation of `tokens`."""
    from harness.data.batches import eval_batches

    return eval_batches(tokens, track.budget.seq_len, track.budget.eval_sequences)


def run_through(casting: Casting, tokens: dict[str, Any]) -> tuple[Training, Evaluation]:
    """Train and evaluate."""
    training = train(casting, tokens)
    seed = probe_seed(casting.job.weights.read_bytes(), tokens["val"])
    final = training.curve[-1].dev_loss_nats
    return training, evaluate(casting.track, tokens["val"], tokens["dev"], final, sessions(casting), seed)


def ending(casting: Casting, tokens: dict[str, Any]) -> str:
    """What ended the run, empty where it earned a score."""
    try:
        run_through(casting, tokens)
    except RunFailedError as error:
        return str(error) if error.status == "invalid" else f"{error.status}: {error}"
    except (LlmbenchError, ProbeFailedError) as error:
        return str(error)
    return ""
