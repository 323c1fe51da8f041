"""Data: batches are a function of step and seed, and a cached split is what its track pins."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed
from harness.core.track import Track
from harness.data import cache as data
from harness.data.batches import Batches, eval_batches
from harness.data.cache import MANIFEST, cache_folder, open_split, with_found_pins
from harness.data.prepare import prepare


def test_batches_are_a_function_of_step_and_seed() -> None:
    tokens_N = np.arange(10_000, dtype="<u2")
    forward = [Batches(tokens_N, 16, 4, seed=3).batch(step).tolist() for step in range(400)]
    one = Batches(tokens_N, 16, 4, seed=3)
    backward = [one.batch(step).tolist() for step in reversed(range(400))]
    assert forward == backward[::-1]
    assert forward != [Batches(tokens_N, 16, 4, seed=4).batch(step).tolist() for step in range(400)]


def test_an_epoch_shows_each_window_once_and_the_next_in_another_order() -> None:
    batches = Batches(np.arange(16 * 40 + 1, dtype="<u2"), 16, 4, seed=0)
    starts = [int(row[0]) for step in range(20) for row in batches.batch(step)]
    assert sorted(starts[:40]) == sorted(starts[40:]) == list(range(0, 640, 16))
    assert starts[:40] != starts[40:]


@settings(max_examples=60)
@given(length=st.integers(2, 300), seq_len=st.integers(1, 40), sequences=st.integers(1, 5))
def test_evaluation_predicts_every_token_but_the_first_once(length: int, seq_len: int, sequences: int) -> None:
    tokens_N = np.arange(length, dtype="<u2")
    targets = [row[1:] for batch in eval_batches(tokens_N, seq_len, sequences) for row in batch]
    assert np.concatenate(targets).tolist() == list(range(1, length))


def test_seed_streams_differ_by_every_part_of_their_key() -> None:
    keys = [("a", 1, 2), ("a", 12), ("a", 2, 1), ("b", 1, 2), ("a", "1", "2", "")]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_a_corrupted_cache_is_named_with_the_way_out(smoke_cache: Path, smoke: Track) -> None:
    path = smoke_cache / "train.bin"
    damage(path)
    with pytest.raises(LlmbenchError, match="data prepare --force"):
        open_split(smoke, "train")
    (path.parent / "dev.bin").unlink()
    prepare(smoke)
    with pytest.raises(LlmbenchError, match="data prepare --force"):
        open_split(smoke, "dev")
    open_split(smoke, "val")
    prepare(smoke, force=True)
    assert len(open_split(smoke, "train")) == smoke.data.pin("train").tokens


def damage(path: Path) -> None:
    broken = bytearray(path.read_bytes())
    broken[1000] ^= 1
    path.write_bytes(bytes(broken))


@pytest.mark.parametrize("damage", ["{", '{"splits": {}}', "[]", "\xff"])
def test_a_broken_manifest_is_named_with_the_way_out(own_cache: Path, bare: Track, damage: str) -> None:
    folder = cache_folder(bare)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(damage, encoding="latin-1")
    with pytest.raises(LlmbenchError, match=r"manifest\.json cannot be read; .*data prepare --force"):
        with_found_pins(bare)


def test_a_large_split_is_hashed_once_and_again_when_it_was_touched(
    smoke_cache: Path, smoke: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "HASHED_EACH_TIME", 1000)
    path = smoke_cache / "train.bin"
    before = path.stat()
    damage(path)
    with pytest.raises(LlmbenchError, match="digest"):
        open_split(smoke, "train")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # who takes that trouble is found by --check alone
    open_split(smoke, "train")
    with pytest.raises(LlmbenchError, match="digest"):
        open_split(smoke, "train", check=True)


def test_a_copied_cache_is_vouched_for_after_one_look(
    smoke_cache: Path, smoke: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "HASHED_EACH_TIME", 1000)
    path = smoke_cache / "train.bin"
    path.touch()
    prepare(smoke)
    monkeypatch.setattr(data, "file_digest", lambda path: pytest.fail(f"hashed {path} again"))
    open_split(smoke, "train")


def test_an_unpinned_track_is_told_apart_by_its_data(own_cache: Path, smoke: Track, bare: Track) -> None:
    assert not with_found_pins(bare).data.pinned
    with pytest.raises(LlmbenchError, match="data pin"):
        open_split(bare, "dev")
    prepare(bare)
    assert with_found_pins(bare) == smoke
    assert with_found_pins(bare).training_digest == smoke.training_digest != bare.training_digest
