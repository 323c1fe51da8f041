"""Writing a track's pins into its file, and nothing else of it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from harness.core.dataspec import PINS, AnyData, SplitPin, StreamedData, is_commit
from harness.core.errors import LlmbenchError
from harness.core.project import Project, read_text, write_atomic
from harness.core.track import Track, parse_track
from harness.data.cache import Manifest, read_manifest
from harness.data.hub import resolve_commit
from harness.data.prepare import check_pins, prepare
from harness.data.writer import OnStep, ignore_steps

_DATA = re.compile(r"\s*\[data\]\s*(#.*)?")
_TABLE = re.compile(r"\s*\[{1,2}[\w.-]+\]{1,2}\s*(#.*)?")
_REVISION = re.compile(r"\brevision\s*=\s*(\"[^\"]*\"|'[^']*')")
_PIN = re.compile(rf"(?P<key>{'|'.join(PINS)})\s*=[^#]*(?P<comment>#.*)?")


def pin_track(project: Project, track: Track, *, force: bool = False, observe: OnStep = ignore_steps) -> Manifest:
    """Make the track's tokens and write what they are into its file; returns what was made.

    A branch or a tag of the hub becomes the commit that it stands for today. Raises LlmbenchError where the file pins
    something else and not `force`.
    """
    moving = {key: state for key, state in track.data.revisions.items() if not is_commit(state.name)}
    commits = {key: resolve_commit(state) for key, state in moving.items()}
    bare = track.model_copy(update={"data": _bare(track.data, commits)})
    prepare(bare, observe=observe)
    manifest = read_manifest(bare)
    if manifest is None:
        raise LlmbenchError(f"the tokens of {track.name} vanished; run `llmbench data pin --track {track.name}` again")
    if not force:
        check_pins(track, manifest)
    pins = {key: _toml(pin) for key, pin in manifest.pins.items()}
    path = project.tracks / f"{track.name}.toml"
    text = pinned_text(read_text(path), pins, commits)
    if _parse(text, track.name) != bare.model_copy(update={"data": bare.data.model_copy(update=manifest.pins)}):
        values = {key: _toml(commit) for key, commit in commits.items()} | pins
        missing = "; ".join(f"{key} = {value}" for key, value in values.items())
        raise LlmbenchError(f"{path} is laid out in a way that cannot be edited; write below [data]: {missing}")
    write_atomic(path, text)
    return manifest


def _bare(spec: AnyData, commits: dict[str, str]) -> AnyData:
    """`[data]` without pins, at `commits`."""
    changed: dict[str, Any] = dict.fromkeys(PINS)
    if "revision" in commits:
        changed["revision"] = commits["revision"]
    if "tokenizer.revision" in commits and isinstance(spec, StreamedData):
        changed["tokenizer"] = spec.tokenizer.model_copy(update={"revision": commits["tokenizer.revision"]})
    return spec.model_copy(update=changed)


def pinned_text(text: str, pins: dict[str, str], commits: dict[str, str]) -> str:
    """A track file with `pins` in its table [data], in the place of older ones, else behind the table's last key.

    `commits` take the place of the revisions in [data] and in its tokenizer.
    """
    lines = text.rstrip("\n").split("\n")  # a carriage return stays where it is
    start = next((place for place, line in enumerate(lines) if _DATA.fullmatch(line)), len(lines))
    end = next((place for place in range(start + 1, len(lines)) if _TABLE.fullmatch(lines[place])), len(lines))
    while end > start and not lines[end - 1].split("#")[0].strip():
        end -= 1  # what stands there belongs to the next table
    missing = dict(pins)
    for place in range(start, end):
        if found := _PIN.fullmatch(lines[place]):
            comment = f"  {found['comment']}" if found["comment"] else ""
            lines[place] = f"{found['key']} = {missing.pop(found['key'])}{comment}"
    table = ""
    for place, line in enumerate(lines):
        table = line.strip() if _TABLE.fullmatch(line) else table
        if table.startswith(("[data]", "[data.tokenizer]")):
            is_tokenizer = table.startswith("[data.t") or line.lstrip().startswith("tokenizer")
            if commit := commits.get("tokenizer.revision" if is_tokenizer else "revision"):
                code, hash_, comment = line.partition("#")
                lines[place] = _REVISION.sub(f'revision = "{commit}"', code) + hash_ + comment
    lines[end:end] = [f"{key} = {value}" for key, value in missing.items()]
    return "\n".join(lines) + "\n"


def _toml(pin: str | SplitPin) -> str:
    if isinstance(pin, str):
        return f'"{pin}"'
    return f'{{ sha256 = "{pin.sha256}", tokens = {pin.tokens}, bytes = {pin.bytes}, documents = {pin.documents} }}'


def _parse(text: str, name: str) -> Track | None:
    with tempfile.TemporaryDirectory(prefix="llmbench-") as scratch:
        path = Path(scratch) / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        try:
            return parse_track(path)
        except LlmbenchError:
            return None
