"""Corpora: the documents of each source and format, their splits, and what is said where one cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.dataspec import SPLITS
from harness.core.errors import LlmbenchError
from harness.core.track import Track
from harness.data.corpus import open_corpus, private_paths, split_documents, split_of
from tests.make import TEXTS, WRITERS, Write, files, write_jsonl, write_parquet, write_text


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_documents_with_the_same_splits(tmp_path: Path, write: Write) -> None:
    corpus = open_corpus(files(tmp_path / "*", **write(tmp_path, TEXTS)))
    documents = list(corpus.documents())
    assert [document.content for document in documents] == TEXTS
    spec = files("unused", format="jsonl", text="body")
    assert [document.split for document in documents] == [split_of(text.encode(), spec) for text in TEXTS]


@pytest.mark.parametrize("write", [write_text, write_jsonl, write_parquet])
@pytest.mark.parametrize("count", [1, 7, 33, len(TEXTS)])
def test_reading_goes_on_where_it_stopped(tmp_path: Path, write: Write, count: int) -> None:
    spec = files(tmp_path / "*", **write(tmp_path, TEXTS))
    corpus = open_corpus(spec)
    reading = corpus.documents()
    first = [next(reading) for _ in range(count)]
    position = json.loads(json.dumps(corpus.position()))
    assert first + list(open_corpus(spec).documents(position)) == list(open_corpus(spec).documents())


def test_a_package_is_read_on_where_reading_stopped(smoke: Track) -> None:
    corpus = open_corpus(smoke.data)
    reading = corpus.documents()
    first = [next(reading) for _ in range(5)]
    assert first + list(open_corpus(smoke.data).documents(corpus.position())) == list(corpus.documents())


@settings(max_examples=50)
@given(names=st.sets(st.text(max_size=8), min_size=4, max_size=60))
def test_the_splits_of_a_package_are_disjoint_and_complete(smoke: Track, names: set[str]) -> None:
    splits = split_documents(sorted(names), smoke.data)
    assert sorted(name for split in SPLITS for name in splits[split]) == sorted(names)


def test_copies_of_a_document_share_a_split_and_the_shares_are_what_the_track_says(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(2000)]
    spec = files(tmp_path / "*", **write_jsonl(tmp_path, texts + texts[::-1]))
    held: dict[Any, set[str]] = {split: set() for split in SPLITS}
    for document in open_corpus(spec).documents():
        held[document.split].add(str(document.content))
    assert sum(map(len, held.values())) == len(set.union(*held.values())) == 2000
    assert len(held["val"]) == pytest.approx(400, abs=60)
    assert len(held["dev"]) == pytest.approx(200, abs=45)


def test_what_is_empty_is_no_document(tmp_path: Path) -> None:
    rows = [{"body": "a"}, {"body": ""}, {"body": None}, {"other": 1}, {"body": "b"}]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = open_corpus(files(tmp_path / "*", format="jsonl", text="body"))
    assert [document.content for document in corpus.documents()] == ["a", "b"]


def test_a_file_that_two_patterns_match_is_read_once(tmp_path: Path) -> None:
    write_text(tmp_path, TEXTS[:3])
    spec = files(tmp_path / "0001.txt", format="text", document="file")
    spec = spec.model_copy(update={"files": (str(tmp_path / "0001.txt"), str(tmp_path / "**" / "*.txt"))})
    assert [document.content for document in open_corpus(spec).documents()] == [TEXTS[1], TEXTS[0], TEXTS[2]]


def damaged_parquet(folder: Path, start: int, end: int) -> dict[str, Any]:
    """The second file loses its bytes from `start` on, or has others up to `end`."""
    fields = write_parquet(folder, TEXTS)
    content = (folder / "b.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(content[:start] + (b"\x77" * (end - start) + content[end:] if end else b""))
    return fields


def write_bytes(folder: Path, content: bytes, **fields: Any) -> dict[str, Any]:
    (folder / "all").write_bytes(content)
    return fields


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda folder: damaged_parquet(folder, 1000, 0), ["*", "cannot be read", "Parquet"]),
        (lambda folder: damaged_parquet(folder, 100, 400), ["*", "cannot be read"]),
        (
            lambda folder: write_bytes(folder, b'{"body": "a"}\nnot json\n', format="jsonl", text="body"),
            ["*", "cannot be read", "JSON"],
        ),
        (
            lambda folder: write_bytes(folder, "café".encode("latin-1"), format="text", document="file"),
            ["*", "cannot be read", "utf-8"],
        ),
        (lambda folder: {**write_parquet(folder, TEXTS), "text": "content"}, ["no column 'content'", "n, body"]),
        (lambda folder: {**write_parquet(folder, TEXTS), "text": "n"}, ["column 'n'", "must contain text, found"]),
        (lambda folder: {"format": "text", "document": "file"}, ["no file matches"]),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path: Path, write: Any, words: list[str]) -> None:
    spec = files(tmp_path / "*", **write(tmp_path))
    with pytest.raises(LlmbenchError) as caught:
        list(open_corpus(spec).documents())
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_corpus_and_the_caches_of_the_hub_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "real").mkdir()
    write_text(tmp_path / "real", TEXTS[:1])
    os.symlink(tmp_path / "real" / "0000.txt", tmp_path / "link.txt")
    private = private_paths(files(tmp_path / "link.txt", format="text", document="file"))
    assert {tmp_path / "real" / "0000.txt", tmp_path / "datasets"} <= set(private)
    assert private_paths(files(tmp_path / "gone.txt", format="text", document="file")) == private[:-1]
