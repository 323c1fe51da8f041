"""Reads the documents of a track's corpus in order, and assigns each document to a split.

`split_of` assigns the documents of a streamed corpus, `split_documents` those of a corpus that fits in memory. Reading
can be interrupted, and continued later at a saved position.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

from harness.core.dataspec import SPLITS, DataSpec, FilesData, HubData, PackageData, SplitName, StreamedData
from harness.core.errors import LlmbenchError
from harness.core.project import CHECKOUT, file_stamp
from harness.data.hub import cache_folders, hub_errors, reason_of, resolve_commit

BAD_ROWS = (ValueError, TypeError, KeyError, NotImplementedError, StopIteration)
"""Exceptions that `datasets` and pyarrow raise for a missing configuration or split, for invalid Parquet, JSON or
UTF-8, for rows of another shape, and (StopIteration) for an empty JSON file."""


class Document(NamedTuple):
    """One document of the corpus. Each document belongs to exactly one split."""

    split: SplitName
    content: str | Sequence[int]
    """Text, or token ids if the corpus is tokenized already."""


class PackageCorpus:
    """The corpus in an installed package: a JSON Lines file, small enough to be held in memory."""

    def __init__(self, spec: PackageData) -> None:
        texts = load_package(spec)
        names = split_documents(texts, spec)
        self._documents = [Document(split, texts[name]) for split in SPLITS for name in names[split]]
        self._next = 0
        self.origin = {spec.package: spec.version}

    def documents(self, position: int | None = None) -> Iterator[Document]:
        self._next = position or 0
        for document in self._documents[self._next :]:
            self._next += 1
            yield document

    def position(self) -> int:
        return self._next


class StreamedCorpus:
    """Rows of a hub repository or of files, streamed by `datasets`. A row is a document."""

    def __init__(self, spec: HubData | FilesData) -> None:
        self.spec = spec
        with _reading(spec):
            rows, self.origin = _open(spec)
            columns = rows.column_names or list(next(iter(rows), {}))
        ids = spec.ids if isinstance(spec, HubData) else None
        self.is_text, self.column = ids is None, ids or spec.text or "text"
        if self.column not in columns:
            raise LlmbenchError(
                f"{spec.title} has no column '{self.column}' (its columns: {', '.join(columns) or 'none'}); correct "
                f"data.{'ids' if ids else 'text'} in the track's file"
            )
        self.rows = rows.select_columns([self.column])

    def documents(self, position: dict[str, Any] | None = None) -> Iterator[Document]:
        if position is not None:
            self.rows.load_state_dict(position)
        with closing(iter(self.rows)) as rows:
            while True:
                with _reading(self.spec):
                    row = next(rows, None)
                if row is None:
                    return
                if content := row[self.column]:  # empty rows are skipped
                    yield Document(split_of(self._bytes(content), self.spec), content)

    def position(self) -> dict[str, Any]:
        return dict(self.rows.state_dict())

    def _bytes(self, content: Any) -> bytes:
        if isinstance(content, str) == self.is_text and isinstance(content, str | list):
            return content.encode() if isinstance(content, str) else repr(content).encode()
        kind = "text" if self.is_text else "lists of tokens"
        raise LlmbenchError(
            f"column '{self.column}' of {self.spec.title} must contain {kind}, found {str(content)[:60]}; name "
            f"another column in the track's file"
        )


Corpus = PackageCorpus | StreamedCorpus
"""`documents(position)` yields the documents from `position`, or from the beginning, and raises LlmbenchError if one
cannot be read. `position()` says how far the corpus was read, as JSON. `origin` names the corpus and its version; a
position is valid only for the same origin."""


def open_corpus(spec: DataSpec) -> Corpus:
    """The corpus of a track. Raises LlmbenchError if the corpus is missing or lacks a column."""
    return PackageCorpus(spec) if isinstance(spec, PackageData) else StreamedCorpus(spec)


def split_of(content: bytes, spec: StreamedData) -> SplitName:
    """The split of a document in a streamed corpus, computed from a hash of the document's content.

    Therefore copies of a document are in the same split, and a document keeps its split when other documents are added
    or removed.
    """
    place = int.from_bytes(hashlib.sha256(content).digest()[:8]) / 2**64
    if place < spec.val_fraction:
        return "val"
    return "dev" if place < spec.val_fraction + spec.dev_fraction else "train"


def _open(spec: HubData | FilesData) -> tuple[Any, dict[str, str]]:
    """Opens a streamed corpus. Returns its rows, and its origin (source -> version)."""
    import datasets

    datasets.disable_progress_bars()
    if isinstance(spec, HubData):
        commit = resolve_commit(spec.revisions["revision"])  # one request; opening would retry for minutes
        files = list(spec.data_files) if spec.data_files else None
        rows = datasets.load_dataset(
            spec.repository, spec.config, data_files=files, split=spec.split, revision=commit, streaming=True
        )
        return rows, {spec.repository: commit}
    builder = "json" if spec.format == "jsonl" else spec.format
    options = {} if spec.document is None else {"sample_by": "document" if spec.document == "file" else spec.document}
    origin = files_origin(spec)
    return datasets.load_dataset(builder, data_files=list(origin), split="train", streaming=True, **options), origin


def files_origin(spec: FilesData) -> dict[str, str]:
    """Path -> size and time of change of each text file, in reading order.

    Raises LlmbenchError if a pattern finds none.
    """
    origin: dict[str, str] = {}
    for pattern in spec.files:
        matches = _matching(pattern)
        if not matches:
            raise LlmbenchError(f"data.files: no file matches {CHECKOUT / pattern}; correct the path or the pattern")
        origin |= {str(path): file_stamp(path) for path in matches}
    return origin


def _matching(pattern: str) -> list[Path]:
    paths = map(Path, sorted(glob.glob(str(CHECKOUT / pattern), recursive=True)))
    return [path.resolve() for path in paths if path.is_file()]


@contextmanager
def _reading(spec: HubData | FilesData) -> Iterator[None]:
    """Context manager: raises a LlmbenchError for what `datasets` raises while it opens or reads a corpus."""
    try:
        with hub_errors(spec.revisions["revision"]) if isinstance(spec, HubData) else nullcontext():
            yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise LlmbenchError(f"{spec.title} cannot be read: {reason_of(error)}; check the files") from error
    except BAD_ROWS as error:
        raise LlmbenchError(
            f"{spec.title} cannot be read as the track describes it: {reason_of(error)}; "
            f"correct the text, or [data] in the track's file"
        ) from error


def load_package(spec: PackageData) -> dict[str, str]:
    """Name -> text of each document, in the order of the corpus.

    Raises LlmbenchError if the package or a column is missing.
    """
    path = _package_file(spec)
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        columns = set.intersection(*map(set, rows))
    except (ValueError, TypeError) as error:
        raise LlmbenchError(f"{path} is not JSON lines ({error}); reinstall {spec.package}") from error
    if missing := {*spec.document, spec.text} - columns:
        raise LlmbenchError(
            f"{path} has no column {', '.join(sorted(missing))}, only {', '.join(sorted(columns))}; "
            f"correct data.document or data.text in the track's file"
        )
    documents: dict[str, str] = {}
    for key, group in itertools.groupby(rows, key=lambda row: [row[column] for column in spec.document]):
        name = " ".join(map(str, key))
        if name in documents:
            raise LlmbenchError(
                f"{path}: two documents have the same values, {name}, in the columns of data.document; choose columns "
                f"whose values together are different for each document"
            )
        documents[name] = "\n".join(row[spec.text] for row in group)
    return documents


def _package_file(spec: PackageData) -> Path:
    """The corpus file of an installed package, found without importing the package."""
    try:
        package = distribution(spec.package)
    except PackageNotFoundError as error:
        raise LlmbenchError(
            f"the package {spec.package} is missing; run `pip install {spec.package}=={spec.version}`"
        ) from error
    if package.version != spec.version:
        raise LlmbenchError(
            f"the track needs {spec.package} {spec.version}, but {package.version} is installed; "
            f"run `pip install {spec.package}=={spec.version}`"
        )
    path = Path(str(package.locate_file(spec.file)))
    if not path.is_file():
        raise LlmbenchError(
            f"{spec.package} {spec.version} does not contain the file {spec.file}; reinstall the package"
        )
    return path


def split_documents(names: Iterable[str], spec: PackageData) -> dict[SplitName, list[str]]:
    """Assigns each document of a corpus in memory to a split, by a hash of its name. Returns split -> names.

    The names of a split are in the corpus's order. The split depends on a hash instead of a random draw, so that most
    documents keep their split when documents are added.
    """
    place = {name: index for index, name in enumerate(names)}
    ranked = sorted(place, key=lambda name: hashlib.sha256(name.encode()).digest())
    num_val, num_dev = round(spec.val_fraction * len(ranked)), round(spec.dev_fraction * len(ranked))
    members = {"val": ranked[:num_val], "dev": ranked[num_val:][:num_dev], "train": ranked[num_val + num_dev :]}
    return {split: sorted(members[split], key=place.__getitem__) for split in SPLITS}


def private_paths(spec: DataSpec) -> list[Path]:
    """Files and folders with the text of the corpus, val included.

    A variant's process must not be able to read them.
    """
    if isinstance(spec, PackageData):
        return package_folders(spec.package)
    files = spec.files if isinstance(spec, FilesData) else ()
    return [*cache_folders(), *(path for pattern in files for path in _matching(pattern))]


def package_folders(package: str) -> list[Path]:
    """The top-level folders and files of an installed package."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return []
    tops = {file.parts[0] for file in found.files or () if file.parts[0] != ".."}
    return [Path(str(found.locate_file(top))).resolve() for top in tops]
