"""Checks of one submission against its own files: its runs, its frozen sources, its frozen track.

Nothing outside its folder is read, so nothing here depends on what else the board holds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.board.curves import png_problem
from harness.board.readme import submission_markdown
from harness.board.submission import KNOWLEDGE_DIGITS, Arm, ArmName, Claim, Submission, confirmation_seeds, run_file
from harness.core.errors import LlmbenchError
from harness.core.project import read_bytes, sha256
from harness.core.runs import PROBES, FinishedRun, dump_json
from harness.core.track import Track
from harness.data.plan import plan_of
from harness.variants.canonical import tree_digest
from harness.variants.check import check_source
from harness.variants.recipe import parse_recipe

LARGEST_FILE = 2 * 2**20  # bytes; the largest of ours, a picture, has 31 kB

# A record's sources are in every claim measured against it; at 1,000 submissions this saves a fourth of the time.
_check_source = lru_cache(maxsize=256)(check_source)


def evidence_problems(claim: Claim) -> Iterator[str]:
    """Problems in the order in which a reader would want to know them."""
    folder, submission = claim.folder, claim.submission
    if folder.name != submission.folder_name:
        yield f"{folder.name}/submission.json calls itself {submission.folder_name}; rename the folder"
    if read_bytes(folder / "submission.json") != dump_json(submission).encode():
        yield f"{folder.name}/submission.json is not written as llmbench writes it; it was edited by hand"
    yield from _file_problems(folder, submission)
    if list(submission.files) != ["curves.png", "track.toml"]:
        yield f"{folder.name}/submission.json: files does not state the digests of curves.png and track.toml"
    if claim.track.digest != submission.track_digest:
        yield f"{folder.name}/track.toml is not the track whose digest the submission states"
    for variant, text in claim.sources.items():
        try:
            _check_source(text, Path(f"sources/{variant}.py"))
        except LlmbenchError as error:
            yield f"{folder.name}/{error}"
    for name, arm in submission.arms.items():
        yield from _arm_problems(claim, name, arm)
    if submission.verdict is not None and submission.verdict.lane != submission.lane:
        yield f"{folder.name}/submission.json: lane is {submission.lane}, its verdict's is {submission.verdict.lane}"
    if (stated := submission.knowledge_nats) is not None:
        known = claim.knowledge_nats
        # zlib's versions differ by less
        if stated != round(stated, KNOWLEDGE_DIGITS) or not math.isclose(stated, known or 0.0, rel_tol=0.05):
            yield f"{folder.name}/submission.json: knowledge_nats is {stated}, the sources give {known}"
    yield from _seed_problems(claim)
    yield from _audit_problems(claim)
    recomputed, stored = claim.verdict, submission.verdict
    if (recomputed is None) != (stored is None):
        yield f"{folder.name}/submission.json: verdict does not belong to this kind of submission"
    elif recomputed is not None and stored is not None:
        for path in _differences(stored.model_dump(), recomputed.model_dump(), "verdict"):
            yield f"{folder.name}/submission.json: {path}"


def _file_problems(folder: Path, submission: Submission) -> Iterator[str]:
    """The folder holds what the submission names and nothing else."""
    expected = {"submission.json", "README.md", "curves.png", "track.toml"}
    for name, arm in submission.arms.items():
        expected |= {run_file(name, seed) for seed in arm.seeds}
        expected |= {f"sources/{variant}.py" for variant in arm.sources}
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if os.path.islink(path) or not os.path.isdir(path)  # unlike pathlib's, they never raise
    }
    for missing in sorted(expected - present):
        yield f"{folder.name}/{missing} is missing"
    for file in sorted(present):
        if (size := os.lstat(folder / file).st_size) > LARGEST_FILE:  # a link is refused elsewhere
            yield f"{folder.name}/{file} has {size:,} bytes; a file of a submission has at most {LARGEST_FILE:,}"
    for file, digest in submission.files.items():
        data = read_bytes(folder / file) if file in present else None
        if data is not None and sha256(data) != digest:
            yield f"{folder.name}/{file} is not the file whose digest the submission states; it was changed"
        elif data is not None and file == "curves.png" and (problem := png_problem(data)):
            yield f"{folder.name}/{file} {problem}"
    for extra in sorted(present - expected):
        yield f"{folder.name}/{extra} does not belong to a submission; remove it"


def _arm_problems(claim: Claim, name: ArmName, arm: Arm) -> Iterator[str]:
    """Digests, sources and the identity of every run of one arm."""
    folder = claim.folder
    where = f"{folder.name}/submission.json: {name}"
    if parse_recipe(arm.recipe) != tuple(arm.sources):
        yield f"{where}.sources does not name the variants of {arm.recipe}"
    for variant, digest in arm.sources.items():
        if tree_digest(claim.sources[variant]) != digest:
            yield f"{folder.name}/sources/{variant}.py is not the source that {name}.sources states"
    if (cost := claim.cost(arm)) != arm.statements:
        yield f"{where}.statements is {arm.statements}, the sources have {cost}"
    track, training_digest = claim.track, claim.track.training_digest
    for (seed, digest), run in zip(arm.runs.items(), claim.runs[name], strict=True):
        file = run_file(name, int(seed))
        where, data = f"{folder.name}/{file}", read_bytes(folder / file)
        if sha256(data) != digest:
            yield f"{where} is not the run whose digest the submission states; it was changed"
        if data != dump_json(run).encode():
            yield f"{where} is not written as llmbench writes it; it was edited by hand"
        stated = {"track": track.name, "recipe": arm.recipe, "sources": arm.sources, "seed": int(seed)}
        for key, value in stated.items():
            if getattr(run, key) != value:
                yield f"{where}: {key} is {getattr(run, key)!r}, the submission states {value!r}"
        if run.training_digest != training_digest:
            yield f"{where} was trained under another edition of the track"
        if isinstance(run, FinishedRun):
            yield from _run_problems(where, run, track)
    whole = claim.finished[name]
    if len({run.training.weights_sha256 for run in whole}) != len(whole):
        yield f"{folder.name}: two seeds of the {name} arm end in the same weights; one is a copy"
    ended = max((run.training.ended for run in whole), default="")
    if ended > f"{claim.submission.date}T24":  # ISO times sort as text
        yield f"{folder.name}: date is {claim.submission.date}, but a run of the {name} arm ended {ended}"


def _run_problems(where: str, run: FinishedRun, track: Track) -> Iterator[str]:
    """The run passed the probes, its curve is whole, it spent the track's budget and was scored on all of val."""
    curve = run.training.curve
    steps = [point.step for point in curve]
    if not set(run.evaluation.probes) >= set(PROBES):
        yield f"{where}: the evaluation passed {run.evaluation.probes}, not all of {sorted(PROBES)}"
    if run.evaluation.correct > run.evaluation.tokens:
        yield f"{where}: more tokens are correct than there are"
    if not curve or steps != sorted(set(steps)) or steps[-1] != run.training.steps:
        yield f"{where}: the curve does not rise to the last step"
    elif curve[-1].train_s > run.training.train_s:
        yield f"{where}: the curve's clock runs past train_s"
    val = track.data.pin("val")
    try:
        plan = plan_of(track, run.training.batches)
    except LlmbenchError as error:
        yield f"{where}: {error}"
        return
    for key, found, wanted in (
        ("training.steps", run.training.steps, plan.num_steps),
        ("training.tokens", run.training.tokens, plan.tokens),
        ("evaluation.tokens", run.evaluation.tokens, val.tokens - 1),
        ("evaluation.bytes", run.evaluation.bytes, val.bytes),
        ("provenance.threads", run.provenance.threads, track.threads),
        ("provenance.processes", run.provenance.processes, track.processes),
    ):
        if found != wanted:
            yield f"{where}: {key} is {found}, the track's is {wanted}"


def _seed_problems(claim: Claim) -> Iterator[str]:
    """Nobody picked the seeds: a confirmation has those that both arms' code draws, all else the first public ones."""
    folder, submission = claim.folder, claim.submission
    if submission.kind == "challenge":  # its seeds follow from its record
        return
    track, record, verdict = claim.track, submission.record, submission.verdict
    seeds = submission.candidate.seeds
    own = expected = list(track.seeds[: len(seeds)])
    what = f"the track's first {len(seeds)}"
    if record is not None and verdict is not None and verdict.stage == "confirmation":
        own = expected = confirmation_seeds(track, record.sources, submission.candidate.sources, len(seeds))
        what = "those that the code of both arms draws"
        if track.rule.stored_runs is not None:
            own = list(track.seeds[: track.rule.stored_runs])
    if seeds != expected:
        yield f"{folder.name}: the candidate's seeds are {seeds}, not {what}, {expected}"
    if record is not None and record.seeds != own:
        yield f"{folder.name}: the record's seeds are {record.seeds}, they must be {own}"


def _audit_problems(claim: Claim) -> Iterator[str]:
    """The audit is of one of the candidate's runs, of this val, and tested as much as it says it could."""
    audit, where = claim.submission.audit, f"{claim.folder.name}/submission.json: audit"
    if audit is None:
        return
    if audit.weights_sha256 not in {run.training.weights_sha256 for run in claim.finished["candidate"]}:
        yield f"{where}.weights_sha256 is of no run of the candidate"
    positions = claim.track.data.pin("val").tokens - 1
    if audit.positions != positions:
        yield f"{where}.positions is {audit.positions}, the track's val has {positions}"
    if audit.tested > audit.positions:
        yield f"{where}.tested is more than there are"
    if audit.seed != "weights":
        yield f"{where}.seed is {audit.seed!r}; of a claim the questions follow from the weights"


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


def markdown_problems(claim: Claim) -> Iterator[str]:
    text = submission_markdown(claim.submission, *claim.finished.values())
    if read_bytes(claim.folder / "README.md") != text.encode():
        yield f"{claim.folder.name}/README.md is not what the runs say; it was edited by hand"
