"""Writes token arrays chunk by chunk into a folder, so that an interrupted preparation can be continued.

After each chunk of documents `progress.json` records the lengths of the arrays (a checkpoint). After an interruption
the next attempt truncates the arrays to these lengths and continues, so that the tokens are the same as without an
interruption.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core.dataspec import SPLITS, OneEach, SplitName
from harness.core.errors import LlmbenchError
from harness.core.project import sha256, write_atomic
from harness.core.schema import Count, Sha256, Strict
from harness.data.corpus import Corpus, Document
from harness.data.vocabulary import Vocabulary

CHUNK_CHARACTERS = 4_000_000
"""Characters of text between two checkpoints, one or two seconds of work. A token id counts as one character."""
PROGRESS = "progress.json"


class SplitProgress(Strict):
    """Digest and sizes of what has been written of one split so far. The fields are those of `SplitPin`."""

    sha256: Sha256 = sha256(b"")
    tokens: Count = 0
    bytes: Count = 0
    documents: Count = 0


class Progress(Strict):
    """How much of a track's tokens was made at a checkpoint. Tokens written after the checkpoint are discarded."""

    origin: dict[str, str]
    """`Corpus.origin`, and the version of the library `datasets`, as a position is valid only for that version."""
    position: Any
    """How far the corpus was read (`Corpus.position()`); None at the beginning."""
    splits: Annotated[dict[SplitName, SplitProgress], OneEach]


class PreparationStep(NamedTuple):
    """Progress of making a track's tokens, to be displayed."""

    doing: str
    documents: int
    tokens: int
    of: int | None
    """Number of train tokens after which reading ends; None if the track sets no limit."""


OnStep = Callable[[PreparationStep], object]


def resume(folder: Path, corpus: Corpus) -> Progress:
    """The checkpoint of an earlier attempt in `folder`, from which to continue.

    If there is no checkpoint, or if it belongs to another corpus, the folder is emptied and a new checkpoint is
    written. Raises LlmbenchError if the checkpoint cannot be read.
    """
    origin = {**corpus.origin, "datasets": version("datasets")}
    path = folder / PROGRESS
    try:
        found = Progress.model_validate_json(path.read_bytes()) if path.exists() else None
    except ValueError as error:
        raise _tampered(path) from error
    if found is not None and found.origin == origin:
        return found
    shutil.rmtree(folder)
    folder.mkdir()
    fresh = Progress(origin=origin, position=None, splits={split: SplitProgress() for split in SPLITS})
    write_atomic(path, fresh.model_dump_json())
    return fresh


def write_splits(
    folder: Path,
    corpus: Corpus,
    vocabulary: Vocabulary,
    limits: Mapping[SplitName, int | None],
    dtype: str,
    observe: OnStep,
) -> dict[SplitName, SplitProgress]:
    """Write each split's tokens to SPLIT.bin, in the corpus's order, until all splits with a limit are full.

    `limits` maps each split to its largest number of tokens, or to None. If train has no limit, the whole corpus is
    read. Raises LlmbenchError if a split got no document.
    """
    progress = resume(folder, corpus)
    with ExitStack() as stack:
        writers = {
            split: _SplitWriter(folder / f"{split}.bin", done, limits[split], dtype, stack)
            for split, done in progress.splits.items()
        }

        def finished() -> bool:
            return limits["train"] is not None and all(writers[split].full for split in SPLITS if limits[split])

        chunks = _chunks(corpus.documents(progress.position))
        while not finished() and (chunk := next(chunks, None)):
            wanted = [document for document in chunk if not writers[document.split].full]
            for document, tokens_N in zip(wanted, _encode(vocabulary, wanted), strict=True):
                if not finished():  # checked for each document, so that the tokens do not depend on the chunks
                    writers[document.split].append(tokens_N, vocabulary)
            splits = {split: writer.flush() for split, writer in writers.items()}
            progress = Progress(origin=progress.origin, position=corpus.position(), splits=splits)
            write_atomic(folder / PROGRESS, progress.model_dump_json())
            documents = sum(done.documents for done in splits.values())
            observe(PreparationStep("making tokens", documents, splits["train"].tokens, limits["train"]))
    for split, done in progress.splits.items():
        if done.documents == 0:
            raise LlmbenchError(
                f"the split {split} got no document; raise its share (data.dev_fraction, data.val_fraction), "
                f"or give the corpus more text"
            )
    return progress.splits


def _chunks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """The documents in lists, each with about CHUNK_CHARACTERS characters of text."""
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.content)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode(vocabulary: Vocabulary, documents: Sequence[Document]) -> list[NDArray[np.int64]]:
    texts = [document.content for document in documents if isinstance(document.content, str)]
    if texts:
        return vocabulary.encode(texts)
    return [vocabulary.check(document.content) for document in documents if not isinstance(document.content, str)]


class _SplitWriter:
    """One split's token array. Bytes written after the last checkpoint are cut off when the array is opened."""

    def __init__(self, path: Path, done: SplitProgress, limit: int | None, dtype: str, stack: ExitStack) -> None:
        self.limit, self.dtype = limit, dtype
        self.tokens, self.bytes, self.documents = done.tokens, done.bytes, done.documents
        self.file = stack.enter_context(path.open("a+b"))
        self.file.truncate(self.tokens * int(dtype[-1]))  # this pads a file that is too short, so its digest differs
        self.file.seek(0)
        self.digest = hashlib.file_digest(self.file, "sha256")
        if self.digest.hexdigest() != done.sha256:
            raise _tampered(path)

    @property
    def full(self) -> bool:
        return self.limit is not None and self.tokens >= self.limit

    def append(self, tokens_N: NDArray[np.int64], vocabulary: Vocabulary) -> None:
        """Add a document, unless the split is full."""
        if self.full:
            return
        data = tokens_N.astype(self.dtype).tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.bytes += vocabulary.num_bytes(tokens_N[1:] if self.tokens == 0 else tokens_N)
        self.tokens, self.documents = self.tokens + len(tokens_N), self.documents + 1

    def flush(self) -> SplitProgress:
        """Write everything to the disk. Returns the split's progress."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return SplitProgress(
            sha256=self.digest.hexdigest(), tokens=self.tokens, bytes=self.bytes, documents=self.documents
        )


def _tampered(path: Path) -> LlmbenchError:
    return LlmbenchError(
        f"{path} was changed after the preparation was interrupted; run `llmbench data prepare --force` to start anew"
    )
