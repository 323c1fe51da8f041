"""Commands that show variants, tracks, this machine, and the schemas of the JSON documents."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from rich.text import Text

from harness.board.leaderboard import holder_row, read_board, standings
from harness.cli.options import Json, argument, complete_tracks, complete_variants, log, show, show_json
from harness.cli.training import prepare_tokens
from harness.core.errors import InterruptedRunError, LlmbenchError, without_log
from harness.core.project import DEFAULT_TRACK, Project
from harness.core.runs import RunFailedError
from harness.core.terminal import patiently, stderr_console
from harness.core.track import load_track, track_names
from harness.lab.doctor import diagnose
from harness.lab.history import unfiled_standings
from harness.lab.store import RunStore
from harness.show import describe, documents
from harness.show.tables import facts_table
from harness.variants.source import VariantSource, read_variant, variant_names


def variants(
    name: Annotated[
        str | None, argument("NAME", "Show this variant, with its docstring. Default: list all.", complete_variants)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the variants: what each changes, its source, its cost in statements, and its verdicts, submitted or not."""
    project = Project.find()
    board, sources, broken = read_board(project), list[VariantSource](), dict[str, str]()
    for one in variant_names(project) if name is None else (name,):
        try:
            sources.append(read_variant(project, one))
        except LlmbenchError as error:
            if name is not None:
                raise
            broken[one] = str(error)
    found, unfiled = standings(project, board), unfiled_standings(project, board)
    built = None if name is None else _build(project, name)
    if as_json:
        entries = [
            documents.VariantEntry(
                name=s.name,
                statements=s.cost,
                summary=s.summary,
                sha256=s.digest,
                standings=tuple(found.get(s.name, ())),
                unfiled=tuple(unfiled.get((s.name, s.digest), ())),
            )
            for s in sources
        ]
        show_json(documents.VariantsDocument(variants=tuple(entries), broken=broken, built=built))
        return
    if name is not None:
        show(*sources[0].docstring.splitlines(), "")
        loaded = [load_track(project, one) for one in track_names(project)]
        own = unfiled.get((name, sources[0].digest), ())
        show(facts_table(describe.variant_facts(sources[0], found.get(name, ()), own, loaded, built)))
        return
    refused = [f"{one} is refused: {reason}" for one, reason in broken.items()]
    show(describe.variants_table(sources, found, unfiled), *refused)


def _build(project: Project, name: str) -> documents.BuiltVariant:
    """Builds the base model with the variant, in a confined process, on the first CPU track on which that works.

    Takes seconds. Raises LlmbenchError with a reason if it fails on all CPU tracks.
    """
    log(f"building the model of base+{name} in a process of its own")
    loaded = [load_track(project, one) for one in sorted(track_names(project), key=lambda one: one != DEFAULT_TRACK)]
    reasons = []
    for track in (track for track in loaded if track.device == "cpu"):
        try:
            prepare_tokens(track)  # its first token is part of what a model is built with
            num_params = RunStore(project, track, jobs=1).rehearse(f"base+{name}").num_params
            return documents.BuiltVariant(track=track.name, num_params=num_params)
        except RunFailedError as error:
            command = f"llmbench run candidate --variant {name} --track {track.name} --screen"
            reasons.append(
                f"base+{name} fails before its first step: {without_log(str(error))}; `{command}` saves the whole log"
            )
        except InterruptedRunError:
            raise
        except LlmbenchError as error:
            reasons.append(str(error))
    raise LlmbenchError(reasons[0])


def tracks(
    name: Annotated[
        str | None,
        argument("NAME", "Show this track, also results that others published. Default: list all.", complete_tracks),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the tracks with their records, or show one with its budget, rule and digest."""
    project = Project.find()
    board = read_board(project)
    loaded = [load_track(project, one) for one in (track_names(project) if name is None else (name,))]
    holders = [holder_row(project, board, one) for one in loaded]
    if as_json:
        entries = [
            documents.TrackEntry(
                name=one.name,
                digest=one.digest,
                holder=holder.number if holder else None,
                recipe=holder.recipe if holder else None,
                val_loss=holder.val_loss if holder else None,
                track=one,
            )
            for one, holder in zip(loaded, holders, strict=True)
        ]
        show_json(documents.TracksDocument(tracks=tuple(entries)))
        return
    if name is None:
        show(describe.tracks_table(loaded, holders))
        return
    (track,), (row,) = loaded, holders
    record = (
        f"{row.number:04d}, {row.recipe}, val loss {row.val_loss}" if row else "none, no base has been submitted yet"
    )
    show(f"{track.name}: {track.summary}", style="bold")
    show("", facts_table([*describe.track_facts(track), ("record", record)]))
    if track.reported:
        sources = dict.fromkeys(f"source: {row.source}" for row in track.reported)
        show("", describe.reported_table(track), *sources)


def doctor(as_json: Json = False) -> None:
    """Show this machine, which tracks can be trained on it, and about how long a run and a verdict take.

    Times come from runs of the track that are saved under runs/. If there are no such runs, the times are computed from
    the number of operations and the measured speed of matrix products, and are right within a factor of two.
    """
    project = Project.find()
    with patiently("measuring this machine"), stderr_console().status("measuring this machine") as status:
        found = diagnose(project, lambda doing: status.update(Text(doing)))
    if as_json:
        show_json(documents.DoctorDocument(**dict(found)))
        return
    show(*describe.doctor_lines(found), "")
    show(describe.outlook_table(found.tracks), "", *describe.outlook_lines(found.tracks))


def schema(
    command: Annotated[
        list[str] | None,
        argument("COMMAND", "A command, such as `run candidate`. Default: all commands.", documents.DOCUMENTS),
    ] = None,
    as_json: Json = False,  # every command has --json; here it changes nothing
) -> None:
    """Print the JSON Schema of the document that a command prints with --json.

    Every document has a `schema_version`. This number stays the same if a field is added, and increases if a field is
    removed or changes its meaning.
    """
    if command:
        sys.stdout.write(json.dumps(documents.json_schema(" ".join(command)), indent=1) + "\n")
    else:
        schemas = {name: documents.json_schema(name) for name in documents.DOCUMENTS}
        show_json(documents.SchemaDocument(commands=schemas))
