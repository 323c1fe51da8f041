"""Turns a user's request into the two recipes to compare (the arms of the comparison) and their seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.board.leaderboard import Board
from harness.board.submission import confirmation_seeds
from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK, Project, exists, read_text, write_atomic
from harness.core.schema import Positive, Strict
from harness.core.track import Rule, Track
from harness.lab.executor import ExecutorName
from harness.rule.criteria import Lane
from harness.rule.verdict import Stage
from harness.variants.recipe import format_recipe, parse_recipe, recipe_sources


class Entry(Strict):
    """A user's request: variants to add or remove, the lane (what must improve), and how to train."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    lane: Lane = "loss"
    jobs: Positive | None = None
    """Number of runs at a time; None if the user gave none. Runs made with another number at a time are not reused."""
    executor: ExecutorName = "local"
    """Name of the executor that makes the runs. Runs of different executors are kept apart."""
    settings: tuple[str, ...] = ()
    """Changed settings of the track. Runs with such settings are exploratory and cannot be submitted."""


@dataclass(frozen=True)
class Arms:
    """The two recipes that are compared, and the lane: what the candidate must improve."""

    record: str
    candidate: str
    lane: Lane = "loss"
    remark: str = ""
    """Why these two recipes are compared, if that is not obvious."""

    def has_screen(self, rule: Rule) -> bool:
        """Whether a screen comes before the confirmation: in the lane `loss`, if the track states its noise."""
        return self.lane == "loss" and rule.noise_nats is not None and bool(rule.screen_looks)


def record_recipe(board: Board, track: Track) -> str:
    """The recipe of the track's record; `base` if the track has no submission yet."""
    holder = board.holder(track)
    return holder.candidate.recipe if holder else format_recipe(())


def choose_arms(board: Board, track: Track, entry: Entry) -> Arms:
    """The two recipes to compare: the record's, and the record's with the variants of `entry` added or removed.

    If `entry` adds a variant that is already part of the record, the record without that variant is compared with the
    record. Raises LlmbenchError for a request that is not allowed.
    """
    standing = board.standing(track, entry.lane)
    record = standing.candidate.recipe if standing else format_recipe(())
    held = parse_recipe(record)
    if entry.lane != "loss" and track.rule.design == "stored":
        raise LlmbenchError(
            f"{track.name} compares candidates with stored runs of the record, whose training times cannot be "
            f"compared with the times of new runs; leave out --lane {entry.lane}"
        )
    names = (*entry.added, *entry.removed)
    if not names or len(set(names)) != len(names):
        raise LlmbenchError(
            "name at least one variant (`--variant NAME`), and no variant twice; `llmbench variants` lists all variants"
        )
    if (entry.lane == "simplicity") != bool(entry.removed) or (entry.removed and entry.added):
        raise LlmbenchError(
            "with `--lane simplicity` give only `--without NAME`; with another lane give only `--variant NAME`"
        )
    again = [name for name in entry.added if name in held]
    if again and len(again) == len(entry.added):
        without = format_recipe(tuple(name for name in held if name not in again))
        remark = (
            f"{' and '.join(again)} is already part of the record, so the record {record} is compared with {without}."
        )
        return Arms(without, record, entry.lane, remark)
    if again:
        new = next(name for name in entry.added if name not in held)
        raise LlmbenchError(
            f"one command cannot add and remove variants: '{new}' would be added to the record {record}, but "
            f"'{again[0]}' is already part of it and would be removed; name the two in separate commands"
        )
    strange = [name for name in entry.removed if name not in held]
    if strange:
        raise LlmbenchError(
            f"'{strange[0]}' is not part of the record {record}; --without takes only the record's variants"
        )
    kept = tuple(name for name in held if name not in entry.removed)
    return Arms(record, format_recipe((*kept, *entry.added)), entry.lane)


def source_digests(project: Project, recipe: str) -> dict[str, str]:
    """Variant -> digest of its present file, in the recipe's order. Raises LlmbenchError if a file is not valid."""
    return {name: source.digest for name, source in recipe_sources(project, recipe).items()}


def contest_seeds(project: Project, track: Track, arms: Arms, stage: Stage) -> list[int]:
    """The seeds of the candidate's runs. A screen has public seeds. A confirmation has seeds computed from the code.

    The record's runs have the same seeds. Only if a track compares candidates with stored runs of the record, those
    runs have public seeds.
    """
    if stage == "screen":
        return list(track.seeds[: track.rule.screen_looks[-1]])
    record, candidate = (source_digests(project, recipe) for recipe in (arms.record, arms.candidate))
    return confirmation_seeds(track, record, candidate, track.rule.looks[-1])


def remember_entry(project: Project, track: Track, entry: Entry) -> None:
    """Save `entry`, a user's request, as the last one that was run on this track."""
    write_atomic(_last_entry(project, track), entry.model_dump_json() + "\n")


def recall_entry(project: Project, track: Track) -> Entry:
    """The user's request that was run last on this track; an empty request if nothing was run on it."""
    path = _last_entry(project, track)
    if not exists(path):
        return Entry()
    try:
        return Entry.model_validate_json(read_text(path))
    except ValueError as error:
        raise LlmbenchError(
            f"{path}, which names the last candidate, cannot be read; delete this file and name the candidate with "
            f"--variant"
        ) from error


def entered(project: Project) -> list[str]:
    """Names of the tracks on which a candidate was run in this checkout."""
    return sorted(path.parent.name for path in project.runs.glob("*/last-entry.json"))


def _last_entry(project: Project, track: Track) -> Path:
    return project.runs / track.name / "last-entry.json"


def run_command(track: Track | None, entry: Entry) -> str:
    """The command line that trains and judges `entry` on `track`. If `track` is None, the default track is meant."""
    words = [*(f"--variant {name}" for name in entry.added), *(f"--without {name}" for name in entry.removed)]
    words += [f"--track {track.name}"] if track and track.name != DEFAULT_TRACK else []
    words += [f"--lane {entry.lane}"] if entry.lane != "loss" else []
    words += (
        [f"--jobs {entry.jobs}"] if entry.jobs is not None else []
    )  # without these, the command would not find the kept runs
    words += [f"--executor {entry.executor}"] if entry.executor != "local" else []
    return " ".join(["llmbench run candidate", *words])
