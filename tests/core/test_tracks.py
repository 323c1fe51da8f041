"""The committed tracks: their models have the size that their source states, and each trains what it claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.core.dataspec import HubData
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import Track, load_track, track_names
from harness.data.cache import open_split, with_found_pins
from harness.data.prepare import prepare
from harness.data.vocabulary import train_tokenizer
from harness.referee.job import Job
from harness.referee.train import train
from harness.variants.recipe import Recipe
from models.gpt import GPT, base
from tests.hub import add_dataset, add_model, serve_hub
from tests.make import NEED_EXPERTS, OWN_VARIANTS, ROOT, TEXTS
from tests.players import ThreadCasting
from tests.sandbox import python

TRACKS = track_names(Project(ROOT))
BLUEBERRY = [name for name in TRACKS if name.startswith("blueberry")]
# Million parameters as the original states them: "88M Params - Blueberry-Nano" in its configs/llm_config.py, and
# "GPU24GBMoEModelConfig (168M)" in github.com/bigwolfeman/5-dollar-llm, configs/titanmac_config.py.
STATED = {"moe-24gb": 168, **dict.fromkeys(BLUEBERRY, 88)}
TINY = (
    "device=cpu", "threads=1", "model.num_layers=1", "model.dim=16", "model.ffn_dim=16", "model.num_heads=2",
    "model.num_kv_heads=1", "budget.batch_sequences=2", "budget.seq_len=16", "budget.tokens=64",
    "budget.dev_evaluations=1", "budget.eval_sequences=64",
)  # fmt: skip
TINY_TEXT = ("model.vocab_size=300", "data.train_tokens=2000", "data.dev_fraction=0.1", "data.val_fraction=0.2")


@pytest.mark.parametrize("name", TRACKS)
def test_a_track_has_the_parameters_that_its_file_and_its_source_state(project: Project, name: str) -> None:
    track = load_track(project, name)
    with torch.device("meta"):
        model = GPT(base(track.model, track.optim))
    count = sum(parameter.numel() for parameter in model.parameters())
    if name in STATED:
        assert count // 10**6 == STATED[name] or round(count / 1e6) == STATED[name]
        assert f"{count:,} parameters" in (project.tracks / f"{name}.toml").read_text()
    assert name == "smoke" or f"{count / 1e6:.1f}M" in track.summary or f"{STATED.get(name)}M" in track.summary


def test_the_originals_boards_have_the_tokens_that_they_state(project: Project) -> None:
    """docs/LEADERBOARD.md; its 1B runs end on a part of a batch, ours on a whole one."""
    stated = {"8m": 8_011_776, "20m": 20_004_864, "100m": 100_007_936, "1b": 1_000_007_680}
    for name in BLUEBERRY:
        budget = load_track(project, name).budget
        assert 0 <= budget.tokens - stated[name.removeprefix("blueberry-")] < budget.batch_tokens


@pytest.mark.parametrize("name", list(STATED))
def test_reported_numbers_stand_beside_the_track_and_in_no_digest(project: Project, name: str) -> None:
    track = load_track(project, name)
    assert track.reported
    assert all("5-dollar-llm" in row.source for row in track.reported)
    without = track.model_copy(update={"reported": ()})
    assert (without.digest, without.training_digest) == (track.digest, track.training_digest)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The repositories of all hub tracks, with their names and columns, small: a server's address."""
    root = tmp_path_factory.mktemp("hub")
    tokenizer = train_tokenizer(TEXTS, 300)
    for track in (load_track(Project(ROOT), name) for name in TRACKS):
        if not isinstance(track.data, HubData):
            continue
        add_model(root, track.data.tokenizer.repository, tokenizer)  # type: ignore[union-attr]
        rows: list[Any] = [tokenizer.encode(text).ids for text in TEXTS] if track.data.ids else TEXTS
        columns = {str(track.data.ids or track.data.text): rows}
        add_dataset(root, track.data.repository, track.data.config or "default", columns)
    with serve_hub(root) as address:
        yield address


def small(name: str) -> Track:
    """A committed track made tiny by --set alone; its hub is the stand-in."""
    of_the_hub = isinstance(load_track(Project(ROOT), name).data, HubData)
    return load_track(Project(ROOT), name, TINY + (TINY_TEXT if of_the_hub else ()))


@pytest.fixture(scope="module")
def hub_cache(stand_in: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tokens of the small hub tracks, made in a process whose hub is the stand-in."""
    cache = str(tmp_path_factory.mktemp("cache"))
    code = "from tests.core.test_tracks import *\nfor name in STATED: prepare(small(name))"
    done = python("-c", code, HF_ENDPOINT=stand_in, HF_HOME=f"{cache}/hf", XDG_CACHE_HOME=cache)
    assert done.returncode == 0, done.stderr
    return cache


@pytest.mark.parametrize("name", TRACKS)
def test_every_track_trains_two_tiny_steps_with_each_of_the_projects_variants_that_fits_it(
    hub_cache: str,
    monkeypatch: pytest.MonkeyPatch,
    build_recipe: Callable[[str, Track], Recipe],
    job: Job,
    tmp_path: Path,
    name: str,
) -> None:
    track = small(name)
    if name in STATED:
        monkeypatch.setenv("XDG_CACHE_HOME", hub_cache)
        track = with_found_pins(track)
    prepare(track)
    tokens = {split: open_split(track, split) for split in ("train", "dev")}
    for variant in ("", *(f"+{variant}" for variant in OWN_VARIANTS)):
        folder = tmp_path / f"run{variant}"
        folder.mkdir()
        own = job.model_copy(update={"folder": str(folder)})
        recipe = build_recipe(f"base{variant}", track)
        if variant.removeprefix("+") in NEED_EXPERTS and not track.model.num_experts:
            with pytest.raises(LlmbenchError, match="use it on a mixture-of-experts track"):
                recipe.build()
            continue
        training = train(ThreadCasting(track, own, recipe=recipe), tokens)
        assert (training.steps, training.tokens) == (2, 64)
