"""What tests share: this checkout, a track of milliseconds, and a whole contest trained once."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import jsonschema
import numpy as np
import pytest
from hypothesis import settings

from harness.core.dataspec import PINS, FilesData, TrainedTokenizer
from harness.core.project import Project
from harness.core.track import Track, load_track
from harness.player.device import set_up_torch
from harness.player.job import Job
from harness.show.documents import DOCUMENTS, json_schema
from harness.variants.recipe import Recipe, apply_recipe, recipe_sources

settings.register_profile("gate", deadline=None, derandomize=True)  # slow machines and luck must not fail it
settings.load_profile("gate")

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["the", "a", "dog", "cat", "tree", "river", "sees", "finds", "loves", "and", "or", "in", "naïve", "日本", "🙂"]
TEXTS = [f"{number}: " + " ".join(random.Random(number).choices(WORDS, k=40 + number % 17)) for number in range(120)]
"""A corpus of documents that all differ."""
OWN_VARIANTS = ("placebo", "qk_norm", "requery", "token_smear", "zero_compute_expert")
"""The project's own variants. A contributor's is held by `llmbench submit` and `verify` alone, and by no test."""
NEED_EXPERTS = {"zero_compute_expert"}


@pytest.fixture(scope="session")
def project() -> Project:
    return Project(ROOT)


@pytest.fixture(scope="session", autouse=True)
def _torch_as_in_a_run(smoke: Track) -> None:
    """The track's threads: more of them would fight with whatever else runs here."""
    set_up_torch(smoke)


@pytest.fixture(scope="session")
def smoke(project: Project) -> Track:
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


@pytest.fixture(scope="session")
def bare(smoke: Track) -> Track:
    """The smoke track without its pins."""
    return smoke.model_copy(update={"data": smoke.data.model_copy(update=dict.fromkeys(PINS))})


MakeTrack = Callable[..., Track]


@pytest.fixture
def files_track(tmp_path: Path, own_cache: Path, bare: Track) -> MakeTrack:
    """Makes an unpinned track whose text is TEXTS, one document a file; keywords are fields of its data."""
    (tmp_path / "corpus").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "corpus" / f"{number:03}.txt").write_text(text)

    def make(**fields: Any) -> Track:
        data: dict[str, Any] = {
            "source": "files",
            "files": (str(tmp_path / "corpus" / "*.txt"),),
            "format": "text",
            "document": "file",
            "tokenizer": TrainedTokenizer(source="trained"),
            "dev_fraction": 0.1,
            "val_fraction": 0.2,
        }
        model = replace(bare.model, vocab_size=300)
        return bare.model_copy(update={"data": FilesData(**{**data, **fields}), "model": model})

    return make


def make_job(track: Track, folder: Path) -> Job:
    """A run of the base on `track`, which is smoke or made of it, with no checkpoint on the way."""
    return Job(
        root=str(ROOT),
        track="smoke",
        training_digest=track.training_digest,
        recipe="base",
        sources={},
        seed=0,
        folder=str(folder),
        checkpoint_every_s=1e9,
    )


@pytest.fixture
def job(tmp_path: Path, tiny: Track) -> Job:
    return make_job(tiny, tmp_path)


@pytest.fixture(scope="session")
def build_recipe(project: Project) -> Callable[[str, Track], Recipe]:
    """A recipe by name, applied to a track's base."""

    def build(recipe: str, track: Track) -> Recipe:
        return apply_recipe(recipe_sources(project, recipe), track.model, track.optim)

    return build


def valid_document(text: str, *arguments: str) -> Any:
    """The one JSON document that `llmbench ARGUMENTS --json` printed. Raises where it breaks the command's schema."""
    command = next(name for name in (" ".join(arguments[:2]), arguments[0]) if name in DOCUMENTS)
    document = json.loads(text)
    jsonschema.validate(document, json_schema(command), jsonschema.Draft202012Validator)
    return document


@dataclass(frozen=True)
class Sandbox:
    """A copy of the checkout with a board of its own, driven through the command line."""

    root: Path

    def __call__(
        self, *arguments: str, environment: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120", **(environment or {})},
            **options,
        )

    def json(self, *arguments: str, **options: Any) -> Any:
        """The one JSON document that the command prints, proved to keep the command's schema."""
        return valid_document(self(*arguments, "--json", **options).stdout, *arguments)

    def copy(self, target: Path) -> Sandbox:
        shutil.copytree(self.root, target, symlinks=True)
        return Sandbox(target)


def make_sandbox(root: Path) -> Sandbox:
    for folder in ("harness", "models", "tracks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    track = root / "tracks" / "smoke.toml"
    # A level at which three pairs can decide: what is tested is the way of a claim, not the statistics.
    text = re.sub(r"(?m)^alpha = .*$", "alpha = 0.45", track.read_text())
    text = re.sub(r"(?m)^futility_alpha = .*$", "futility_alpha = 0.45", text)
    track.write_text(re.sub(r"(?m)^max_slowdown = .*$", "max_slowdown = 9.0", text))
    return Sandbox(root)


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """An empty board; for tests that leave no trace in it."""
    return make_sandbox(tmp_path_factory.mktemp("empty") / "llmbench")


@dataclass(frozen=True)
class FiledContest:
    """The whole way, once, for real: baseline, candidate, submission."""

    sandbox: Sandbox
    candidate: dict[str, Any]
    submitted: subprocess.CompletedProcess[str]


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


def file_contest(root: Path) -> FiledContest:
    sandbox = make_sandbox(root)
    baseline = sandbox("run", "baseline", "--track", "smoke")
    assert baseline.returncode == 0, baseline.stderr
    opening = sandbox("submit", "--baseline", "--track", "smoke")
    assert opening.returncode == 0, opening.stderr
    candidate = sandbox("run", "candidate", "--variant", "token_smear", "--track", "smoke", "--json")
    submitted = sandbox("submit", "--track", "smoke")
    document = valid_document(candidate.stdout, "run", "candidate")
    return FiledContest(sandbox, {"code": candidate.returncode, **document}, submitted)


SLOWEST = (
    "test_claim",
    "test_challenge",
    "test_compile",
    "test_hub",
    "test_docs",
    "test_lanes",
    "test_ranks",
    "test_fuzz",
    "test_explore",
    "test_crashes",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first, so that no process of the suite ends long after the others."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
