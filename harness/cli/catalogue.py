"""Commands that list what there is: variants, tracks, and a track's tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import JsonOption, TrackOption, log, open_track, show, show_json
from harness.project import DEFAULT_TRACK, Project


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


def tracks(as_json: JsonOption = False) -> None:
    """List the tracks: model, budget, rule, digest."""
    from harness.report import new_table
    from harness.track import load_track, track_names

    project = Project.find()
    loaded = [load_track(project, name) for name in track_names(project)]
    if as_json:
        show_json({"tracks": [{"digest": one.digest, **one.model_dump(mode="json")} for one in loaded]})
        return
    table = new_table()
    for column in ("track", "what it is", "tokens", "design", "digest"):
        table.add_column(column)
    for one in loaded:
        table.add_row(one.name, one.summary, f"{one.budget.tokens:,}", one.rule.design, one.digest[:12])
    show(table)


def data_prepare(
    track: TrackOption = DEFAULT_TRACK,
    force: Annotated[
        bool, typer.Option("--force", help="Make the tokens again where they are cached already.")
    ] = False,
) -> None:
    """Split, tokenize and cache a track's text, and check it against the track's digests."""
    from harness.data import prepare

    _, contest_track = open_track(track)
    log(f"preparing the tokens of {track}")
    show(str(prepare(contest_track, force=force)))


def data_info(track: TrackOption = DEFAULT_TRACK, as_json: JsonOption = False) -> None:
    """Show a track's splits: documents, tokens, bytes, digests, and whether they are cached."""
    from harness.data import SPLITS, cache_folder, open_split
    from harness.report import new_table

    _, contest_track = open_track(track)
    folder, spec = cache_folder(contest_track), contest_track.data
    cached = folder.exists()
    for split in SPLITS if cached else ():
        open_split(contest_track, split)  # proves the digest
    pins = {split: getattr(spec, split) for split in SPLITS}
    if as_json:
        show_json(
            {
                "track": track,
                "cache": str(folder),
                "cached": cached,
                "splits": {n: p.model_dump() for n, p in pins.items()},
            }
        )
        return
    table = new_table(f"{track}: {spec.package} {spec.version}")
    for column in ("split", "documents", "tokens", "bytes", "bytes/token", "sha256"):
        table.add_column(column, justify="left" if column in ("split", "sha256") else "right")
    for name, pin in pins.items():
        cells = (
            f"{pin.documents:,}",
            f"{pin.tokens:,}",
            f"{pin.bytes:,}",
            f"{pin.bytes / pin.tokens:.3f}",
            pin.sha256[:12],
        )
        table.add_row(name, *cells)
    show(table)
    show(f"cached and intact: {folder}" if cached else "not cached yet; `llmbench data prepare` makes it")
