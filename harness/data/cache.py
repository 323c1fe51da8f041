"""The cache of a track's tokens: memory-mapped arrays, checked against the digests that the track's file states.

A token array is little-endian, uint16 if the vocabulary has at most 2**16 tokens, else uint32. A document is stored as
a separator token followed by the tokens of its text. An evaluation predicts every token but the array's first once.

Letters in shapes: N tokens.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np

from harness.core.dataspec import PINS, SPLITS, OneEach, SplitName, SplitPin
from harness.core.errors import LlmbenchError
from harness.core.project import file_stamp, sha256
from harness.core.schema import Sha256, Strict
from harness.core.track import Track
from harness.data.batches import Tokens

MANIFEST = "manifest.json"

HASHED_EACH_TIME = 64 * 2**20
"""A split of at most this many bytes is hashed whenever it is opened. For a larger one that would take seconds."""

_LAYOUT = 2  # to be increased when the code makes other cached files from the same track


class Manifest(Strict):
    """The file `manifest.json` beside the cached tokens: their digests, sizes and source."""

    tokenizer_sha256: Sha256
    splits: Annotated[dict[SplitName, SplitPin], OneEach]
    stamps: Annotated[dict[SplitName, str], OneEach]
    """Size and time of change of each array (`file_stamp`) when it was hashed. A changed array is hashed again."""
    origin: dict[str, str]
    """Source of the documents with its version: a repository's commit, files or a package."""

    @property
    def pins(self) -> dict[str, Sha256 | SplitPin]:
        """The pins of these tokens, key -> value: the digests and sizes that the track's file states in `[data]`."""
        return {"tokenizer_sha256": self.tokenizer_sha256} | {split: self.splits[split] for split in SPLITS}


def token_dtype(track: Track) -> str:
    """Type of a token on disk: `<u2` (uint16) or `<u4` (uint32)."""
    return "<u2" if track.model.vocab_size <= 2**16 else "<u4"


def cache_folder(track: Track) -> Path:
    """Folder of the track's cached tokens. Its name is a digest of everything that the tokens depend on."""
    import platformdirs

    spec = track.data.model_dump_json(exclude={*PINS})
    key = sha256(f"{spec}|{track.model.vocab_size}|{_LAYOUT}".encode())
    return Path(platformdirs.user_cache_dir("llmbench", appauthor=False)) / "data" / key[:16]


def read_manifest(track: Track) -> Manifest | None:
    """The manifest of the track's cache; None if nothing is cached. Raises LlmbenchError if the file cannot be read."""
    path = cache_folder(track) / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _broken(track, path, "cannot be read") from error


def with_found_pins(track: Track) -> Track:
    """The track or, if its file states no digests of the tokens, a copy with the digests of the cached tokens.

    The digests make it possible to tell runs on different tokens apart. Runs made with the copy stay valid when
    `llmbench data pin` writes these digests into the track's file.
    """
    manifest = None if track.data.pinned else read_manifest(track)
    if manifest is None:
        return track
    return track.model_copy(update={"data": track.data.model_copy(update=manifest.pins)})


def open_split(track: Track, name: SplitName, *, check: bool = False) -> Tokens:
    """The tokens tokens_N of one split, memory-mapped and checked against the digest in the track.

    Without `check`, a large split is not hashed again if its size and time of change are the same as when it was last
    hashed. Raises LlmbenchError if the cache is missing, or if the tokens have another digest than the track states.
    """
    path, pin = cache_folder(track) / f"{name}.bin", track.data.pin(name)
    try:
        if check or not _vouched_for(track, name, path, pin):
            found = file_digest(path)
            if found != pin.sha256:
                raise _broken(track, path, f"have digest {found[:12]}, but the track needs {pin.sha256[:12]}")
        return np.memmap(path, dtype=token_dtype(track), mode="r")
    except OSError as error:
        raise _broken(track, path, f"cannot be read ({error.strerror})") from error


def _vouched_for(track: Track, name: SplitName, path: Path, pin: SplitPin) -> bool:
    if path.stat().st_size <= HASHED_EACH_TIME:
        return False
    manifest = read_manifest(track)
    return manifest is not None and manifest.splits[name] == pin and manifest.stamps[name] == file_stamp(path)


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _broken(track: Track, path: Path, problem: str) -> LlmbenchError:
    return LlmbenchError(
        f"the cached tokens {path} {problem}; run `llmbench data prepare --force --track {track.name}`"
    )
