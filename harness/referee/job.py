"""A referee's job: which run to make, and its files."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.schema import Count, Positive, Sha256, Strict
from harness.core.track import Track, load_track
from harness.data.cache import with_found_pins
from harness.variants.recipe import recipe_sources


class GiveUp(Strict):
    """Where a run may end early: it is hopeless if its dev loss exceeds `dev_loss_nats` at one evaluation."""

    evaluation: Positive
    """Number of the evaluation on dev, from 1."""
    dev_loss_nats: float


class Job(Strict):
    """One run."""

    root: str
    track: str
    training_digest: Sha256
    settings: tuple[str, ...] = ()
    """The settings `--set` of an exploratory track."""
    recipe: str
    sources: dict[str, Sha256]
    seed: Count
    folder: str
    """The run's own folder: checkpoint, weights and logs."""
    checkpoint_every_s: float = 30.0
    give_up: GiveUp | None = None
    usual_step_s: float | None = None
    """Seconds per step of the record's runs; None if unknown. The longest time for an answer follows from it."""

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
        """The record of a training that was not evaluated yet."""
        return Path(self.folder) / "training.json"

    def log(self, task: str) -> Path:
        """The output of the players of one task."""
        return Path(self.folder) / f"{task}.log"

    def load_track(self) -> Track:
        """The track. Raises LlmbenchError where it is no longer the one that the job names."""
        track = with_found_pins(load_track(Project(Path(self.root)), self.track, self.settings))
        if track.training_digest != self.training_digest:
            raise LlmbenchError(f"tracks/{self.track}.toml changed while its runs were being trained; start again")
        return track

    def load_sources(self) -> tuple[tuple[str, str], ...]:
        """Name and code of each variant, without comments and docstrings: they cost nothing, so no player sees them.

        Raises LlmbenchError where a source changed meanwhile.
        """
        sources = recipe_sources(Project(Path(self.root)), self.recipe)
        for name, source in sources.items():
            if source.digest != self.sources[name]:
                raise LlmbenchError(f"variant '{name}' changed while its runs were being trained; start again")
        return tuple((name, source.code) for name, source in sources.items())
