"""Checks of a claim: everything is recomputed from the runs and the frozen sources, nothing is believed.

A problem is one sentence that names the file and what is wrong with it. No problem means that the
submission says what its runs say. It does not mean that the runs were trained as they say: that takes
training them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.catalog import check_source, format_recipe, parse_recipe
from harness.errors import LlmbenchError
from harness.leaderboard import Board, format_csv, make_rows, submission_folders
from harness.ledger import board_attempts
from harness.project import Project, sha256
from harness.report import submission_markdown
from harness.results import FinishedRun, dump_json
from harness.submission import (
    Arm,
    ArmName,
    Submission,
    confirmation_seeds,
    file_digest,
    frozen_cost,
    frozen_source,
    judge_submission,
    load_arm_runs,
    load_frozen_track,
    load_submission,
    run_file,
)
from harness.track import Track
from harness.verdict import explain

READERS_FILES = {"README.md", "curves.png"}


def verify_folder(project: Project, folder: Path, board: Board) -> list[str]:
    """All problems of one submission; `board` is the board it must be judged against."""
    try:
        submission = load_submission(folder)
        return list(_problems(project, folder, submission, board.before(submission.number)))
    except LlmbenchError as error:
        return [str(error)]


def verify_board(project: Project) -> dict[str, list[str]]:
    """Folder or file name -> its problems, for all submissions and `leaderboard.csv`."""
    found: dict[str, list[str]] = {}
    readable: list[Submission] = []
    for folder in submission_folders(project):
        found[folder.name] = verify_folder(project, folder, Board(tuple(readable)))
        try:
            readable.append(load_submission(folder))
        except LlmbenchError:
            continue
    try:
        found[project.leaderboard.name] = list(_csv_problems(project))
    except LlmbenchError as error:
        found[project.leaderboard.name] = [f"cannot be rebuilt: {error}"]
    return found


def _csv_problems(project: Project) -> Iterator[str]:
    rebuilt = format_csv(make_rows(project))
    try:
        stored = project.leaderboard.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield f"{project.leaderboard.name} cannot be read ({error}); run `llmbench leaderboard --rebuild`"
        return
    if stored == rebuilt:
        return
    pairs = zip(stored.splitlines() + [""] * 9999, rebuilt.splitlines(), strict=False)
    line = next(
        (number for number, (old, new) in enumerate(pairs, start=1) if old != new), len(rebuilt.splitlines()) + 1
    )
    yield (
        f"{project.leaderboard.name} differs from what the submissions say, from line {line} on; "
        f"run `llmbench leaderboard --rebuild` and never edit it by hand"
    )


def _problems(project: Project, folder: Path, submission: Submission, earlier: Board) -> Iterator[str]:
    """Problems in the order in which a reader would want to know them."""
    if folder.name != submission.folder_name:
        yield f"{folder.name}/submission.json calls itself {submission.folder_name}; rename the folder"
    if (folder / "submission.json").read_text(encoding="utf-8") != dump_json(submission):
        yield f"{folder.name}/submission.json is not written as llmbench writes it; it was edited by hand"
    yield from _file_problems(folder, submission)
    yield from _track_problems(folder, submission)
    arms: list[tuple[ArmName, Arm]] = [("candidate", submission.candidate)]
    if submission.record is not None:
        arms.insert(0, ("record", submission.record))
    for name, arm in arms:
        yield from _arm_problems(folder, submission, name, arm)
    yield from _seed_problems(folder, submission)
    yield from _standing_problems(submission, earlier)
    yield from _verdict_problems(folder, submission)
    yield from _markdown_problems(folder, submission)


def _file_problems(folder: Path, submission: Submission) -> Iterator[str]:
    """The folder holds what the submission names and nothing else."""
    arms: list[tuple[ArmName, Arm | None]] = [("record", submission.record), ("candidate", submission.candidate)]
    expected = {"submission.json", "track.toml", *READERS_FILES}
    for name, arm in arms:
        if arm is not None:
            expected |= {run_file(name, seed) for seed in arm.seeds}
            expected |= {f"sources/{variant}.py" for variant in arm.sources}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for missing in sorted(expected - present):
        yield f"{folder.name}/{missing} is missing"
    for extra in sorted(present - expected):
        yield f"{folder.name}/{extra} does not belong to a submission; remove it"


def _track_problems(folder: Path, submission: Submission) -> Iterator[str]:
    if load_frozen_track(folder, submission).digest != submission.track_digest:
        yield f"{folder.name}/track.toml is not the track whose digest the submission states"


def _arm_problems(folder: Path, submission: Submission, name: ArmName, arm: Arm) -> Iterator[str]:
    """Digests, sources and the identity of every run of one arm."""
    where = f"{folder.name}/submission.json: {name}"
    if set(parse_recipe(arm.recipe)) != set(arm.sources):
        yield f"{where}.sources does not name the variants of {arm.recipe}"
    for variant, digest in arm.sources.items():
        path = frozen_source(folder, variant)
        if file_digest(path) != digest:
            yield f"{folder.name}/sources/{variant}.py is not the source that {name}.sources states"
        check_source(path.read_text(encoding="utf-8"), path.relative_to(folder.parent))
    if frozen_cost(folder, arm) != arm.statements:
        yield f"{where}.statements is {arm.statements}, the sources have {frozen_cost(folder, arm)}"
    if not arm.runs:
        yield f"{where}.runs is empty"
    track = load_frozen_track(folder, submission)
    for seed, run in zip(arm.runs, load_arm_runs(folder, submission, name), strict=True):
        path = folder / run_file(name, int(seed))
        where = f"{folder.name}/{run_file(name, int(seed))}"
        if file_digest(path) != arm.runs[seed]:
            yield f"{where} is not the run whose digest the submission states; it was changed"
        if path.read_text(encoding="utf-8") != dump_json(run):
            yield f"{where} is not written as llmbench writes it; it was edited by hand"
        yield from _run_problems(where, run, arm, int(seed), submission.track)
        yield from _budget_problems(where, run, track)


def _run_problems(where: str, run: FinishedRun, arm: Arm, seed: int, track: str) -> Iterator[str]:
    """The run is the one that the submission states, and its curve hangs together."""
    stated: dict[str, Any] = {"track": track, "recipe": arm.recipe, "sources": arm.sources, "seed": seed}
    for key, value in stated.items():
        if getattr(run, key) != value:
            yield f"{where}: {key} is {getattr(run, key)!r}, the submission states {value!r}"
    curve = run.training.curve
    steps = [point.step for point in curve]
    if not curve or steps != sorted(set(steps)) or steps[-1] != run.training.steps:
        yield f"{where}: the curve does not rise to the last step"
    elif curve[-1].train_s > run.training.train_s:
        yield f"{where}: the curve's clock runs past train_s"


def _budget_problems(where: str, run: FinishedRun, track: Track) -> Iterator[str]:
    """The run spent the track's budget and was scored on the track's whole val split."""
    if run.training_digest != track.training_digest:
        yield f"{where} was trained under another edition of the track"
    spent = {
        "training.steps": (run.training.steps, track.budget.num_steps),
        "training.tokens": (run.training.tokens, track.budget.tokens),
        "evaluation.tokens": (run.evaluation.tokens, track.data.val.tokens - 1),
        "evaluation.bytes": (run.evaluation.bytes, track.data.val.bytes),
        "provenance.threads": (run.provenance.threads, track.threads),
    }
    for key, (found, wanted) in spent.items():
        if found != wanted:
            yield f"{where}: {key} is {found}, the track's is {wanted}"


def _seed_problems(folder: Path, submission: Submission) -> Iterator[str]:
    """Nobody picked the seeds: they are the track's first public ones, or the candidate's confirmation seeds."""
    seeds = submission.candidate.seeds
    public = load_frozen_track(folder, submission).seeds
    confirming = confirmation_seeds(submission.track_digest, submission.candidate.sources, len(seeds))
    if submission.record is not None and submission.record.seeds != seeds:
        yield f"{folder.name}: the arms have different seeds, {submission.record.seeds} and {seeds}"
    if tuple(seeds) != public[: len(seeds)] and seeds != confirming:
        yield f"{folder.name}: seeds {seeds} are neither the track's first {len(seeds)} nor the confirmation seeds"


def _standing_problems(submission: Submission, earlier: Board) -> Iterator[str]:
    """The submission beat the record that stood when its number came."""
    name = submission.folder_name
    holder = earlier.standing_of(submission.track, submission.track_digest, submission.lane)
    if any(other.number == submission.number for other in earlier.submissions):
        yield f"{name}: its number is taken; submit it again"
    if submission.kind == "opening":
        if holder is not None:
            yield f"{name} opens a track that {holder.folder_name} holds already"
        if (
            submission.record is not None
            or submission.verdict is not None
            or submission.candidate.recipe != format_recipe(())
        ):
            yield f"{name}: an opening has the base recipe, no record arm and no verdict"
        return
    if submission.record is None or submission.verdict is None:
        yield f"{name}: a {submission.kind} result needs a record arm and a verdict"
        return
    if holder is None:
        yield f"{name}: nobody has opened this edition of the track {submission.track}; file its baseline first"
    elif (holder.candidate.recipe, holder.candidate.sources) != (submission.record.recipe, submission.record.sources):
        yield (
            f"{name}: stale_record: {explain('stale_record')} It was measured against "
            f"{submission.record.recipe}, the record is {holder.candidate.recipe} ({holder.folder_name})"
        )
    known = len(board_attempts(earlier, submission.track, submission.track_digest))
    if submission.attempt <= known:
        yield f"{name} calls itself attempt {submission.attempt}, but the board shows {known} before it"
    if (submission.kind == "record") != (submission.verdict.decision == "accepted"):
        yield f"{name} is filed as {submission.kind}, but its verdict is {submission.verdict.decision}"


def _verdict_problems(folder: Path, submission: Submission) -> Iterator[str]:
    recomputed = judge_submission(folder, submission)
    stored = submission.verdict
    if (recomputed is None) != (stored is None):
        yield f"{folder.name}/submission.json: verdict does not belong to this kind of submission"
    elif recomputed is not None and stored is not None:
        for path in _differences(stored.model_dump(), recomputed.model_dump(), "verdict"):
            yield f"{folder.name}/submission.json: {path}"


def _differences(stored: Any, recomputed: Any, path: str) -> Iterator[str]:
    """Leaves that differ; floats may differ in the last bits, as two versions of a library do."""
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for key in recomputed:
            yield from _differences(stored.get(key), recomputed[key], f"{path}.{key}")
    elif isinstance(stored, list | tuple) and isinstance(recomputed, list | tuple) and len(stored) == len(recomputed):
        for index, (one, other) in enumerate(zip(stored, recomputed, strict=True)):
            yield from _differences(one, other, f"{path}.{index}")
    elif isinstance(stored, float) and isinstance(recomputed, float):
        if not math.isclose(stored, recomputed, rel_tol=1e-9, abs_tol=1e-12):
            yield f"{path} is {stored}, recomputed from the runs it is {recomputed}"
    elif stored != recomputed:
        yield f"{path} is {stored!r}, recomputed from the runs it is {recomputed!r}"


def _markdown_problems(folder: Path, submission: Submission) -> Iterator[str]:
    path = folder / "README.md"
    if not path.exists():
        return  # named as missing already
    written = submission_markdown(
        submission, load_arm_runs(folder, submission, "record"), load_arm_runs(folder, submission, "candidate")
    )
    if sha256(path.read_bytes()) != sha256(written.encode()):
        yield f"{folder.name}/README.md is not what the runs say; it was edited by hand"
