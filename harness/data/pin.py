"""Writes the digests and sizes of a track's tokens (the track's pins) into the track's file.

The rest of the file stays as it is.
"""

from __future__ import annotations

from typing import Any

import tomlkit
from tomlkit.items import Table

from harness.core.dataspec import PINS, SplitPin, is_commit
from harness.core.errors import LlmbenchError
from harness.core.project import Project, read_text, write_atomic
from harness.core.track import Track, parse_track
from harness.data.cache import Manifest, read_manifest
from harness.data.hub import resolve_commit
from harness.data.prepare import check_pins, prepare
from harness.data.writer import OnStep


def pin_track(project: Project, track: Track, *, force: bool = False, observe: OnStep = lambda step: None) -> Manifest:
    """Make the track's tokens and write their digests into the track's file. Returns the manifest of the tokens.

    If the file names a branch or a tag of the hub, the name is replaced by the id of its current commit. Raises
    LlmbenchError if the file already states other digests, unless `force` is true.
    """
    moving = {key: state for key, state in track.data.revisions.items() if not is_commit(state.name)}
    commits = {key: resolve_commit(state) for key, state in moving.items()}
    path = project.tracks / f"{track.name}.toml"
    moved = parse_track(path, text=pinned_text(read_text(path), {}, commits))
    bare = track.model_copy(update={"data": moved.data.model_copy(update=dict.fromkeys(PINS))})
    prepare(bare, observe=observe)
    manifest = read_manifest(bare)
    if manifest is None:
        raise LlmbenchError(
            f"the cached tokens of {track.name} were deleted while they were read; "
            f"run `llmbench data pin --track {track.name}` again"
        )
    if not force:
        check_pins(track, manifest.pins)
    pins = {key: _toml(pin) for key, pin in manifest.pins.items()}
    text = pinned_text(read_text(path), pins, commits)
    pinned = bare.model_copy(update={"data": bare.data.model_copy(update=manifest.pins)})
    assert parse_track(path, text=text) == pinned
    write_atomic(path, text)
    return manifest


def pinned_text(text: str, pins: dict[str, str], commits: dict[str, str]) -> str:
    """The text of a track's file with `pins` in its table [data].

    The new pins replace older pins, or are added at the end of the table. `pins` maps a key to its value as TOML.
    `commits` maps the key of a revision to the commit that replaces the revision.
    """
    document = tomlkit.parse(text)
    data: Any = document["data"]
    if "revision" in commits:
        data["revision"] = commits["revision"]
    if "tokenizer.revision" in commits:
        data["tokenizer"]["revision"] = commits["tokenizer.revision"]
    body = data.value.body if isinstance(data, Table) else []
    trailing = []  # comments and blank lines before the next table, which they belong to
    while body and body[-1][0] is None:
        trailing.append(body.pop()[1])
    for key, value in pins.items():
        data[key] = tomlkit.value(value)
    for item in reversed(trailing):
        data.add(item)
    return tomlkit.dumps(document)


def _toml(pin: str | SplitPin) -> str:
    if isinstance(pin, str):
        return f'"{pin}"'
    return f'{{ sha256 = "{pin.sha256}", tokens = {pin.tokens}, bytes = {pin.bytes}, documents = {pin.documents} }}'
