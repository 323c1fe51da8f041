"""A job for the referee: one run that it has to make, and the paths of the run's files."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.schema import Count, Positive, Sha256, Strict
from harness.core.track import Track, load_track
from harness.data.cache import with_found_pins
from harness.variants.recipe import recipe_sources


class GiveUp(Strict):
    """When to end a run early: if its dev loss is above `dev_loss_nats` at its evaluation number `evaluation`."""

    evaluation: Positive
    """Number of the evaluation on dev, from 1."""
    dev_loss_nats: float


class Job(Strict):
    """The description of one run that the referee has to make."""

    root: str
    track: str
    training_digest: Sha256
    settings: tuple[str, ...] = ()
    """Values of the track that the option `--set` changed."""
    recipe: str
    sources: dict[str, Sha256]
    seed: Count
    folder: str
    """The run's own folder: checkpoint, weights and logs."""
    checkpoint_every_s: float = 30.0
    give_up: GiveUp | None = None
    usual_step_s: float | None = None
    """Seconds per training step of the record's runs; None if unknown. It limits the time for an answer of a player."""

    @property
    def compiled(self) -> Path:
        """Folder of the files of `torch.compile`, shared by all seeds of the recipe."""
        return Path(self.folder).parent / "compiled"

    @property
    def weights(self) -> Path:
        """The final weights."""
        return Path(self.folder) / "weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The file from which an interrupted training continues."""
        return Path(self.folder) / "checkpoint"

    @property
    def trained(self) -> Path:
        """File with the results of a training whose model was not evaluated yet."""
        return Path(self.folder) / "training.json"

    def log(self, task: str) -> Path:
        """File with the output of the player that does `task`, for example `train`."""
        return Path(self.folder) / f"{task}.log"

    def load_track(self) -> Track:
        """The track of the run. Raises LlmbenchError if the track's file changed after the job was made."""
        track = with_found_pins(load_track(Project(Path(self.root)), self.track, self.settings))
        if track.training_digest != self.training_digest:
            raise LlmbenchError(f"tracks/{self.track}.toml changed during training; run the command again")
        return track

    def load_sources(self) -> tuple[tuple[str, str], ...]:
        """Name and code of each variant, without comments and docstrings.

        No player gets comments and docstrings, because they have no price and could contain data. Raises LlmbenchError
        if a variant's file changed after the job was made.
        """
        sources = recipe_sources(Project(Path(self.root)), self.recipe)
        for name, source in sources.items():
            if source.digest != self.sources[name]:
                raise LlmbenchError(f"variant '{name}' changed during training; run the command again")
        return tuple((name, source.code) for name, source in sources.items())
