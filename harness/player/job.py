"""What one worker process is asked to do: which run, and where it lies."""

from __future__ import annotations

from pathlib import Path

from harness.core.dataspec import SplitName
from harness.core.errors import LlmbenchError
from harness.core.project import Project, make_folder
from harness.core.schema import Count, Positive, Sha256, Strict
from harness.core.track import Track, load_track
from harness.data.cache import MANIFEST, cache_folder, with_found_pins
from harness.data.corpus import private_paths
from harness.player.confine import carve, confine, interpreter_paths
from harness.player.device import device_files, start_device
from harness.variants.recipe import Recipe, apply_recipe, recipe_sources


class GiveUp(Strict):
    """Where a run may end early: it is hopeless if its dev loss at `step` exceeds `dev_loss_nats`."""

    step: Positive
    dev_loss_nats: float


class Job(Strict):
    """One run for one worker process."""

    root: str
    track: str
    training_digest: Sha256
    settings: tuple[str, ...] = ()
    """Of an exploratory track."""
    recipe: str
    sources: dict[str, Sha256]
    seed: Count
    folder: str
    """The run's own folder: checkpoint and weights."""
    checkpoint_every_s: float = 30.0
    give_up: GiveUp | None = None
    final_dev_loss: float | None = None
    """Dev loss at the end of training, nats per token; the evaluator must find the same."""

    @property
    def compiled(self) -> Path:
        """What `torch.compile` makes of the recipe's model: one folder for all of its seeds."""
        return Path(self.folder).parent / "compiled"

    @property
    def weights(self) -> Path:
        """The final weights."""
        return Path(self.folder) / "weights.safetensors"

    def load_track(self) -> Track:
        """The track. Raises LlmbenchError where it is no longer the one that the job names."""
        track = with_found_pins(load_track(Project(Path(self.root)), self.track, self.settings))
        if track.training_digest != self.training_digest:
            raise LlmbenchError(f"tracks/{self.track}.toml changed while its runs were being trained; start again")
        return track

    def confine(self, track: Track, splits: tuple[SplitName, ...], *, writes: bool) -> tuple[str, ...]:
        """Confine this process to the interpreter, the sources, `splits` and the run's folder; what is in force.

        Before it a GPU is started. A process that writes on a track that compiles may start programs meanwhile.
        """
        cache, root = cache_folder(track), Path(self.root).resolve()
        denied = [path.resolve() for path in (*private_paths(track.data), cache.parent)]
        readable = [*interpreter_paths(denied), *carve(root / "harness", denied), *carve(root / "models", denied)]
        readable += [cache / MANIFEST, *(cache / f"{split}.bin" for split in splits), self.weights]
        writable, devices = [Path(self.folder)] if writes else [], []
        if track.device == "cuda":
            start_device(track)
            writable.append(Path("/proc/self/task").resolve())  # the driver's further threads get names too
            devices = device_files()
        compiles = writes and bool(track.compile)
        if compiles:
            make_folder(self.compiled)
            writable.append(self.compiled)
        return confine(readable, writable, devices, programs=compiles)

    def load_recipe(self, track: Track) -> Recipe:
        """The recipe; this runs the variants' code. Raises LlmbenchError where a source changed meanwhile."""
        sources = recipe_sources(Project(Path(self.root)), self.recipe)
        for name, source in sources.items():
            if source.digest != self.sources[name]:
                raise LlmbenchError(f"variant '{name}' changed while its runs were being trained; start again")
        return apply_recipe(sources, track.model, track.optim)
