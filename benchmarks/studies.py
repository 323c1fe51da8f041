"""What the studies of trainings share: a training without the command, and a table that grows as runs end."""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.core.events import RunEvent  # noqa: E402
from harness.core.runs import Training  # noqa: E402
from harness.core.track import Track  # noqa: E402
from harness.data.batches import Tokens  # noqa: E402
from harness.data.cache import open_split  # noqa: E402
from harness.referee.casting import Casting  # noqa: E402
from harness.referee.job import Job  # noqa: E402
from harness.referee.train import train  # noqa: E402
from harness.variants.recipe import Recipe  # noqa: E402
from tests.players import ThreadCasting  # noqa: E402

if TYPE_CHECKING:
    from torch import nn

Row = dict[str, Any]
Watch = Callable[[RunEvent], None]


def train_in(
    folder: str,
    track: Track,
    kind: Callable[..., Casting],
    *,
    seed: int = 0,
    watch: Watch = lambda event: None,
    tokens: Mapping[Any, Tokens] | None = None,
    **options: Any,
) -> Training:
    """Train in `folder` with players of this kind, on the track's tokens by default. Raises RunFailedError."""
    job = Job(
        root=str(ROOT), track=track.name, training_digest=track.training_digest, recipe="base",
        sources={}, seed=seed, folder=str(Path(folder) / "run"), checkpoint_every_s=1e9,
    )  # fmt: skip
    Path(job.folder).mkdir()
    tokens = tokens or {"train": open_split(track, "train"), "dev": open_split(track, "dev")}
    return train(kind(track, job, **options), tokens, watch)


def train_here(track: Track, recipe: Recipe, *, seed: int = 0) -> tuple[Training, nn.Module]:
    """Train with players in threads of this process; the training and a model with its last weights.

    Raises RunFailedError.
    """
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        training = train_in(folder, track, ThreadCasting, seed=seed, recipe=recipe)
        model = recipe.renew().build()
        model.load_state_dict(load_file(Path(folder) / "run" / "weights.safetensors"))
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
