"""Commands that list what there is: variants, tracks, and a track's tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import (
    JsonOption,
    TrackOption,
    log,
    open_track,
    prepare_tokens,
    show,
    show_json,
    stderr_console,
)
from harness.errors import LlmbenchError
from harness.project import DEFAULT_TRACK, Project

ForceOption = Annotated[bool, typer.Option("--force", help="Make the tokens again where they are cached already.")]


def variants(as_json: JsonOption = False) -> None:
    """List the variants: what each changes, its source, its cost in statements."""
    from harness.report import new_table
    from harness.sources import read_variant, variant_names

    project = Project.find()
    sources = [read_variant(project, name) for name in variant_names(project)]
    if as_json:
        show_json(
            {
                "variants": [
                    {"name": s.name, "statements": s.cost, "summary": s.summary, "sha256": s.digest} for s in sources
                ]
            }
        )
        return
    table = new_table()
    for column in ("variant", "statements", "change and source"):
        table.add_column(column)
    for source in sources:
        table.add_row(source.name, str(source.cost), source.summary)
    show(table)


def tracks(
    name: Annotated[str | None, typer.Argument(help="One track, with what others report for it. Default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tracks: model, budget, rule, digest; or show one."""
    from harness.describe import reported_table, track_lines
    from harness.report import new_table
    from harness.track import load_track, track_names

    project = Project.find()
    loaded = [load_track(project, one) for one in (track_names(project) if name is None else (name,))]
    if as_json:
        show_json({"tracks": [{"digest": one.digest, **one.model_dump(mode="json")} for one in loaded]})
        return
    if name is not None:
        for line in track_lines(loaded[0]):
            show(line)
        if loaded[0].reported:
            show(reported_table(loaded[0]))
            for source in dict.fromkeys(row.source for row in loaded[0].reported):
                show(f"source: {source}")
        return
    table = new_table()
    for column in ("track", "what it is", "tokens", "device", "design", "digest"):
        table.add_column(column)
    for one in loaded:
        cells = (f"{one.budget.tokens:,}", one.device, one.rule.design, one.digest[:12])
        table.add_row(one.name, one.summary, *cells)
    show(table)


def data_prepare(track: TrackOption = DEFAULT_TRACK, force: ForceOption = False) -> None:
    """Split, tokenize and cache a track's text, and check it against the track's digests."""
    _, contest_track = open_track(track)
    log(f"preparing the tokens of {track}")
    show(str(prepare_tokens(contest_track, force=force)))


def data_pin(
    track: TrackOption = DEFAULT_TRACK,
    force: Annotated[bool, typer.Option("--force", help="Replace the pins that the track has.")] = False,
) -> None:
    """Make a track's tokens and write their digests into its file."""
    from harness.live import LivePreparation
    from harness.pin import pin_track

    project, contest_track = open_track(track)
    with LivePreparation(stderr_console(), track) as live:
        pin_track(project, contest_track, force=force, observe=live)
    log(f"tracks/{track}.toml is pinned; commit it. `llmbench data info --track {track}` shows what it pins.")


def data_info(
    track: TrackOption = DEFAULT_TRACK,
    check: Annotated[bool, typer.Option("--check", help="Hash every cached split again; opens val, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a track's source and splits: documents, tokens, bytes, digests, and whether they are cached."""
    from harness.data import cache_folder, open_split, read_manifest, token_dtype, with_found_pins
    from harness.dataspec import PINS, SPLITS
    from harness.report import new_table

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
            {
                "track": track,
                "source": spec.model_dump(mode="json", exclude={*PINS}, exclude_none=True),
                "pinned": contest_track.data.pinned,
                "cache": str(folder),
                "cached": manifest is not None,
                "checked": check,
                "origin": manifest.origin if manifest else {},
                "dtype": token_dtype(found),
                "tokenizer_sha256": spec.tokenizer_sha256,
                "splits": {split: pin.model_dump() for split, pin in pins.items()},
            }
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
