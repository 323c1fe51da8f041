"""Data: bytes are conserved, splits are disjoint, batches are a function of step and seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from harness.data import (
    SEPARATOR_ID,
    SPLITS,
    Batches,
    Document,
    cache_folder,
    derive_seed,
    encode,
    eval_batches,
    open_split,
    prepare,
    split_documents,
    token_bytes,
    train_tokenizer,
)
from harness.errors import LlmbenchError
from harness.track import Track


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat, the dog did not", "naïve café, 日本語 and emoji 🙂"] * 8, 300)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=5))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    table = token_bytes(tokenizer)
    tokens_N = encode(tokenizer, [Document(str(i), text) for i, text in enumerate(texts)])
    assert b"".join(table[token] for token in tokens_N.tolist()) == "".join(texts).encode()
    assert int((tokens_N == SEPARATOR_ID).sum()) == len(texts)


@pytest.mark.parametrize("split", SPLITS)
def test_the_cached_split_holds_the_bytes_and_documents_that_the_track_pins(smoke: Track, split: Any) -> None:
    table = token_bytes(Tokenizer.from_file(str(prepare(smoke) / "tokenizer.json")))
    tokens_N, pin = open_split(smoke, split), getattr(smoke.data, split)
    assert sum(len(table[token]) for token in tokens_N.tolist()) == pin.bytes
    assert int((tokens_N == SEPARATOR_ID).sum()) == pin.documents
    assert len(tokens_N) == pin.tokens


@settings(max_examples=50, deadline=None, derandomize=True)
@given(names=st.sets(st.text(max_size=8), min_size=4, max_size=60))
def test_splits_are_disjoint_and_complete(smoke: Track, names: set[str]) -> None:
    documents = [Document(name, name) for name in sorted(names)]
    splits = split_documents(documents, smoke.data)
    held = [document.name for split in SPLITS for document in splits[split]]
    assert sorted(held) == sorted(names)


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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(length=st.integers(2, 300), seq_len=st.integers(1, 40), sequences=st.integers(1, 5))
def test_evaluation_predicts_every_token_but_the_first_once(length: int, seq_len: int, sequences: int) -> None:
    tokens_N = np.arange(length, dtype="<u2")
    targets = [row[1:] for batch in eval_batches(tokens_N, seq_len, sequences) for row in batch]
    assert np.concatenate(targets).tolist() == list(range(1, length))


def test_seed_streams_differ_by_every_part_of_their_key() -> None:
    keys = [("a", 1, 2), ("a", 12), ("a", 2, 1), ("b", 1, 2), ("a", "1", "2", "")]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_corrupted_cache_is_named_with_the_way_out(own_cache: Path, smoke: Track) -> None:
    folder = prepare(smoke)
    path = folder / "train.bin"
    broken = bytearray(path.read_bytes())
    broken[1000] ^= 1
    path.write_bytes(bytes(broken))
    with pytest.raises(LlmbenchError, match="data prepare --force"):
        open_split(smoke, "train")
    open_split(smoke, "val")
    prepare(smoke, force=True)
    assert len(open_split(smoke, "train")) == smoke.data.train.tokens


def test_a_wrong_pin_stops_and_leaves_no_cache(own_cache: Path, smoke: Track) -> None:
    wrong = smoke.data.val.model_copy(update={"bytes": smoke.data.val.bytes - 1})
    track = smoke.model_copy(update={"data": smoke.data.model_copy(update={"val": wrong})})
    with pytest.raises(LlmbenchError, match=r"pins data\.val"):
        prepare(track)
    assert not cache_folder(track).exists()


def test_two_processes_may_prepare_at_once(own_cache: Path, smoke: Track) -> None:
    command = [sys.executable, "-m", "harness.cli", "data", "prepare", "--track", "smoke"]
    root = Path(__file__).resolve().parent.parent
    both = [subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(open_split(smoke, "dev")) == smoke.data.dev.tokens
    assert [path.name for path in cache_folder(smoke).parent.glob(".*")] == []
