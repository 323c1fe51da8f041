"""`[data]` of a track: the source of the text, how it is split, and the digests that pin it (docs/data.md)."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from harness.core.errors import LlmbenchError
from harness.core.schema import Positive, Sha256, Strict

Repository = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
"""A repository of the Hugging Face hub: `owner/name`."""

SplitName = Literal["train", "dev", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "val")

PINS = ("tokenizer_sha256", *SPLITS)
"""The keys of `[data]` that hold digests of the tokenizer and the tokens."""


OneEach = Field(min_length=len(SPLITS))
"""Annotates a dictionary by SplitName that must have an entry for every split."""


def is_commit(revision: str) -> bool:
    """Whether a revision of the hub is a commit, which unlike a branch or a tag cannot move."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


class Revision(NamedTuple):
    """A state of a repository of the hub."""

    kind: Literal["dataset", "model"]
    repository: str
    name: str
    """Commit, branch or tag."""


class SplitPin(Strict):
    """Digest and sizes that a split must have; a mismatch stops the run."""

    sha256: Sha256
    """Of the token array in the cache; harness/data/cache.py says how it is written."""
    tokens: Positive
    bytes: Positive
    """UTF-8 bytes of the predicted text, the denominator of bits per byte; the array's first token is not predicted."""
    documents: Positive


class TrainedTokenizer(Strict):
    """A byte-level BPE with the model's `vocab_size`, trained on the train split."""

    source: Literal["trained"]
    text_bytes: Positive = 100_000_000
    """Bytes of text that it is trained on (assumption: enough for a vocabulary of 50,000)."""


class HubTokenizer(Strict):
    """The `tokenizer.json` of a model repository of the hub; it must be byte-level."""

    source: Literal["hub"]
    repository: Repository
    revision: str
    """Commit of 40 hexadecimal digits; a branch or a tag only while the track is not pinned."""
    separator: str = "<|endoftext|>"
    """The token before each document of text."""

    @property
    def state(self) -> Revision:
        """The repository at its revision."""
        return Revision("model", self.repository, self.revision)


class Splits(Strict):
    """The keys that every source has: the shares of the splits, and the pins."""

    dev_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the documents for the dev split, which the learning curve is measured on."""
    val_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the documents for the val split, which only the evaluator opens, once."""
    tokenizer_sha256: Sha256 | None = None
    """Of `tokenizer.json` in the cache."""
    train: SplitPin | None = None
    dev: SplitPin | None = None
    val: SplitPin | None = None

    @property
    def pinned(self) -> bool:
        """Whether the pins are there; without them a track can train, but nothing can be filed."""
        return self.tokenizer_sha256 is not None

    @property
    def revisions(self) -> dict[str, Revision]:
        """Key in `[data]` -> each revision of the hub that the tokens depend on."""
        return {}

    def pin(self, split: SplitName) -> SplitPin:
        """The pin of one split. Raises LlmbenchError where there is none."""
        pin: SplitPin | None = getattr(self, split)
        if pin is None:
            raise LlmbenchError(f"the split {split} is not pinned; run `llmbench data pin --track NAME`")
        return pin

    @model_validator(mode="after")
    def _whole_pins_at_commits(self) -> Splits:
        absent = [key for key in PINS if getattr(self, key) is None]
        if absent and len(absent) < len(PINS):
            raise ValueError(f"{', '.join(absent)} missing beside the other pins; `llmbench data pin` writes all four")
        for key, revision in self.revisions.items() if self.pinned else ():
            if not is_commit(revision.name):
                raise ValueError(f"{key} '{revision.name}' may move; a pinned track names a commit of 40 digits")
        return self


class PackageData(Splits):
    """JSON lines inside an installed PyPI package of a fixed version."""

    source: Literal["package"]
    package: str
    version: str
    file: str
    """Path of the JSON lines inside the package."""
    document: tuple[str, ...]
    """Columns whose values name a document; consecutive rows with the same values are one document."""
    text: str
    """Column that holds the text; a document's rows are joined with a line feed."""

    @property
    def title(self) -> str:
        return f"{self.package} {self.version}"


class StreamedData(Splits):
    """A corpus that is read row by row and never held in memory."""

    tokenizer: Annotated[TrainedTokenizer | HubTokenizer, Field(discriminator="source")]
    train_tokens: Positive | None = None
    """Reading ends once the train split has this many tokens; the last document is kept whole. Default: read all."""
    dev_tokens: Positive | None = None
    """The dev split takes no further document once it has this many. Default: its share of what is read."""
    val_tokens: Positive | None = None
    """The same for val. Reading goes on until dev and val have theirs too."""

    @property
    def revisions(self) -> dict[str, Revision]:
        return {"tokenizer.revision": self.tokenizer.state} if isinstance(self.tokenizer, HubTokenizer) else {}


class HubData(StreamedData):
    """Rows of a dataset repository of the Hugging Face hub, streamed."""

    source: Literal["hub"]
    repository: Repository
    revision: str
    """Commit of 40 hexadecimal digits; a branch or a tag only while the track is not pinned."""
    config: str | None = None
    """The repository's configuration, where it has several."""
    data_files: tuple[str, ...] | None = None
    """Patterns of the files to read, instead of a configuration: `data/train-*.parquet`."""
    split: str = "train"
    """The repository's split that is read; train, dev and val are made of it."""
    text: str | None = None
    """Column that holds a document's text."""
    ids: str | None = None
    """Instead of `text`: column that holds tokens made with `tokenizer`. Rows are used as they are, no separators."""

    @property
    def title(self) -> str:
        return f"{self.repository} {self.config or ''}".rstrip() + f" at {self.revision[:12]}"

    @property
    def revisions(self) -> dict[str, Revision]:
        return {"revision": Revision("dataset", self.repository, self.revision), **super().revisions}

    @model_validator(mode="after")
    def _one_column(self) -> HubData:
        if (self.text is None) == (self.ids is None):
            raise ValueError("name one column: `text` for text or `ids` for tokens")
        if self.ids is not None and not isinstance(self.tokenizer, HubTokenizer):
            raise ValueError('`ids` are made with a known tokenizer; name it: tokenizer = { source = "hub", ... }')
        return self


class FilesData(StreamedData):
    """Files on this machine."""

    source: Literal["files"]
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Paths or patterns, absolute or from the checkout's folder; read in the order of the list, matches sorted."""
    format: Literal["text", "jsonl", "parquet"]
    """UTF-8 text, JSON lines or parquet."""
    text: str | None = None
    """Column that holds a document's text; for JSON lines and parquet."""
    document: Literal["file", "paragraph", "line"] | None = None
    """For text: the unit that is one document; a blank line ends a paragraph. Line ends are read as line feeds."""

    @property
    def title(self) -> str:
        return ", ".join(self.files)

    @model_validator(mode="after")
    def _fits_the_format(self) -> FilesData:
        if (self.format == "text") != (self.document is not None) or (self.format == "text") != (self.text is None):
            raise ValueError('`document` goes with format = "text", the column `text` with "jsonl" and "parquet"')
        return self


AnyData = PackageData | HubData | FilesData
"""Each has a `title`: the source in a few words."""
DataSpec = Annotated[AnyData, Field(discriminator="source")]
