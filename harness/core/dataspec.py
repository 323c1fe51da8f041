"""A track's `[data]` table: the source of the text, how it is split, and the digests of its tokens (docs/data.md)."""

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
"""The keys of `[data]` that fix the tokenizer and each split's tokens by their SHA-256 (the pins)."""


OneEach = Field(min_length=len(SPLITS))
"""Marks a dictionary field that must have an entry for each of the three splits."""


def is_commit(revision: str) -> bool:
    """Whether a hub revision is the id of a commit. A branch or a tag can change; a commit cannot change."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


class Revision(NamedTuple):
    """A repository of the hub at one revision."""

    kind: Literal["dataset", "model"]
    repository: str
    name: str
    """Commit, branch or tag."""


class SplitPin(Strict):
    """The digest and sizes that a split must have. A run stops if its tokens have another digest or other sizes."""

    sha256: Sha256
    """SHA-256 of the split's token file in the cache (format: harness/data/cache.py)."""
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
    """Id of a commit. A branch or a tag is allowed as long as the track states no digests of its tokens."""
    separator: str = "<|endoftext|>"
    """The token that is put before each document."""

    @property
    def state(self) -> Revision:
        """The model repository at `revision`."""
        return Revision("model", self.repository, self.revision)


class Splits(Strict):
    """The keys that every data source has: how the text is split, and the digests of its tokens."""

    dev_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the documents in the dev split, on which the learning curve is measured."""
    val_fraction: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the documents in the val split, on which a model is scored once, after training."""
    tokenizer_sha256: Sha256 | None = None
    """SHA-256 of `tokenizer.json` in the cache."""
    train: SplitPin | None = None
    dev: SplitPin | None = None
    val: SplitPin | None = None

    @property
    def pinned(self) -> bool:
        """Whether the track states the digests of its tokens. Without these digests, runs can be trained, but not
        submitted."""
        return self.tokenizer_sha256 is not None

    @property
    def revisions(self) -> dict[str, Revision]:
        """Key in `[data]` -> repository and revision, for each hub repository that the tokens depend on."""
        return {}

    def pin(self, split: SplitName) -> SplitPin:
        """The digest and sizes that the track states for one split. Raises LlmbenchError if the track states no
        digest."""
        pin: SplitPin | None = getattr(self, split)
        if pin is None:
            raise LlmbenchError(
                f"the track's file lacks data.{split}, the digest (SHA-256 hash) of the tokens of {split}; run "
                f"`llmbench data pin --track NAME`, which adds it"
            )
        return pin

    @model_validator(mode="after")
    def _whole_pins_at_commits(self) -> Splits:
        absent = [key for key in PINS if getattr(self, key) is None]
        if absent and len(absent) < len(PINS):
            raise ValueError(
                f"the digests {', '.join(absent)} are missing; run `llmbench data pin --track NAME`, which writes all "
                f"four digests ({', '.join(PINS)})"
            )
        for key, revision in self.revisions.items() if self.pinned else ():
            if not is_commit(revision.name):
                raise ValueError(
                    f"{key} '{revision.name}' is not the id of a commit, so its content can change; a track whose "
                    f"file states digests needs the id of a commit here, 40 hexadecimal digits"
                )
        return self


class PackageData(Splits):
    """A JSON Lines file inside an installed PyPI package of a fixed version."""

    source: Literal["package"]
    package: str
    version: str
    file: str
    """Path of the file inside the package."""
    document: tuple[str, ...]
    """Columns that identify a document. Consecutive rows with the same values in these columns form one document."""
    text: str
    """Column that holds the text. The rows of a document are joined with line feeds."""

    @property
    def title(self) -> str:
        return f"{self.package} {self.version}"


class StreamedData(Splits):
    """A corpus that is read one row at a time, because it may not fit into memory."""

    tokenizer: Annotated[TrainedTokenizer | HubTokenizer, Field(discriminator="source")]
    train_tokens: Positive | None = None
    """Number of tokens after which the train split is full. The last document is not cut. Default: no limit."""
    dev_tokens: Positive | None = None
    """Number of tokens after which the dev split is full. Default: no limit."""
    val_tokens: Positive | None = None
    """Number of tokens after which the val split is full. Default: no limit.

    If train has a limit, reading stops when all splits with a limit are full. Otherwise the whole corpus is read.
    """

    @property
    def revisions(self) -> dict[str, Revision]:
        return {"tokenizer.revision": self.tokenizer.state} if isinstance(self.tokenizer, HubTokenizer) else {}


class HubData(StreamedData):
    """Rows streamed from a dataset repository on the Hugging Face hub."""

    source: Literal["hub"]
    repository: Repository
    revision: str
    """Id of a commit. A branch or a tag is allowed as long as the track states no digests of its tokens."""
    config: str | None = None
    """Name of the dataset's configuration, if the repository has several."""
    data_files: tuple[str, ...] | None = None
    """Patterns of the files to read, such as `data/train-*.parquet`, instead of `config`."""
    split: str = "train"
    """The repository's split to read. The track's train, dev and val splits are all made from it."""
    text: str | None = None
    """Column that holds a document's text."""
    ids: str | None = None
    """Column that holds a document's token ids, made with `tokenizer`, instead of `text`. No separator is added."""

    @property
    def title(self) -> str:
        return f"{self.repository} {self.config or ''}".rstrip() + f" at {self.revision[:12]}"

    @property
    def revisions(self) -> dict[str, Revision]:
        return {"revision": Revision("dataset", self.repository, self.revision), **super().revisions}

    @model_validator(mode="after")
    def _one_column(self) -> HubData:
        if (self.text is None) == (self.ids is None):
            raise ValueError(
                "name exactly one column of the data set: as `text` if it contains text, or as `ids` if it contains "
                "token ids"
            )
        if self.ids is not None and not isinstance(self.tokenizer, HubTokenizer):
            raise ValueError(
                "`ids` needs the tokenizer that made the token ids; "
                'write tokenizer = { source = "hub", repository = "...", revision = "..." }'
            )
        return self


class FilesData(StreamedData):
    """Text files, JSON Lines files or Parquet files on this machine."""

    source: Literal["files"]
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Paths or patterns, absolute or relative to the checkout, read in this order. Matches of a pattern are sorted."""
    format: Literal["text", "jsonl", "parquet"]
    """`text` is UTF-8 text, `jsonl` is JSON Lines."""
    text: str | None = None
    """Column that holds a document's text; only for JSON Lines and Parquet."""
    document: Literal["file", "paragraph", "line"] | None = None
    """What counts as one document in a text file. A blank line ends a paragraph. All line ends become line feeds."""

    @property
    def title(self) -> str:
        return ", ".join(self.files)

    @model_validator(mode="after")
    def _fits_the_format(self) -> FilesData:
        if (self.format == "text") != (self.document is not None) or (self.format == "text") != (self.text is None):
            raise ValueError(
                'with format = "text" give `document` and leave `text` out; '
                'with "jsonl" or "parquet" give `text`, the column\'s name, and leave `document` out'
            )
        return self


AnyData = PackageData | HubData | FilesData
"""Any data source. Each has a `title` that names it in a few words."""
DataSpec = Annotated[AnyData, Field(discriminator="source")]
