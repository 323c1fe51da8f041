"""Token arrays that grow chunk by chunk in a folder, and survive an interruption.

After each chunk of documents `progress.json` says how far they are. Whoever starts again cuts them off there and
goes on, so that the tokens are the same as if nobody had stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

from harness.core.dataspec import SPLITS, OneEach, SplitName
from harness.core.errors import LlmbenchError
from harness.core.project import sha256, write_atomic
from harness.core.schema import Count, Sha256, Strict
from harness.data.corpus import Corpus, Document
from harness.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_CHARACTERS = 4_000_000
"""Text between two checkpoints, a second or two of work; of a row of tokens, a character a token."""

PROGRESS = "progress.json"


class Made(Strict):
    """What there is of one split so far."""

    sha256: Sha256 = sha256(b"")
    tokens: Count = 0
    bytes: Count = 0
    documents: Count = 0


class Progress(Strict):
    """Where a preparation stands; what was written after it does not count."""

    origin: dict[str, str]
    """What the documents come from, see `Corpus.origin`; and the version of the library that the position is of."""
    position: Any
    """Of the corpus, see `Corpus.position`; None at its beginning."""
    splits: Annotated[dict[SplitName, Made], OneEach]


@dataclass(frozen=True)
class PreparationStep:
    """News for whoever waits."""

    doing: str
    documents: int
    tokens: int
    of: int | None
    """Tokens after which reading ends, where the track says."""


OnStep = Callable[[PreparationStep], None]


def ignore_steps(step: PreparationStep) -> None:
    """The observer for whoever does not watch."""


def begin(folder: Path, corpus: Corpus) -> Progress:
    """Where an earlier attempt stopped; where it read something else, or there was none, the folder is emptied.

    Raises LlmbenchError where the progress cannot be read.
    """
    origin = {**corpus.origin, "datasets": version("datasets")}  # a position is the library's
    path = folder / PROGRESS
    try:
        found = Progress.model_validate_json(path.read_bytes()) if path.exists() else None
    except ValueError as error:
        raise _tampered(path) from error
    if found is not None and found.origin == origin:
        return found
    shutil.rmtree(folder)
    folder.mkdir()
    fresh = Progress(origin=origin, position=None, splits={split: Made() for split in SPLITS})
    write_atomic(path, fresh.model_dump_json())
    return fresh


def grow(
    folder: Path,
    corpus: Corpus,
    vocabulary: Vocabulary,
    limits: Mapping[SplitName, int | None],
    dtype: str,
    observe: OnStep,
) -> dict[SplitName, Made]:
    """Write each split's tokens as SPLIT.bin, in the corpus's order, until those with a limit are full.

    Without a limit for train the whole corpus is read. Raises LlmbenchError where a split got no document.
    """
    progress = begin(folder, corpus)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(_Writer(folder / f"{split}.bin", made, limits[split], dtype))
            for split, made in progress.splits.items()
        }

        def finished() -> bool:
            return limits["train"] is not None and all(writers[split].full for split in SPLITS if limits[split])

        for chunk in () if finished() else _chunks(corpus.documents(progress.position)):
            wanted = [document for document in chunk if not writers[document.split].full]
            for document, tokens_N in zip(wanted, _encode(vocabulary, wanted), strict=True):
                if not finished():  # in the middle of a chunk too: what is made must not depend on the chunks
                    writers[document.split].append(tokens_N, vocabulary)
            splits = {split: writer.flush() for split, writer in writers.items()}
            progress = Progress(origin=progress.origin, position=corpus.position(), splits=splits)
            write_atomic(folder / PROGRESS, progress.model_dump_json())
            documents = sum(made.documents for made in splits.values())
            observe(PreparationStep("making tokens", documents, splits["train"].tokens, limits["train"]))
            if finished():
                break
    for split, made in progress.splits.items():
        if made.documents == 0:
            raise LlmbenchError(f"the split {split} got no document; raise its share, or give the corpus more text")
    return progress.splits


def _chunks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about CHUNK_CHARACTERS."""
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


class _Writer:
    """One split's array. What a checkpoint has seen stays, what was written after it is cut off on entering."""

    def __init__(self, path: Path, made: Made, limit: int | None, dtype: str) -> None:
        self.path, self.made, self.limit, self.dtype = path, made, limit, dtype

    def __enter__(self) -> _Writer:
        self.path.touch()
        size = self.made.tokens * int(self.dtype[-1])
        if self.path.stat().st_size < size:
            raise _tampered(self.path)
        os.truncate(self.path, size)
        with self.path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256")
        if self.digest.hexdigest() != self.made.sha256:
            raise _tampered(self.path)
        self.tokens, self.bytes, self.documents = self.made.tokens, self.made.bytes, self.made.documents
        self.file = self.path.open("ab")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

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
        predicted_N = tokens_N[1:] if self.tokens == 0 else tokens_N
        self.tokens, self.documents = self.tokens + len(tokens_N), self.documents + 1
        self.bytes += vocabulary.num_bytes(predicted_N)

    def flush(self) -> Made:
        """Bring everything to the disk; what there is now."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return Made(
            sha256=self.digest.copy().hexdigest(), tokens=self.tokens, bytes=self.bytes, documents=self.documents
        )


def _tampered(path: Path) -> LlmbenchError:
    return LlmbenchError(
        f"{path} was changed since the preparation stopped; run `llmbench data prepare --force` to start it again"
    )
