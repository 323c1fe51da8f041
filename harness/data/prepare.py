"""Makes the cache of a track's tokens from its corpus, and checks the tokens against the digests in the track's file.

The cache's folder gets its name, KEY, only when it is complete. Until then it is called `KEY.partial/`
(harness/data/writer.py).
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.core.dataspec import SPLITS, FilesData, HubTokenizer, PackageData, SplitName, SplitPin, StreamedData
from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.project import file_stamp, sha256, write_atomic
from harness.core.track import Track
from harness.data.cache import MANIFEST, Manifest, cache_folder, file_digest, read_manifest, token_dtype
from harness.data.corpus import Corpus, files_origin, open_corpus
from harness.data.hub import fetch_tokenizer
from harness.data.vocabulary import SEPARATOR, Vocabulary, load_tokenizer, train_tokenizer
from harness.data.writer import PROGRESS, OnStep, PreparationStep, resume, write_splits

TOKENIZER = "tokenizer.json"


def prepare(track: Track, *, force: bool = False, observe: OnStep = lambda step: None) -> Path:
    """Make the track's cached tokens if they are missing. Returns their folder.

    The tokens are made in a temporary folder, which is renamed at the end, so that other processes find all tokens or
    none. If the track's file states no digests, the tokens are made again if the text files have changed. Raises
    LlmbenchError if the tokens differ from the digests that the track's file states, and InterruptedRunError on Ctrl-C.
    """
    import filelock

    folder = cache_folder(track)
    partial = folder.with_suffix(".partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_suffix(".lock")):
            if force:
                shutil.rmtree(partial, ignore_errors=True)
            if force or not (folder / MANIFEST).exists() or _outdated(track):
                shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                partial.mkdir(exist_ok=True)
                _make(track, partial, observe)
                partial.rename(folder)
            _renew_stamps(track)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "interrupted; the tokens made so far are kept; run the same command again to continue"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise LlmbenchError(
                f"cannot write the token cache {folder}: {error.strerror or error}; fix the folder's permissions"
            ) from error
        raise LlmbenchError(
            f"the disk of {folder.parent} is full; free space, or set XDG_CACHE_HOME to a folder on another disk, "
            f"and run the same command again; the tokens made so far are kept"
        ) from error
    if (manifest := read_manifest(track)) is not None:
        check_pins(track, manifest.pins)
    return folder


def check_pins(track: Track, made: Mapping[str, SplitPin | str]) -> None:
    """Raises LlmbenchError if `made`, the digests and sizes of the new tokens, differs from the track's file."""
    what = f"and {track.data.package} packages" if isinstance(track.data, PackageData) else "package and the corpus"
    for key, found in made.items():
        pinned = getattr(track.data, key)
        if pinned is not None and pinned != found:
            raise LlmbenchError(
                f"tracks/{track.name}.toml states that data.{key} is {pinned}, but for the tokens made on this "
                f"machine it is {found}; check the versions of the tokenizers {what}, then run `llmbench data prepare "
                f"--force --track {track.name}`"
            )


def _outdated(track: Track) -> bool:
    """Whether the track's file states no digests, and the text files have changed since the tokens were made."""
    manifest = None if track.data.pinned else read_manifest(track)
    return manifest is not None and isinstance(track.data, FilesData) and manifest.origin != files_origin(track.data)


def _renew_stamps(track: Track) -> None:
    """Hash the splits whose stamp (size and time of change) has changed, for example in a copied cache.

    If the content is the same, the new stamps are saved, so that no run needs to hash these splits again.
    """
    manifest, paths = read_manifest(track), {split: cache_folder(track) / f"{split}.bin" for split in SPLITS}
    if manifest is None or not all(path.exists() for path in paths.values()):
        return  # opening a split reports the error
    stamps = {split: file_stamp(path) for split, path in paths.items()}
    touched = [split for split in SPLITS if stamps[split] != manifest.stamps[split]]
    if touched and all(file_digest(paths[split]) == manifest.splits[split].sha256 for split in touched):
        renewed = manifest.model_copy(update={"stamps": stamps})
        write_atomic(cache_folder(track) / MANIFEST, renewed.model_dump_json(indent=1))


def _make(track: Track, folder: Path, observe: OnStep) -> None:
    """Fill `folder` with the tokenizer, the tokens of the three splits and the manifest.

    If an earlier attempt was interrupted, this continues where it stopped.
    """
    _check_space(track, folder)
    corpus = open_corpus(track.data)
    resume(folder, corpus)  # first, because it may empty the folder
    vocabulary = _make_vocabulary(track, corpus, folder, observe)
    made = write_splits(folder, corpus, vocabulary, _limits(track), token_dtype(track), observe)
    manifest = Manifest(
        tokenizer_sha256=file_digest(folder / TOKENIZER),
        splits={split: SplitPin(**one.model_dump()) for split, one in made.items()},
        stamps={split: file_stamp(folder / f"{split}.bin") for split in SPLITS},
        origin=corpus.origin,
    )
    try:
        check_pins(track, manifest.pins)
    except LlmbenchError:
        shutil.rmtree(folder)
        raise
    (folder / PROGRESS).unlink()
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1))


def _check_space(track: Track, folder: Path) -> None:
    """Raises LlmbenchError if the disk has no room for the tokens that the track asks for."""
    needed = sum(limit or 0 for limit in _limits(track).values()) * int(token_dtype(track)[-1])
    needed -= sum(path.stat().st_size for path in folder.glob("*.bin"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LlmbenchError(
            f"the tokens of {track.name} need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in "
            f"{folder.parent}; free space, or set XDG_CACHE_HOME to a folder on another disk"
        )


def _limits(track: Track) -> dict[SplitName, int | None]:
    """Split -> number of tokens after which the split is full; None if it has no limit."""
    return {split: getattr(track.data, f"{split}_tokens", None) for split in SPLITS}


def _make_vocabulary(track: Track, corpus: Corpus, folder: Path, observe: OnStep) -> Vocabulary:
    """The tokenizer that the track names or, if it names none, a new one that is trained. It is saved in `folder`."""
    path = folder / TOKENIZER
    spec = track.data.tokenizer if isinstance(track.data, StreamedData) else None
    if isinstance(spec, HubTokenizer):
        name, separator = f"the tokenizer of {spec.repository}", spec.separator
        if not path.exists():
            write_atomic(path, fetch_tokenizer(spec.state))
    else:
        name, separator = "the trained tokenizer", SEPARATOR
        if not path.exists():
            texts = _training_texts(corpus, spec.text_bytes if spec else None, observe)
            write_atomic(path, train_tokenizer(texts, track.model.vocab_size).to_str())
    serialized = path.read_bytes()
    check_pins(track, {"tokenizer_sha256": sha256(serialized)})
    vocabulary = Vocabulary(load_tokenizer(serialized, name), separator, name)
    if len(vocabulary.table) > track.model.vocab_size:
        raise LlmbenchError(
            f"{name} has {len(vocabulary.table)} tokens, more than model.vocab_size, {track.model.vocab_size}; "
            f"set model.vocab_size to {len(vocabulary.table)}"
        )
    return vocabulary


def _training_texts(corpus: Corpus, text_bytes: int | None, observe: OnStep) -> Iterator[str]:
    """Yields texts of the train split until they have `text_bytes` bytes together; None stands for all texts."""
    seen = 0
    for count, document in enumerate(corpus.documents()):
        if document.split == "train" and isinstance(document.content, str):
            seen += len(document.content.encode())
            yield document.content
        if text_bytes is not None and seen >= text_bytes:
            return
        if count % 1000 == 0:
            observe(PreparationStep("reading text for the tokenizer", count, 0, None))
