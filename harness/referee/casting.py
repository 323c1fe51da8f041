"""Starts the players (processes that run a variant's code) of one run, with their permissions, cores and models."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.core.dataspec import PINS
from harness.core.project import CHECKOUT, make_folder
from harness.core.track import Track
from harness.data.cache import cache_folder, open_split
from harness.data.corpus import private_paths
from harness.player.confine import carve, interpreter_paths, player_environment
from harness.player.device import device_files
from harness.player.process import Player
from harness.player.protocol import Assignment
from harness.player.start import PREPARE_S, Cell
from harness.referee.job import Job
from harness.referee.session import Session

# Longest time that a player may take to answer: SILENT_STEPS training steps of the record, but at least SILENT_S
# seconds. On a busy machine, steps of one run differ by a factor of two. A warm-up or a page from disk takes seconds
# (assumption).
SILENT_STEPS, SILENT_S = 100.0, 60.0


@dataclass(frozen=True)
class Casting:
    """Starts all players of one run."""

    track: Track
    job: Job
    should_stop: Callable[[], bool] = lambda: False
    cores: tuple[int, ...] = ()
    """Processor cores reserved for the run; empty if it shares them."""
    memory_bytes: int | None = None
    """Memory limit of each player; None for no limit."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that select the run's GPUs."""

    @cached_property
    def separator(self) -> int:
        """The token that begins each document. It is also the first token of each split (train, dev and val)."""
        return int(open_split(self.track, "train")[0])

    @cached_property
    def sources(self) -> tuple[tuple[str, str], ...]:
        return self.job.load_sources()

    @property
    def aliases(self) -> dict[str, str]:
        """The alias that a variant has in a player -> its name.

        The alias hides the name, so that no code can depend on it.
        """
        return {f"variant_{place}": name for place, (name, _) in enumerate(self.sources, start=1)}

    def assignment(self, **fields: object) -> Assignment:
        """What a player of this run has to build: `fields`, and the values that all players of the run share."""
        content = self.track.model_dump(mode="json", exclude={"settings"})
        content["data"] |= dict.fromkeys(PINS)  # hides the digests of the splits
        content["seeds"] = list(range(len(self.track.seeds)))  # hides the seeds of other runs
        track = Track.model_validate_json(json.dumps(content))
        sources = [(alias, code) for alias, (_, code) in zip(self.aliases, self.sources, strict=True)]
        shared = {"seed": self.job.seed, "separator": self.separator, "trains": False}
        return Assignment.model_validate({"track": track, "sources": tuple(sources), **shared, **fields})

    def start(self, log: str, assignment: Assignment) -> Session:
        """A session with a new player that has built the model of `assignment`. Raises the same errors as `Session`."""
        player = Player(self.cell(assignment), self.job.log(log), self.should_stop)
        player.aliases = self.aliases
        return Session(player, assignment)

    def cell(self, assignment: Assignment) -> Cell:
        """Permissions and limits of a player. Only a player that compiles may write files and start programs."""
        cuda = self.track.device == "cuda"
        readable, writable = list(self._readable), list[str]()
        if assignment.compiled is not None:
            make_folder(Path(assignment.compiled))
            (writable if assignment.compiles else readable).append(assignment.compiled)
        usual_s = self.job.usual_step_s
        return Cell(
            readable=tuple(readable),
            writable=tuple(writable),
            devices=tuple(map(str, device_files())) if cuda else (),
            programs=assignment.compiles,
            network=assignment.trains and self.track.num_processes > 1,
            forked=assignment.compiled is None,
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            silence_s=PREPARE_S if usual_s is None else max(SILENT_S, SILENT_STEPS * usual_s),
            environment=player_environment(
                {**os.environ, **self.environment}, compiles=assignment.compiled is not None
            ),
        )

    @cached_property
    def _readable(self) -> tuple[str, ...]:
        """Paths that a player may read: Python, packages and the project's code, but no text, tokens or variants."""
        cache = cache_folder(self.track).parent
        denied = [path.resolve() for path in (*private_paths(self.track.data), cache, CHECKOUT / "models" / "variants")]
        code = [path for room in ("harness", "models") for path in carve(CHECKOUT / room, denied)]
        return tuple(map(str, [*interpreter_paths(denied), *code]))
