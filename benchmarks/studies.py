"""What the studies of trainings share: a training in this process, and a table that grows as runs end."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.runs import Training
from harness.core.track import Track
from harness.data.cache import open_split
from harness.player.job import Job
from harness.player.process import Emit
from harness.variants.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

Row = dict[str, Any]


def train_here(
    track: Track, recipe: Recipe, *, seed: int = 0, emit: Emit = lambda event: None
) -> tuple[Training, nn.Module]:
    """Train in this process; the training and a model with its last weights. Raises DivergedError."""
    from safetensors.torch import load_file

    from harness.player.train import train

    tokens = {"train": open_split(track, "train"), "dev": open_split(track, "dev")}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            root=folder, track=track.name, training_digest=track.training_digest, recipe="base",
            sources={}, seed=seed, folder=folder, checkpoint_every_s=1e9,
        )  # fmt: skip
        training = train(track, recipe, tokens, job, emit)
        model = recipe.renew().build()
        model.load_state_dict(load_file(job.weights))
    return training, model.eval()


class Table:
    """`benchmarks/STUDY/TRACK.csv`."""

    def __init__(self, study: str, track: str, columns: Sequence[str]) -> None:
        self.path, self.columns = Path(__file__).parent / study / f"{track}.csv", columns

    def rows(self) -> list[dict[str, str]]:
        """All that is kept; nothing where there is no file."""
        return list(csv.DictReader(self.path.open())) if self.path.exists() else []

    def fill(self, rows_of: Callable[..., list[Row]], asked: Sequence[tuple[Any, ...]]) -> None:
        """Add the rows of each run that is asked for, two runs side by side; what is written stays on Ctrl-C."""
        self.path.parent.mkdir(exist_ok=True)
        with ProcessPoolExecutor(max_workers=2) as pool, self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            for rows in pool.map(rows_of, *zip(*asked, strict=True)) if asked else ():
                writer.writerows(rows)
                file.flush()
                print(" ".join(str(rows[0][column]) for column in self.columns[:3]), flush=True)
