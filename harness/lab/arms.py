"""What a user asks to compare, and the two recipes and the seeds that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.board.leaderboard import Board
from harness.board.submission import confirmation_seeds
from harness.core.errors import LlmbenchError
from harness.core.project import DEFAULT_TRACK, Project, read_text, write_atomic
from harness.core.schema import Positive, Strict
from harness.core.track import Rule, Track
from harness.lab.executor import ExecutorName
from harness.rule.criteria import Lane
from harness.rule.verdict import Stage
from harness.variants.recipe import format_recipe, parse_recipe, recipe_sources


class Entry(Strict):
    """What a user asks for: variants to add or to remove, what to claim, and how to train."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    lane: Lane = "loss"
    jobs: Positive | None = None
    """Runs at a time, where the user chose: runs under another load are other runs."""
    executor: ExecutorName = "local"
    """Where the runs were made, which is where they are kept apart."""
    settings: tuple[str, ...] = ()
    """Of an exploratory run, of which nothing can be filed."""


@dataclass(frozen=True)
class Arms:
    """What is compared: two recipes in one lane."""

    record: str
    candidate: str
    lane: Lane = "loss"
    remark: str = ""
    """Why these two, where that is not obvious."""

    def has_screen(self, rule: Rule) -> bool:
        """Whether the candidate is screened first: in the lane `loss`, on a track whose noise is known."""
        return self.lane == "loss" and rule.noise_nats is not None and bool(rule.screen_looks)


def record_recipe(board: Board, track: Track) -> str:
    """The recipe that holds the track; `base` where nobody opened it."""
    holder = board.holder(track)
    return holder.candidate.recipe if holder else format_recipe(())


def choose_arms(board: Board, track: Track, entry: Entry) -> Arms:
    """The standing record, and the same recipe with variants added or removed. Raises LlmbenchError for no contest.

    A variant that is part of the record already is measured again: the record against itself without it.
    """
    standing = board.standing(track, entry.lane)
    record = standing.candidate.recipe if standing else format_recipe(())
    held = parse_recipe(record)
    if entry.lane != "loss" and track.rule.design == "stored":
        raise LlmbenchError(
            f"{track.name} compares candidates with stored runs, which have no neighbours to compare times with; "
            f"leave --lane {entry.lane} out"
        )
    names = (*entry.added, *entry.removed)
    if not names or len(set(names)) != len(names):
        raise LlmbenchError("name each variant once: `--variant NAME` (`llmbench variants` lists them)")
    if (entry.lane == "simplicity") != bool(entry.removed) or (entry.removed and entry.added):
        raise LlmbenchError("the simplicity lane takes `--without NAME` alone, the other lanes `--variant NAME` alone")
    again = [name for name in entry.added if name in held]
    if again and len(again) == len(entry.added):
        without = format_recipe(tuple(name for name in held if name not in again))
        remark = f"{' and '.join(again)} is part of the record {record}: measured again, against {without}."
        return Arms(without, record, entry.lane, remark)
    if again:
        raise LlmbenchError(f"'{again[0]}' is part of the record {record} already; name only the new variants")
    strange = [name for name in entry.removed if name not in held]
    if strange:
        raise LlmbenchError(f"'{strange[0]}' is not part of the record {record}; only its variants can be removed")
    kept = tuple(name for name in held if name not in entry.removed)
    return Arms(record, format_recipe((*kept, *entry.added)), entry.lane)


def source_digests(project: Project, recipe: str) -> dict[str, str]:
    """Variant -> digest of its present file, in the recipe's order. Raises LlmbenchError where one is broken."""
    return {name: source.digest for name, source in recipe_sources(project, recipe).items()}


def contest_seeds(project: Project, track: Track, arms: Arms, stage: Stage) -> list[int]:
    """Of the candidate's runs: the first public ones for the screen, those that its code decides for the confirmation.

    The record's runs have the same seeds; on a track with stored runs it has the public ones.
    """
    if stage == "screen":
        return list(track.seeds[: track.rule.screen_looks[-1]])
    record, candidate = (source_digests(project, recipe) for recipe in (arms.record, arms.candidate))
    return confirmation_seeds(track, record, candidate, track.rule.looks[-1])


def remember_entry(project: Project, track: Track, entry: Entry) -> None:
    """Note the entry that was run last on this track."""
    write_atomic(_last_entry(project, track), entry.model_dump_json() + "\n")


def recall_entry(project: Project, track: Track) -> Entry:
    """The entry that was run last on this track; an empty one where there was none."""
    path = _last_entry(project, track)
    if not path.exists():
        return Entry()
    try:
        return Entry.model_validate_json(read_text(path))
    except ValueError as error:
        raise LlmbenchError(f"{path} is broken; delete it and name the candidate with --variant") from error


def _last_entry(project: Project, track: Track) -> Path:
    return project.runs / track.name / "last-entry.json"


def run_command(track: Track | None, entry: Entry) -> str:
    """The command line that trains and judges `entry` on `track`, None for the default one."""
    words = [*(f"--variant {name}" for name in entry.added), *(f"--without {name}" for name in entry.removed)]
    words += [f"--track {track.name}"] if track and track.name != DEFAULT_TRACK else []
    words += [f"--lane {entry.lane}"] if entry.lane != "loss" else []
    words += [f"--jobs {entry.jobs}"] if entry.jobs is not None else []  # runs made another way are other runs
    words += [f"--executor {entry.executor}"] if entry.executor != "local" else []
    return " ".join(["llmbench run candidate", *words])
