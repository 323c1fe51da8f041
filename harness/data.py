"""Corpus -> documents -> three disjoint splits -> tokens in a memory map -> batch(step, seed).

A token array is little-endian uint16: each document is the separator token 0 followed by its text's
tokens. Every token but the array's first is predicted once, so the predicted bytes are exactly the
bytes of the text. Shapes: N tokens, B sequences of a batch, T positions.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import LlmbenchError
from harness.project import sha256
from harness.track import DataSpec, SplitPin, Track

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

SplitName = Literal["train", "dev", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "val")
SEPARATOR = "<|endoftext|>"
SEPARATOR_ID = 0
TOKEN_DTYPE = "<u2"


def derive_seed(*key: object) -> int:
    """A 63-bit seed from any key, so that streams are keyed by purpose and never shared."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Document:
    """One unit of text that is never torn between splits."""

    name: str
    text: str


def load_documents(spec: DataSpec) -> list[Document]:
    """The corpus in its own order. Raises LlmbenchError where the package or a column is missing."""
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
    documents = [Document(name, "\n".join(texts)) for name, *texts in parts]
    if len({document.name for document in documents}) != len(documents):
        raise LlmbenchError(f"{path}: two documents share a name; choose other `document` columns")
    return documents


def _package_file(spec: DataSpec) -> Path:
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


def split_documents(documents: list[Document], spec: DataSpec) -> dict[SplitName, list[Document]]:
    """Disjoint splits by a hash of the document's name, each in corpus order.

    Ranking by hash instead of drawing at random keeps a document in its split when others are added.
    """
    ranked = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
    num_val = round(spec.val_fraction * len(documents))
    num_dev = round(spec.dev_fraction * len(documents))
    members: dict[SplitName, set[str]] = {
        "val": {document.name for document in ranked[:num_val]},
        "dev": {document.name for document in ranked[num_val : num_val + num_dev]},
        "train": {document.name for document in ranked[num_val + num_dev :]},
    }
    return {name: [document for document in documents if document.name in members[name]] for name in SPLITS}


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE: every byte is in its alphabet, so no text is out of vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise LlmbenchError(
            f"the text yields {tokenizer.get_vocab_size()} tokens; set model.vocab_size to that or less"
        )
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each token id stands for; none for the separator.

    Byte-level BPE writes each byte as one printable character (Radford et al., 2019, GPT-2): those
    that are printable as themselves, the others as the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
    table = []
    for token_id in range(tokenizer.get_vocab_size()):
        token = "" if token_id == SEPARATOR_ID else tokenizer.id_to_token(token_id) or ""
        table.append(bytes(byte_of[character] for character in token))
    return table


def encode(tokenizer: Tokenizer, documents: list[Document]) -> NDArray[np.uint16]:
    """Documents -> tokens_N, each document after a separator."""
    import numpy as np

    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast([document.text for document in documents]):
        ids.append(SEPARATOR_ID)
        ids.extend(encoding.ids)
    return np.array(ids, dtype=TOKEN_DTYPE)


def cache_folder(track: Track) -> Path:
    """Where the track's tokens are cached: one folder for each way of making them."""
    import platformdirs

    spec = track.data.model_dump_json(exclude={"train", "dev", "val", "tokenizer_sha256"})
    key = sha256(f"{spec}|{track.model.vocab_size}|1".encode())
    return Path(platformdirs.user_cache_dir("llmbench", appauthor=False)) / "data" / key[:16]


def prepare(track: Track, *, force: bool = False) -> Path:
    """Make the cached tokens if they are not there; return their folder.

    They are written beside their place and renamed into it: whoever comes second, a second process
    included, finds either nothing or everything.

    Raises LlmbenchError where what was made is not what the track pins.
    """
    import filelock

    folder = cache_folder(track)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_suffix(".lock")):
            if force and folder.exists():
                shutil.rmtree(folder)
            if not folder.exists():
                for left in folder.parent.glob(f".{folder.name}.*"):  # by a preparation that was killed
                    shutil.rmtree(left, ignore_errors=True)
                scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
                try:
                    _make(track, scratch)
                    scratch.rename(folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise LlmbenchError(f"cannot write the token cache {folder}: {error.strerror or error}") from error
    return folder


def _make(track: Track, folder: Path) -> None:
    splits = split_documents(load_documents(track.data), track.data)
    tokenizer = train_tokenizer([document.text for document in splits["train"]], track.model.vocab_size)
    serialized = tokenizer.to_str().encode()
    _check_pin(track, "tokenizer_sha256", track.data.tokenizer_sha256, sha256(serialized))
    (folder / "tokenizer.json").write_bytes(serialized)
    table = token_bytes(tokenizer)
    for name, documents in splits.items():
        tokens_N = encode(tokenizer, documents)
        text = "".join(document.text for document in documents).encode()
        if b"".join([table[token] for token in tokens_N.tolist()]) != text:
            raise LlmbenchError(f"the tokens of {name} do not spell its text; this tokenizer cannot be used")
        made = SplitPin(
            sha256=sha256(tokens_N.tobytes()), tokens=len(tokens_N), bytes=len(text), documents=len(documents)
        )
        _check_pin(track, name, getattr(track.data, name), made)
        (folder / f"{name}.bin").write_bytes(tokens_N.tobytes())


def _check_pin(track: Track, key: str, pinned: object, found: object) -> None:
    if pinned != found:
        raise LlmbenchError(
            f"tracks/{track.name}.toml pins data.{key} as {pinned}, but this machine makes {found}; "
            f"check the versions of the tokenizers and {track.data.package} packages"
        )


def open_split(track: Track, name: SplitName) -> NDArray[np.uint16]:
    """tokens_N of one split, memory-mapped and checked against the track's pin.

    Raises LlmbenchError where the cache is missing or differs from the pin.
    """
    import numpy as np

    path = cache_folder(track) / f"{name}.bin"
    pin: SplitPin = getattr(track.data, name)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LlmbenchError(
            f"the cached tokens {path} cannot be read ({error.strerror}); "
            f"run `llmbench data prepare --force --track {track.name}`"
        ) from error
    if found != pin.sha256:
        raise LlmbenchError(
            f"the cached tokens {path} have digest {found[:12]}, the track pins {pin.sha256[:12]}; "
            f"run `llmbench data prepare --force --track {track.name}`"
        )
    tokens_N: Any = np.memmap(path, dtype=TOKEN_DTYPE, mode="r")
    return tokens_N


class Batches:
    """The order in which a run sees the train split: a function of (step, seed) and nothing else.

    Each epoch visits the split's non-overlapping windows of T tokens once, in an order keyed by
    (seed, epoch).
    """

    def __init__(self, tokens_N: NDArray[np.uint16], seq_len: int, batch_sequences: int, seed: int) -> None:
        self.tokens_N, self.seq_len, self.batch_sequences, self.seed = tokens_N, seq_len, batch_sequences, seed
        self.num_windows = (len(tokens_N) - 1) // seq_len
        self._order: tuple[int, Any] = (-1, None)
        if self.num_windows < 1:
            raise LlmbenchError(f"the train split has {len(tokens_N)} tokens, fewer than a sequence of {seq_len}")

    def batch(self, step: int) -> NDArray[np.int64]:
        """tokens_BT1: B windows of T + 1 tokens; inputs are the first T, targets the last T."""
        import numpy as np

        first = step * self.batch_sequences
        rows = [self._window(index) for index in range(first, first + self.batch_sequences)]
        return np.stack(rows).astype(np.int64)

    def _window(self, index: int) -> NDArray[np.uint16]:
        epoch, position = divmod(index, self.num_windows)
        start = int(self._epoch_order(epoch)[position]) * self.seq_len
        return self.tokens_N[start : start + self.seq_len + 1]

    def _epoch_order(self, epoch: int) -> Any:
        import numpy as np

        if self._order[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(derive_seed("order", self.seed, epoch)))
            self._order = (epoch, generator.permutation(self.num_windows))
        return self._order[1]


def eval_batches(tokens_N: NDArray[np.uint16], seq_len: int, sequences: int) -> list[NDArray[np.int64]]:
    """tokens_BT1 batches that predict every token but the first exactly once, in order.

    The last window may be shorter; it is a batch of its own.
    """
    import numpy as np

    num_windows = (len(tokens_N) - 1) // seq_len
    starts = np.arange(num_windows) * seq_len
    index_NT1 = starts[:, None] + np.arange(seq_len + 1)
    batches = [tokens_N[index_NT1[i : i + sequences]].astype(np.int64) for i in range(0, num_windows, sequences)]
    rest = tokens_N[num_windows * seq_len :]
    if len(rest) > 1:
        batches.append(rest[None].astype(np.int64))
    return batches
