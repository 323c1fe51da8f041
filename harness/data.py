"""Tokens in a memory map -> batch(step, seed). Which documents they come from: harness/corpus.py.

A token array is little-endian, uint16 where the vocabulary has at most 2**16 tokens, else uint32. Each document of
text is a separator followed by the text's tokens. Every token but the array's first is predicted once.
Shapes: N tokens, B sequences of a batch, T positions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from harness.dataspec import PINS, OneEach, Sha256, SplitName, SplitPin, Strict
from harness.dataspec import SPLITS as SPLITS
from harness.errors import LlmbenchError
from harness.project import file_stamp, sha256
from harness.track import Track

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tokens = NDArray[np.uint16] | NDArray[np.uint32]

MANIFEST = "manifest.json"
HASHED_EACH_TIME = 64 * 2**20
"""Bytes up to which a split is hashed whenever it is opened; above, that would take seconds at every start."""
_LAYOUT = 2  # counts up when the same track gets other files in its cache


class Manifest(Strict):
    """What was made: `manifest.json` beside the cached tokens."""

    tokenizer_sha256: Sha256
    splits: Annotated[dict[SplitName, SplitPin], OneEach]
    stamps: Annotated[dict[SplitName, str], OneEach]
    """`file_stamp` of each array when its digest was taken: as long as it stands, so does the digest."""
    origin: dict[str, str]
    """What the documents come from: commit, files or package."""

    @property
    def pins(self) -> dict[str, Sha256 | SplitPin]:
        """What `[data]` of a track says of these tokens."""
        return {"tokenizer_sha256": self.tokenizer_sha256} | {split: self.splits[split] for split in SPLITS}


def derive_seed(*key: object) -> int:
    """A 63-bit seed from any key, so that streams are keyed by purpose and never shared."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def token_dtype(track: Track) -> str:
    """What a token is on disk: `<u2` or `<u4`."""
    return "<u2" if track.model.vocab_size <= 2**16 else "<u4"


def cache_folder(track: Track) -> Path:
    """Where the track's tokens are cached: one folder for each way of making them."""
    import platformdirs

    spec = track.data.model_dump_json(exclude={*PINS})
    key = sha256(f"{spec}|{track.model.vocab_size}|{_LAYOUT}".encode())
    return Path(platformdirs.user_cache_dir("llmbench", appauthor=False)) / "data" / key[:16]


def read_manifest(track: Track) -> Manifest | None:
    """What the track's cache says that it holds, or None where nothing is cached.

    Raises LlmbenchError where the manifest is broken.
    """
    path = cache_folder(track) / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _broken(track, path, "cannot be read") from error


def with_found_pins(track: Track) -> Track:
    """The track, pinned to what lies in the cache where its file pins nothing.

    So the runs of an unpinned track are told apart by their data, and stay when the track is pinned to it.
    """
    manifest = None if track.data.pinned else read_manifest(track)
    if manifest is None:
        return track
    return track.model_copy(update={"data": track.data.model_copy(update=manifest.pins)})


def open_split(track: Track, name: SplitName, *, check: bool = False) -> Tokens:
    """tokens_N of one split, memory-mapped and checked against the track's pin.

    A large split that has not been touched since its digest was taken is not hashed again, unless `check`.

    Raises LlmbenchError where the cache is missing or differs from the pin.
    """
    import numpy as np

    path, pin = cache_folder(track) / f"{name}.bin", track.data.pin(name)
    try:
        if check or not _vouched_for(track, name, path, pin):
            found = file_digest(path)
            if found != pin.sha256:
                raise _broken(track, path, f"have digest {found[:12]}, the track pins {pin.sha256[:12]}")
        tokens_N: Any = np.memmap(path, dtype=token_dtype(track), mode="r")
    except OSError as error:
        raise _broken(track, path, f"cannot be read ({error.strerror})") from error
    return tokens_N


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


class Batches:
    """The order in which a run sees the train split: a function of (step, seed) and nothing else.

    Each epoch visits the split's non-overlapping windows of T tokens once, in an order keyed by
    (seed, epoch).
    """

    def __init__(self, tokens_N: Tokens, seq_len: int, batch_sequences: int, seed: int) -> None:
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

    def _window(self, index: int) -> Tokens:
        epoch, position = divmod(index, self.num_windows)
        start = int(self._epoch_order(epoch)[position]) * self.seq_len
        return self.tokens_N[start : start + self.seq_len + 1]

    def _epoch_order(self, epoch: int) -> Any:
        import numpy as np

        if self._order[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(derive_seed("order", self.seed, epoch)))
            self._order = (epoch, generator.permutation(self.num_windows))
        return self._order[1]


def eval_batches(tokens_N: Tokens, seq_len: int, sequences: int) -> list[Tokens]:
    """tokens_BT1 batches that predict every token but the first exactly once, in order: views, nothing is copied.

    The last window may be shorter; it is a batch of its own.
    """
    import numpy as np

    num_windows = (len(tokens_N) - 1) // seq_len
    batches: list[Any] = []
    if num_windows:
        windows_NT1 = np.lib.stride_tricks.sliding_window_view(tokens_N, seq_len + 1)[::seq_len]
        batches += [windows_NT1[i : i + sequences] for i in range(0, num_windows, sequences)]
    rest = tokens_N[num_windows * seq_len :]
    if len(rest) > 1:
        batches.append(rest[None])
    return batches
