"""What tests share: this checkout, a track of milliseconds, and a whole contest trained once."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from hypothesis import settings

from harness.core.dataspec import PINS
from harness.core.project import Project
from harness.core.runs import Training
from harness.core.track import Track, load_track
from harness.data.cache import cache_folder
from harness.data.prepare import prepare
from harness.lab.cores import reserve_cores
from harness.lab.provenance import available_cores
from harness.player.device import set_up_torch
from harness.referee.job import Job
from harness.referee.train import train
from harness.variants.recipe import Recipe, apply_recipe, recipe_sources
from tests.make import ROOT, TEXTS, MakeTrack, files, make_job, write_text
from tests.players import ThreadCasting
from tests.sandbox import HERE, FiledContest, Sandbox, file_contest, make_sandbox

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background, and so would commands
settings.register_profile("gate", deadline=None, derandomize=True)  # slow machines and luck must not fail it
settings.load_profile("gate")


@pytest.fixture(scope="session")
def project() -> Project:
    return Project(ROOT)


@pytest.fixture(scope="session", autouse=True)
def _torch_as_in_a_run(smoke: Track) -> None:
    """The track's threads: more of them would fight with whatever else runs here."""
    set_up_torch(smoke)


@pytest.fixture(scope="session", autouse=True)
def _no_cores_of_their_own() -> Iterator[None]:
    """The suite's processes share the machine: a run that is pinned to a core would wait for whoever else is there."""
    with reserve_cores(available_cores()):
        yield


@pytest.fixture(scope="session")
def smoke(project: Project) -> Track:
    """The smoke track; its tokens are in the cache."""
    prepared = HERE("data", "prepare", "--track", "smoke")
    assert prepared.returncode == 0, prepared.stderr
    return load_track(project, "smoke")


@pytest.fixture(scope="session")
def tiny(smoke: Track) -> Track:
    """The smoke model with a budget of milliseconds; its tokens are made up, so nothing is cached."""
    budget = smoke.budget.model_copy(
        update={"tokens": 8 * 4 * 16, "batch_sequences": 4, "seq_len": 16, "eval_sequences": 8}
    )
    return smoke.model_copy(update={"budget": budget})


@pytest.fixture(scope="session")
def tiny_mixture(tiny: Track) -> Track:
    """`tiny` with four experts a layer."""
    return tiny.model_copy(update={"model": replace(tiny.model, num_experts=4, top_k=2)})


@pytest.fixture(scope="session")
def tiny_tokens() -> dict[str, Any]:
    """Random tokens with some order in them, so that there is something to learn."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, 4000)
    tokens_N = ((np.cumsum(noise % 3) + noise // 128) % 512).astype("<u2")
    return {"train": tokens_N[:3000], "dev": tokens_N[3000:]}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def smoke_cache(smoke: Track, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The smoke track's tokens in a cache of the test's own, to damage."""
    with monkeypatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME")
        made = prepare(smoke)
    return Path(shutil.copytree(made, cache_folder(smoke)))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The datasets library reads what is not UTF-8 twice, five seconds apart, as if it came from a network."""
    monkeypatch.setattr("datasets.config.STREAMING_READ_RETRY_INTERVAL", 0)


@pytest.fixture(scope="session")
def bare(smoke: Track) -> Track:
    """The smoke track without its pins."""
    return smoke.model_copy(update={"data": smoke.data.model_copy(update=dict.fromkeys(PINS))})


@pytest.fixture
def files_track(tmp_path: Path, own_cache: Path, bare: Track) -> MakeTrack:
    """Makes an unpinned track whose text is TEXTS, one document a file; keywords are fields of its data."""
    (tmp_path / "corpus").mkdir()
    write_text(tmp_path / "corpus", TEXTS)

    def make(**fields: Any) -> Track:
        data = files(tmp_path / "corpus" / "*.txt", **{"format": "text", "document": "file", **fields})
        return bare.model_copy(update={"data": data, "model": replace(bare.model, vocab_size=300)})

    return make


@pytest.fixture
def job(tmp_path: Path, tiny: Track) -> Job:
    return make_job(tiny, tmp_path)


@pytest.fixture(scope="session")
def build_recipe(project: Project) -> Callable[[str, Track], Recipe]:
    """A recipe by name, applied to a track's base."""

    def build(recipe: str, track: Track) -> Recipe:
        return apply_recipe(recipe_sources(project, recipe), track.model, track.optim)

    return build


@pytest.fixture
def train_tiny(
    tiny: Track, tiny_tokens: dict[str, Any], job: Job, build_recipe: Callable[[str, Track], Recipe]
) -> Callable[..., Training]:
    """Trains a recipe, or the one of that name, on `tiny` or another track, in a folder below the test's own."""

    def run(
        recipe: str | Recipe = "base", folder: str = "", *, track: Track = tiny, seed: int = 0, **options: Any
    ) -> Training:
        own = job.model_copy(update={"folder": str(Path(job.folder) / folder), "seed": seed})
        Path(own.folder).mkdir(exist_ok=True)
        built = build_recipe(recipe, track) if isinstance(recipe, str) else recipe
        watch = options.pop("watch", lambda event: None)
        return train(ThreadCasting(track, own, recipe=built, **options), tiny_tokens, watch)

    return run


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """An empty board; for tests that leave no trace in it."""
    return make_sandbox(tmp_path_factory.mktemp("empty") / "llmbench")


@pytest.fixture(scope="session")
def filed(tmp_path_factory: pytest.TempPathFactory) -> FiledContest:
    """A sandbox whose board holds the baseline and token smearing, trained here.

    Trained by the first of the suite's processes that asks for it; each works on a copy of its own.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with filelock.FileLock(shared / "filed.lock"):
        if not (shared / "filed.pickle").exists():
            (shared / "filed.pickle").write_bytes(pickle.dumps(file_contest(shared / "filed" / "llmbench")))
        contest: FiledContest = pickle.loads((shared / "filed.pickle").read_bytes())
    return replace(contest, sandbox=contest.sandbox.copy(tmp_path_factory.mktemp("filed") / "llmbench"))


SLOWEST = (
    "challenge hub campaign claim compare lanes sizes pull_request process history crashes docs ablation documents "
    "tampering fuzz ranks provisional attacks explore prepare trackers"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first, so that no process of the suite ends long after the others.

    The first of them trains what many files share; the second needs nothing of it, and so does not wait. The second
    is the hub's, whose commands are forks only while nothing here has imported the library `datasets`.
    """
    places = {f"test_{name}": place for place, name in enumerate(SLOWEST.split())}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
