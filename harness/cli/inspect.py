"""Commands that list what there is: variants, tracks, and a track's tokens."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harness.cli.options import (
    JsonOption,
    TrackOption,
    complete_tracks,
    complete_variants,
    log,
    open_track,
    prepare_tokens,
    show,
    show_json,
)
from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK, Project
from harness.core.terminal import stderr_console

ForceOption = Annotated[bool, typer.Option("--force", help="Make the tokens again where they are cached already.")]


def complete_commands() -> list[str]:
    """Commands that have a schema, for the shell."""
    from harness.show.documents import DOCUMENTS

    return list(DOCUMENTS)


def variants(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="One variant, with its whole docstring. Default: all.",
            autocompletion=complete_variants,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the variants: what each changes, its source, its cost in statements, what the board says of it."""
    from harness.board.leaderboard import read_board, standings
    from harness.show.describe import variant_facts, variants_table
    from harness.show.documents import VariantEntry, Variants
    from harness.show.tables import facts_table
    from harness.variants.source import VariantSource, read_variant, variant_names

    project = Project.find()
    board, sources, broken = read_board(project), list[VariantSource](), dict[str, str]()
    for one in variant_names(project) if name is None else (name,):
        try:
            sources.append(read_variant(project, one))
        except LlmbenchError as error:
            if name is not None:
                raise
            broken[one] = str(error)
    found = standings(project, board)
    if as_json:
        entries = [
            VariantEntry(
                name=s.name,
                statements=s.cost,
                summary=s.summary,
                sha256=s.digest,
                standings=tuple(found.get(s.name, ())),
            )
            for s in sources
        ]
        show_json(Variants(variants=tuple(entries), broken=broken))
        return
    if name is not None:
        for line in sources[0].docstring.splitlines():
            show(line)
        show("")
        show(facts_table(variant_facts(sources[0], found.get(name, ()))))
        return
    show(variants_table(sources, found))
    for one, reason in broken.items():
        show(f"{one} is refused: {reason}")


def tracks(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="One track, with what others report for it. Default: all.",
            autocompletion=complete_tracks,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tracks: what each is, its budget, who holds it; or show one with its rule and digest."""
    from harness.board.leaderboard import holder_row, read_board
    from harness.core.track import load_track, track_names
    from harness.show.describe import holder_line, reported_table, track_lines, tracks_table
    from harness.show.documents import TrackEntry, Tracks
    from harness.show.tables import facts_table

    project = Project.find()
    board = read_board(project)
    loaded = [load_track(project, one) for one in (track_names(project) if name is None else (name,))]
    holders = [holder_row(project, board, one) for one in loaded]
    if as_json:
        entries = [
            TrackEntry(
                name=one.name,
                digest=one.digest,
                holder=holder.number if holder else None,
                recipe=holder.recipe if holder else None,
                val_loss=holder.val_loss if holder else None,
                track=one,
            )
            for one, holder in zip(loaded, holders, strict=True)
        ]
        show_json(Tracks(tracks=tuple(entries)))
        return
    if name is None:
        show(tracks_table(loaded, holders))
        return
    title, *lines = track_lines(loaded[0])
    show(title, "bold")
    show("")
    facts = [line.partition(": ") for line in (*lines, holder_line(holders[0]))]
    show(facts_table([(name, value) for name, _, value in facts]))
    if loaded[0].reported:
        show("")
        show(reported_table(loaded[0]))
        for source in dict.fromkeys(row.source for row in loaded[0].reported):
            show(f"source: {source}")


def data_prepare(track: TrackOption = DEFAULT_TRACK, force: ForceOption = False, as_json: JsonOption = False) -> None:
    """Split, tokenize and cache a track's text, and check it against the track's digests."""
    from harness.show.documents import DataPrepare

    _, contest_track = open_track(track)
    log(f"preparing the tokens of {track}")
    folder = str(prepare_tokens(contest_track, force=force))
    if as_json:
        show_json(DataPrepare(track=track, cache=folder))
    else:
        show(folder)


def data_pin(
    track: TrackOption = DEFAULT_TRACK,
    force: Annotated[bool, typer.Option("--force", help="Replace the pins that the track has.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a track's tokens and write their digests into its file."""
    from harness.data.pin import pin_track
    from harness.show.documents import DataPin
    from harness.show.live import LivePreparation

    project, contest_track = open_track(track)
    with LivePreparation(stderr_console(), track) as live:
        pinned = pin_track(project, contest_track, force=force, observe=live)
    if as_json:
        show_json(DataPin(track=track, tokenizer_sha256=pinned.tokenizer_sha256, splits=pinned.splits))
    log(f"tracks/{track}.toml is pinned; commit it. `llmbench data info --track {track}` shows what it pins.")


def data_info(
    track: TrackOption = DEFAULT_TRACK,
    check: Annotated[bool, typer.Option("--check", help="Hash every cached split again; opens val, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a track's source and splits: documents, tokens, bytes, digests, and whether they are cached."""
    from harness.core.dataspec import PINS, SPLITS
    from harness.data.cache import cache_folder, open_split, read_manifest, token_dtype, with_found_pins
    from harness.show.documents import DataInfo
    from harness.show.tables import new_table

    _, contest_track = open_track(track)
    folder, manifest, found = cache_folder(contest_track), read_manifest(contest_track), with_found_pins(contest_track)
    if check and manifest is None:
        raise LlmbenchError(f"nothing is cached for {track}; run `llmbench data prepare --track {track}`")
    for split in SPLITS if check else ():
        open_split(found, split, check=True)
    spec = found.data
    pins = {split: spec.pin(split) for split in SPLITS} if spec.pinned else {}
    if as_json:
        show_json(
            DataInfo(
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
    table = new_table(f"{track}: {spec.title}")
    for column in ("split", "documents", "tokens", "bytes", "bytes/token", "sha256"):
        table.add_column(column, justify="left" if column in ("split", "sha256") else "right")
    for split, pin in pins.items():
        cells = (f"{pin.documents:,}", f"{pin.tokens:,}", f"{pin.bytes:,}", f"{pin.bytes / pin.tokens:.3f}")
        table.add_row(split, *cells, pin.sha256[:12])
    show(table)
    if not contest_track.data.pinned:
        show(f"not pinned: it can be trained, but nothing can be filed; `llmbench data pin --track {track}` pins it")
    if manifest is None:
        show(f"not cached yet; `llmbench data prepare --track {track}` makes it")
    else:
        show(f"cached{' and intact' if check else ''}: {folder}")


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can run: its parts, which tracks train here, about how long a run and a verdict take.

    Times come from the runs that are kept under runs/ where there are any of the track; else from the rate at which
    this machine multiplies matrices and the operations that the track takes, which is right within a factor of two.
    """
    from harness.lab.doctor import diagnose
    from harness.show.describe import doctor_lines, outlook_lines, outlook_table
    from harness.show.documents import Doctor, fields_of

    project = Project.find()
    with stderr_console().status("looking at this machine") as status:
        found = diagnose(project, lambda doing: status.update(doing))
    if as_json:
        show_json(Doctor(**fields_of(found)))
        return
    for line in doctor_lines(found):
        show(line)
    show("")
    show(outlook_table(found.tracks))
    show("")
    for line in outlook_lines(found.tracks):
        show(line)


def schema(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="A command, as `run candidate`. Default: all of them.",
            autocompletion=complete_commands,
        ),
    ] = None,
    as_json: JsonOption = False,  # every command takes it; a schema is JSON anyway
) -> None:
    """Print JSON Schema of what a command prints with --json; of all commands where none is named.

    Every document carries `schema_version`. A new field is no new version; a field that goes, or that comes to mean
    something else, is one.
    """
    import json

    from harness.show.documents import DOCUMENTS, Schema, json_schema

    if command:
        sys.stdout.write(json.dumps(json_schema(" ".join(command)), indent=1) + "\n")
    else:
        show_json(Schema(commands={name: json_schema(name) for name in DOCUMENTS}))
