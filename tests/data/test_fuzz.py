"""No corpus, tokenizer or cached token crashes what reads it: a sentence, or exactly what the whole file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.dataspec import SPLITS, DataSpec
from harness.core.project import Project
from harness.core.track import Track, load_track
from harness.data.cache import MANIFEST, open_split
from harness.data.corpus import open_corpus
from harness.data.prepare import prepare
from harness.data.vocabulary import SEPARATOR, Vocabulary, load_tokenizer, train_tokenizer
from tests.damage import REFUSED, STRANGE, damaged, fuzz, outcome, retyped
from tests.make import TEXTS, WRITERS, Write, files


def test_damaged_tokens_are_never_taken_for_the_tracks(smoke_cache: Path, smoke: Track) -> None:
    path = smoke_cache / "dev.bin"
    original = path.read_bytes()

    @fuzz(75)
    @given(content=damaged(original))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        assert (outcome(lambda: open_split(smoke, "dev")) is REFUSED) == (content != original)

    check()
    path.unlink()
    for make in (path.mkdir, lambda: path.symlink_to(path.name), lambda: path.symlink_to("nowhere")):
        make()
        assert outcome(lambda: open_split(smoke, "dev")) is REFUSED
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_damaged_manifest_moves_no_token(smoke_cache: Path, smoke: Track) -> None:
    """What it says of a pinned track is checked against the pins."""
    path = smoke_cache / MANIFEST
    original = path.read_bytes()
    whole = [open_split(smoke, split).tolist() for split in SPLITS]

    @fuzz(75)
    @given(content=damaged(original) | retyped(original))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        if outcome(lambda: prepare(smoke)) is not REFUSED:
            assert [open_split(smoke, split).tolist() for split in SPLITS] == whole

    check()


def test_a_damaged_tokenizer_is_refused_or_still_spells_every_text() -> None:
    original = train_tokenizer(TEXTS, 300).to_str().encode()

    def read(content: bytes) -> Any:
        vocabulary = Vocabulary(load_tokenizer(content, "it"), SEPARATOR, "it")
        encoded = vocabulary.encode(TEXTS)
        return [b"".join(vocabulary.table[token] for token in tokens_N.tolist()) for tokens_N in encoded]

    assert read(original) == [text.encode() for text in TEXTS]

    @fuzz(150)
    @given(content=damaged(original) | retyped(original))
    def check(content: bytes) -> None:
        found = outcome(lambda: read(content))
        assert found is REFUSED or found == [text.encode() for text in TEXTS]

    check()
    panics = original.replace(b'"continuing_subword_prefix":null', b'"continuing_subword_prefix":"longer than all"')
    assert panics != original
    for content in (*STRANGE, panics):
        assert outcome(lambda content=content: read(content)) is REFUSED


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("write", WRITERS)
def test_a_damaged_corpus_is_read_or_refused_in_a_sentence(tmp_path: Path, write: Write) -> None:
    fields = write(tmp_path, TEXTS[:40])
    path = sorted(tmp_path.iterdir())[0]
    original = path.read_bytes()
    spec: DataSpec = files(tmp_path / f"*{path.suffix}", **fields)

    def read() -> list[str]:
        return [str(document.content) for document in open_corpus(spec).documents()]

    assert len(read()) == 40
    ours = damaged(original)
    if path.suffix == ".jsonl":
        ours |= retyped(original.splitlines()[0])

    @fuzz(25)
    @given(content=ours)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        found = outcome(read)
        assert found is REFUSED or all(isinstance(text, str) for text in found)

    check()


@fuzz(150)
@given(
    key=st.sampled_from(["model.dim", "data.text", "budget.tokens", "device", "x", "", "data.train", "rule.alpha"])
    | st.text(max_size=12),
    value=st.text(max_size=12) | st.sampled_from(["9" * 5000, "0x" + "f" * 5000, "[" * 5000, "nan", "{a=1}", "1\nb=2"]),
)
def test_any_setting_makes_a_track_or_a_sentence(project: Project, key: str, value: str) -> None:
    found = outcome(lambda: load_track(project, "smoke", [f"{key}={value}"]))
    assert found is REFUSED or found.name in ("smoke", "exploratory-smoke")
