"""A track's `[data]` table: the source of the text, how it is split, and the digests that pin it (docs/data.md)."""

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
"""Field of a dictionary that must have an entry for every split."""


def is_commit(revision: str) -> bool:
    """Whether a hub revision is a commit. A branch or a tag can change, a commit cannot."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


class Revision(NamedTuple):
    """A repository of the hub at one revision."""

    kind: Literal["dataset", "model"]
    repository: str
    name: str
    """Commit, branch or tag."""


class SplitPin(Strict):
    """The digest and sizes that a split must have. A run stops if they differ."""

    sha256: Sha256
    """Digest of the token array in the cache, which harness/data/cache.py writes."""
    tokens: Positive
    bytes: Positive
    """Number of UTF-8 bytes of the predicted text, for bits per byte. The first token is not predicted."""
    documents: Positive


class TrainedTokenizer(Strict):
    """A byte-level BPE with the model's `vocab_size`, trained on the train split."""

    source: Literal["trained"]
    text_bytes: Positive = 100_000_000
    """Bytes of text on which the tokenizer is trained (assumption: enough for a vocabulary of 50,000)."""


class HubTokenizer(Strict):
    """The `tokenizer.json` of a model repository on the hub. It must be byte-level."""

    source: Literal["hub"]
    repository: Repository
    revision: str
    """Commit of 40 hexadecimal digits; a branch or a tag only while the track is not pinned."""
    separator: str = "<|endoftext|>"
    """The token that is put before each document."""

    @property
    def state(self) -> Revision:
        """The repository at its revision."""
        return Revision("model", self.repository, self.revision)


class Splits(Strict):
    """The keys that every data source has: how the text is split, and the pins."""

    dev_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the documents in the dev split, on which the learning curve is measured."""
    val_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the documents in the val split, which is used once, for the score."""
    tokenizer_sha256: Sha256 | None = None
    """Digest of `tokenizer.json` in the cache."""
    train: SplitPin | None = None
    dev: SplitPin | None = None
    val: SplitPin | None = None

    @property
    def pinned(self) -> bool:
        """Whether the track has pins. Without pins, runs can be trained, but nothing can be filed."""
        return self.tokenizer_sha256 is not None

    @property
    def revisions(self) -> dict[str, Revision]:
        """Key in `[data]` -> hub revision, for each revision that the tokens depend on."""
        return {}

    def pin(self, split: SplitName) -> SplitPin:
        """The pin of one split. Raises LlmbenchError if the track does not pin this split."""
        pin: SplitPin | None = getattr(self, split)
        if pin is None:
            raise LlmbenchError(
                f"the track does not pin the tokens of its split {split}; run `llmbench data pin --track NAME`"
            )
        return pin

    @model_validator(mode="after")
    def _whole_pins_at_commits(self) -> Splits:
        absent = [key for key in PINS if getattr(self, key) is None]
        if absent and len(absent) < len(PINS):
            raise ValueError(
                f"the pins {', '.join(absent)} are missing; run `llmbench data pin --track NAME`, which writes all four"
            )
        for key, revision in self.revisions.items() if self.pinned else ():
            if not is_commit(revision.name):
                raise ValueError(
                    f"{key} '{revision.name}' can move; in a pinned track it must be a commit of 40 hexadecimal digits"
                )
        return self


class PackageData(Splits):
    """JSON lines inside an installed PyPI package of a fixed version."""

    source: Literal["package"]
    package: str
    version: str
    file: str
    """Path of the JSON lines inside the package."""
    document: tuple[str, ...]
    """Columns that identify a document: consecutive rows with equal values in them are one document."""
    text: str
    """Column that holds the text; the rows of a document are joined with line feeds."""

    @property
    def title(self) -> str:
        return f"{self.package} {self.version}"


class StreamedData(Splits):
    """A corpus that is read one row at a time, because it may not fit into memory."""

    tokenizer: Annotated[TrainedTokenizer | HubTokenizer, Field(discriminator="source")]
    train_tokens: Positive | None = None
    """Reading stops when the train split has this many tokens. The last document is kept whole. Default: read all."""
    dev_tokens: Positive | None = None
    """The dev split gets no more documents once it has this many tokens. Default: its share of what is read."""
    val_tokens: Positive | None = None
    """The same for the val split. Reading goes on until dev and val have their tokens too."""

    @property
    def revisions(self) -> dict[str, Revision]:
        return {"tokenizer.revision": self.tokenizer.state} if isinstance(self.tokenizer, HubTokenizer) else {}


class HubData(StreamedData):
    """Rows streamed from a dataset repository on the Hugging Face hub."""

    source: Literal["hub"]
    repository: Repository
    revision: str
    """Commit of 40 hexadecimal digits; a branch or a tag only while the track is not pinned."""
    config: str | None = None
    """Name of the dataset's configuration, if the repository has several."""
    data_files: tuple[str, ...] | None = None
    """Patterns of the files to read, such as `data/train-*.parquet`; they take the place of `config`."""
    split: str = "train"
    """The repository's split to read. Train, dev and val are all made from it."""
    text: str | None = None
    """Column that holds a document's text."""
    ids: str | None = None
    """Column that holds tokens made with `tokenizer`; it takes the place of `text`. No separator is added to them."""

    @property
    def title(self) -> str:
        return f"{self.repository} {self.config or ''}".rstrip() + f" at {self.revision[:12]}"

    @property
    def revisions(self) -> dict[str, Revision]:
        return {"revision": Revision("dataset", self.repository, self.revision), **super().revisions}

    @model_validator(mode="after")
    def _one_column(self) -> HubData:
        if (self.text is None) == (self.ids is None):
            raise ValueError("give one column, either `text` for text or `ids` for tokens")
        if self.ids is not None and not isinstance(self.tokenizer, HubTokenizer):
            raise ValueError('`ids` need the tokenizer that made them; write tokenizer = { source = "hub", ... }')
        return self


class FilesData(StreamedData):
    """Files on this machine."""

    source: Literal["files"]
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Paths or patterns, absolute or relative to the checkout, read in this order. A pattern's matches are sorted."""
    format: Literal["text", "jsonl", "parquet"]
    """UTF-8 text, JSON lines or parquet."""
    text: str | None = None
    """Column that holds a document's text; for JSON lines and parquet."""
    document: Literal["file", "paragraph", "line"] | None = None
    """What counts as one document in a text file. A blank line ends a paragraph. All line ends become line feeds."""

    @property
    def title(self) -> str:
        return ", ".join(self.files)

    @model_validator(mode="after")
    def _fits_the_format(self) -> FilesData:
        if (self.format == "text") != (self.document is not None) or (self.format == "text") != (self.text is None):
            raise ValueError(
                'format = "text" needs `document` and no `text`; "jsonl" and "parquet" need the column `text`'
            )
        return self


AnyData = PackageData | HubData | FilesData
"""Any data source. Each has a `title` that names it in a few words."""
DataSpec = Annotated[AnyData, Field(discriminator="source")]
