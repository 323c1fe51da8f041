"""Checks one submission against the files in its folder: its runs, and its copies of the track and the variants.

The checks read only this folder, so they do not depend on other submissions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.board.curves import png_problem
from harness.board.readme import submission_markdown
from harness.board.submission import (
    KNOWLEDGE_DIGITS,
    SIZE_PAIRS,
    Arm,
    ArmName,
    Claim,
    Submission,
    confirmation_seeds,
    run_file,
    size_file,
    size_gain,
    sizes_asked,
)
from harness.core.errors import LlmbenchError
from harness.core.project import read_bytes, sha256
from harness.core.runs import PROBES, FailedRun, FinishedRun, dump_json, finished
from harness.core.track import Track
from harness.data.plan import plan_of
from harness.rule.comparable import comparability_problems
from harness.variants.canonical import tree_digest
from harness.variants.check import check_source
from harness.variants.recipe import parse_recipe

LARGEST_FILE = 2 * 2**20  # bytes; the largest file so far, a picture, has 31 kB

# Each submission also holds the variants of its record, so the same source is in many submissions. With 1,000
# submissions, this cache saves a quarter of the time.
_check_source = lru_cache(maxsize=256)(check_source)


def evidence_problems(claim: Claim) -> Iterator[str]:
    """Yields all problems of a submission's files and numbers, except those of README.md (`markdown_problems`)."""
    folder, submission = claim.folder, claim.submission
    if folder.name != submission.folder_name:
        yield f"{folder.name}/submission.json belongs to a folder named {submission.folder_name}; rename the folder"
    if read_bytes(folder / "submission.json") != dump_json(submission).encode():
        yield (
            f"{folder.name}/submission.json is not formatted as llmbench writes it, so it was edited by "
            f"hand; restore it from git"
        )
    yield from _file_problems(folder, submission)
    if list(submission.files) != ["curves.png", "track.toml"]:
        yield (
            f"{folder.name}/submission.json: `files` must contain the digests of curves.png and track.toml, and "
            f"nothing else"
        )
    if claim.track.digest != submission.track_digest:
        yield f"{folder.name}/track.toml does not have the track_digest in submission.json; restore it from git"
    for variant, text in claim.sources.items():
        try:
            _check_source(text, Path(f"sources/{variant}.py"))
        except LlmbenchError as error:
            yield f"{folder.name}/{error}"
    for name, arm in submission.arms.items():
        yield from _arm_problems(claim, name, arm)
    if submission.verdict is not None and submission.verdict.lane != submission.lane:
        yield (
            f"{folder.name}/submission.json: lane is {submission.lane}, but verdict.lane is "
            f"{submission.verdict.lane}; the two must be equal"
        )
    if (stated := submission.knowledge_nats) is not None:
        known = claim.knowledge_nats
        # two versions of zlib differ by less than this tolerance
        if stated != round(stated, KNOWLEDGE_DIGITS) or not math.isclose(stated, known or 0.0, rel_tol=0.05):
            yield f"{folder.name}/submission.json: knowledge_nats is {stated}, but the files in sources/ give {known}"
    yield from _seed_problems(claim)
    yield from _audit_problems(claim)
    yield from _size_problems(claim)
    recomputed, stored = claim.verdict, submission.verdict
    if (recomputed is None) != (stored is None):
        yield (
            f"{folder.name}/submission.json: "
            f"{'the verdict is missing' if stored is None else 'there is a verdict, but no record to compare with'}"
        )
    elif recomputed is not None and stored is not None:
        for path in _differences(stored.model_dump(), recomputed.model_dump(), "verdict"):
            yield f"{folder.name}/submission.json: {path}"


def _file_problems(folder: Path, submission: Submission) -> Iterator[str]:
    """Checks that the folder holds exactly the files that the submission names."""
    expected = {"submission.json", "README.md", "curves.png", "track.toml"}
    for name, arm in submission.arms.items():
        expected |= {run_file(name, seed) for seed in arm.seeds}
        expected |= {f"sources/{variant}.py" for variant in arm.sources}
    for track, other in (submission.sizes or {}).items():
        expected |= {f"sizes/{track}/track.toml"}
        expected |= {size_file(track, name, int(seed)) for name, runs in other.runs.items() for seed in runs}
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if os.path.islink(path) or not os.path.isdir(path)  # pathlib's functions may raise, these never do
    }
    for missing in sorted(expected - present):
        yield f"{folder.name}/{missing} is missing; restore it from git"
    for file in sorted(present):
        if (size := os.lstat(folder / file).st_size) > LARGEST_FILE:  # check_board.py refuses links
            yield f"{folder.name}/{file} has {size:,} bytes; a file of a submission may have at most {LARGEST_FILE:,}"
    for file, digest in submission.files.items():
        data = read_bytes(folder / file) if file in present else None
        if data is not None and sha256(data) != digest:
            yield (
                f"{folder.name}/{file} does not have the digest that the submission states, so it was "
                f"changed; restore it from git"
            )
        elif data is not None and file == "curves.png" and (problem := png_problem(data)):
            yield f"{folder.name}/{file} {problem}"
    for extra in sorted(present - expected):
        yield f"{folder.name}/{extra} is not part of the submission; remove it"


def _arm_problems(claim: Claim, name: ArmName, arm: Arm) -> Iterator[str]:
    """Checks the sources, the number of statements and every run of one arm (record or candidate)."""
    folder = claim.folder
    where = f"{folder.name}/submission.json: {name}"
    if parse_recipe(arm.recipe) != tuple(arm.sources):
        yield f"{where}.sources must name the variants of the recipe {arm.recipe}, in the recipe's order"
    for variant, digest in arm.sources.items():
        if tree_digest(claim.sources[variant]) != digest:
            yield (
                f"{folder.name}/sources/{variant}.py does not have the digest that {name}.sources in submission.json "
                f"states; restore it from git"
            )
    if (cost := claim.cost(arm)) != arm.statements:
        yield f"{where}.statements is {arm.statements}, but the files in sources/ have {cost} statements"
    files = {run_file(name, int(seed)): digest for seed, digest in arm.runs.items()}
    yield from _runs_problems(claim, name, claim.track, files, claim.runs[name])


def _runs_problems(
    claim: Claim, name: ArmName, track: Track, files: dict[str, str], runs: Sequence[FinishedRun | FailedRun]
) -> Iterator[str]:
    """Checks the runs of one arm on one track. `files` maps each run's file to the digest that `submission.json`
    states."""
    folder, arm, training_digest = claim.folder, claim.submission.arms[name], track.training_digest
    for (file, digest), run in zip(files.items(), runs, strict=True):
        where, data, seed = f"{folder.name}/{file}", read_bytes(folder / file), int(Path(file).stem.split("-")[-1])
        if sha256(data) != digest:
            yield f"{where} does not have the digest that the submission states, so it was changed; restore it from git"
        if data != dump_json(run).encode():
            yield f"{where} is not formatted as llmbench writes it, so it was edited by hand; restore it from git"
        stated = {"track": track.name, "recipe": arm.recipe, "sources": arm.sources, "seed": seed}
        for key, value in stated.items():
            if getattr(run, key) != value:
                yield f"{where}: {key} is {getattr(run, key)!r}, but the submission states {value!r}"
        if run.training_digest != training_digest:
            yield (
                f"{where} was trained on another track, or another version of it, than the submission's track.toml "
                f"describes"
            )
        if isinstance(run, FinishedRun):
            yield from _run_problems(where, run, track)
    whole = finished(runs)
    if len({run.training.weights_sha256 for run in whole}) != len(whole):
        yield (
            f"{folder.name}: two runs of the {name}, with different seeds, have the same final weights, so one run is "
            f"a copy of the other"
        )
    ended = max((run.training.ended for run in whole), default="")
    if ended > f"{claim.submission.date}T24":  # ISO times sort as text
        yield f"{folder.name}: date is {claim.submission.date}, but a run of the {name} ended later, at {ended}"


def _size_problems(claim: Claim) -> Iterator[str]:
    """Checks the results on other sizes of the track (smaller or larger models): that none is missing, their runs,
    their gains."""
    submission, where = claim.submission, f"{claim.folder.name}/submission.json: sizes"
    asked, stated = sizes_asked(claim.track, submission.lane, claim.verdict), submission.sizes or {}
    if submission.kind == "challenge":
        asked = {}
    if {*asked} != {*stated}:
        yield (
            f"{where} has results on {', '.join(stated) or 'no other track'}, but the track's rule requires results "
            f"on {', '.join(asked) or 'no other track'}"
        )
        return
    for name, size in stated.items():
        track, seeds = claim.size_tracks[name], [str(seed) for seed in claim.size_tracks[name].seeds[:SIZE_PAIRS]]
        if track.digest != asked[name]:
            yield f"{claim.folder.name}/sizes/{name}/track.toml is not the version that `holds_on` in track.toml names"
        if {arm: list(runs) for arm, runs in size.runs.items()} != dict.fromkeys(submission.arms, seeds):
            yield f"{where}.{name}: the runs of record and candidate must have the seeds {', '.join(seeds)}"
            continue
        for arm, runs in size.runs.items():
            files = {size_file(name, arm, int(seed)): digest for seed, digest in runs.items()}
            yield from _runs_problems(claim, arm, track, files, claim.size_runs[name][arm])
        pairs = claim.size_runs[name]["record"], claim.size_runs[name]["candidate"]
        for code, detail in comparability_problems(*pairs, timed=False).items():
            yield f"{where}.{name}: {code}: {detail}"
        stored = {key: getattr(size, key) for key in ("gain", "low", "high")}
        found = dict(zip(stored, size_gain(*pairs), strict=True))
        for path in _differences(stored, found, name):
            yield f"{where}.{path}"


def _run_problems(where: str, run: FinishedRun, track: Track) -> Iterator[str]:
    """Checks that the run passed all probes (tests of the model), has a complete curve, trained on the track's number
    of tokens and was scored on all of val."""
    curve = run.training.curve
    steps = [point.step for point in curve]
    if not set(run.evaluation.probes) >= set(PROBES):
        absent = sorted({*PROBES} - {*run.evaluation.probes})
        yield f"{where}: the evaluation lacks the probes (tests of the model) {', '.join(absent)}; train the run again"
    if run.evaluation.correct > run.evaluation.tokens:
        yield f"{where}: evaluation.correct must not exceed evaluation.tokens"
    if not curve or steps != sorted(set(steps)) or steps[-1] != run.training.steps:
        yield f"{where}: the steps of the curve must increase and end at the last step"
    elif curve[-1].train_s > run.training.train_s:
        yield f"{where}: the curve's times must not exceed training.train_s"
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
            yield f"{where}: {key} is {found}, but the track requires {wanted}"


def _seed_problems(claim: Claim) -> Iterator[str]:
    """Checks that the runs have the right seeds.

    A confirmation uses seeds that are computed from the code of record and candidate. All other runs, also stored runs
    of the record, use the first public seeds of the track.
    """
    folder, submission = claim.folder, claim.submission
    if submission.kind == "challenge":  # challenge.py checks the seeds of a challenge
        return
    track, record, verdict = claim.track, submission.record, submission.verdict
    seeds = submission.candidate.seeds
    own = expected = list(track.seeds[: len(seeds)])
    what = f"the track's first {len(seeds)} public seeds"
    if record is not None and verdict is not None and verdict.stage == "confirmation":
        own = expected = confirmation_seeds(track, record.sources, submission.candidate.sources, len(seeds))
        what = "the seeds that are computed from the code of both arms"
        if track.rule.stored_runs is not None:
            own = list(track.seeds[: track.rule.stored_runs])
    if seeds != expected:
        yield f"{folder.name}: the candidate's seeds are {seeds}, but must be {what}: {expected}"
    if record is not None and record.seeds != own:
        yield f"{folder.name}: the record's seeds are {record.seeds}, but must be {own}"


def _audit_problems(claim: Claim) -> Iterator[str]:
    """Checks the audit, the test of a trained model for leaks of val: its run, its number of positions, its seed."""
    audit, where = claim.submission.audit, f"{claim.folder.name}/submission.json: audit"
    if audit is None:
        return
    if audit.weights_sha256 not in {run.training.weights_sha256 for run in claim.finished["candidate"]}:
        yield f"{where}.weights_sha256 must be the digest of the final weights of one of the candidate's runs"
    positions = claim.track.data.pin("val").tokens - 1
    if audit.positions != positions:
        yield f"{where}.positions is {audit.positions}, but the track's val text has {positions} positions to predict"
    if audit.tested > audit.positions:
        yield f"{where}.tested is {audit.tested}, but the val text has only {audit.positions} positions"
    if audit.seed != "weights":
        yield f"{where}.seed is {audit.seed!r}; in a submission it must be 'weights'"


def _differences(stored: Any, recomputed: Any, path: str) -> Iterator[str]:
    """Yields one sentence for each value of `stored` that differs from the value in `recomputed`, with its path.

    Floats may differ in their last bits, because versions of libraries round differently.
    """
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for key in recomputed:
            yield from _differences(stored.get(key), recomputed[key], f"{path}.{key}")
    elif isinstance(stored, list | tuple) and isinstance(recomputed, list | tuple) and len(stored) == len(recomputed):
        for index, (one, other) in enumerate(zip(stored, recomputed, strict=True)):
            yield from _differences(one, other, f"{path}.{index}")
    elif isinstance(stored, float) and isinstance(recomputed, float):
        if not math.isclose(stored, recomputed, rel_tol=1e-9, abs_tol=1e-12):
            yield f"{path} is {stored}, but the runs give {recomputed}"
    elif stored != recomputed:
        yield f"{path} is {stored!r}, but the runs give {recomputed!r}"


def markdown_problems(claim: Claim) -> Iterator[str]:
    text = submission_markdown(claim.submission, *claim.finished.values())
    if read_bytes(claim.folder / "README.md") != text.encode():
        yield (
            f"{claim.folder.name}/README.md does not match the runs, so it was edited by hand; run "
            f"`llmbench leaderboard --rebuild`"
        )
