"""Commands about a track's tokens: make them, write their digests into the track's file, show them."""

from __future__ import annotations

from typing import Annotated

from harness.cli.options import Json, TrackName, flag, log, open_track, show, show_json
from harness.cli.training import prepare_tokens
from harness.core.dataspec import PINS, SPLITS
from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK
from harness.core.terminal import stderr_console
from harness.data.cache import cache_folder, open_split, read_manifest, token_dtype, with_found_pins
from harness.data.pin import pin_track
from harness.show.documents import DataInfoDocument, DataPinDocument, DataPrepareDocument
from harness.show.live import live_preparation
from harness.show.tables import new_table

ForceOption = Annotated[bool, flag("--force", "Make the tokens again even if they are cached.")]


def data_prepare(track: TrackName = DEFAULT_TRACK, force: ForceOption = False, as_json: Json = False) -> None:
    """Split, tokenize and cache a track's text, and check the tokens against the track's digests."""

    _, contest_track = open_track(track)
    log(f"preparing the tokens of {track}")
    folder = str(prepare_tokens(contest_track, force=force))
    if as_json:
        show_json(DataPrepareDocument(track=track, cache=folder))
    else:
        show(folder)


def data_pin(
    track: TrackName = DEFAULT_TRACK,
    force: Annotated[bool, flag("--force", "Replace digests that the track's file already states.")] = False,
    as_json: Json = False,
) -> None:
    """Split and tokenize a track's text, and write the digests of the tokens into the track's file."""
    project, contest_track = open_track(track)
    with live_preparation(stderr_console(), track) as live:
        pinned = pin_track(project, contest_track, force=force, observe=live)
    if as_json:
        show_json(DataPinDocument(track=track, tokenizer_sha256=pinned.tokenizer_sha256, splits=pinned.splits))
    log(
        f"the digests of the tokens are written into tracks/{track}.toml; commit this file. "
        f"`llmbench data info --track {track}` shows the digests."
    )


def data_info(
    track: TrackName = DEFAULT_TRACK,
    check: Annotated[bool, flag("--check", "Check the digest of every cached split again, val included.")] = False,
    as_json: Json = False,
) -> None:
    """Show a track's text source and, for each split, documents, tokens, bytes, digest, and whether it is cached."""
    _, contest_track = open_track(track)
    folder, manifest, found = cache_folder(contest_track), read_manifest(contest_track), with_found_pins(contest_track)
    if check and manifest is None:
        raise LlmbenchError(
            f"no tokens of {track} are cached, so there is nothing to check; run `llmbench data prepare --track "
            f"{track}`"
        )
    for split in SPLITS if check else ():
        open_split(found, split, check=True)
    spec = found.data
    pins = {split: spec.pin(split) for split in SPLITS} if spec.pinned else {}
    if as_json:
        show_json(
            DataInfoDocument(
                track=track,
                source=spec.model_dump(mode="json", exclude={*PINS}, exclude_none=True),
                pinned=contest_track.data.pinned,
                cache=str(folder),
                cached=manifest is not None,
                checked=check,
                origin=manifest.origin if manifest else {},
                dtype="<u2" if token_dtype(found) == "<u2" else "<u4",
                tokenizer_sha256=spec.tokenizer_sha256,
                splits=pins,
            )
        )
        return
    heads = ("split", "documents", "tokens", "bytes", "bytes/token", "sha256")
    table = new_table(f"{track}: {spec.title}", heads, left=("split", "sha256"))
    for split, pin in pins.items():
        cells = (f"{pin.documents:,}", f"{pin.tokens:,}", f"{pin.bytes:,}", f"{pin.bytes / pin.tokens:.3f}")
        table.add_row(split, *cells, pin.sha256[:12])
    show(table)
    if not contest_track.data.pinned:
        show(
            f"The track's file states no digests: runs can be trained, but not submitted. "
            f"`llmbench data pin --track {track}` writes the digests."
        )
    if manifest is None:
        show(f"The tokens are not cached yet. `llmbench data prepare --track {track}` makes them.")
    else:
        show(f"The tokens are cached{', and their digests are right' if check else ''}: {folder}")
