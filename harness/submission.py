"""One submission: the folder that carries a claim and everything needed to check it.

`submissions/NNNN-name/` holds `submission.json`, `runs/ARM-seed-N.json`, the frozen `track.toml` and
`sources/VARIANT.py`, and what people read: `README.md` and `curves.png`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.data import derive_seed
from harness.errors import LlmbenchError
from harness.project import read_bytes, read_text, sha256
from harness.results import FinishedRun, Pair, load_record, load_run
from harness.sources import count_statements_of
from harness.track import Count, Positive, Sha256, Strict, Track, parse_track
from harness.verdict import Lane, Verdict, judge

Seed = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,18})$")]
"""A seed as JSON writes the key of an object."""
Kind = Literal["opening", "record", "negative"]
ArmName = Literal["record", "candidate"]


class Arm(Strict):
    """One side of a contest."""

    recipe: str
    sources: dict[str, Sha256]
    """Variant name -> digest of its frozen file."""
    statements: Count
    """Cost of the recipe: statements of its variants."""
    runs: Annotated[dict[Seed, Sha256], Field(min_length=1)]
    """Seed -> digest of the run's file, in the order in which the seeds were used."""

    @property
    def seeds(self) -> list[int]:
        return [int(seed) for seed in self.runs]


class Submission(Strict):
    """A claim. Nothing in it is trusted: `verify` recomputes it from the runs and the frozen sources."""

    schema_version: Literal[1] = 1
    number: Positive
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_+-]*$")]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    kind: Kind
    """`opening` starts a track's board, `record` breaks the record, `negative` did not break it."""
    lane: Lane
    track: str
    track_digest: Sha256
    record: Arm | None
    """The arm that held the record; None in an opening."""
    candidate: Arm
    attempt: Positive
    """The how-manieth different candidate on this track since its last record; 1 in an opening."""
    verdict: Verdict | None
    """None in an opening."""
    files: dict[Literal["curves.png", "track.toml"], Sha256]
    """Digests of the files that cannot be made again from the runs."""

    @property
    def folder_name(self) -> str:
        return f"{self.number:04d}-{self.name}"

    @property
    def added_statements(self) -> int:
        """Statements of the candidate beyond those of the record it was measured against."""
        return self.candidate.statements - (self.record.statements if self.record else 0)


_SUBMISSION: TypeAdapter[Submission] = TypeAdapter(Submission)
NAME = re.compile(r"^[a-z0-9][a-z0-9_+-]*$")
FOLDER = re.compile(r"^\d{4}-[a-z0-9][a-z0-9_+-]*$")


def confirmation_seeds(track_digest: str, sources: Mapping[str, str], count: int) -> list[int]:
    """Seeds that follow from the track and the candidate's sources: any edit of a source draws new ones."""
    key = json.dumps(sorted(sources.items()))
    return [derive_seed("confirmation", track_digest, key, index) % 2**31 for index in range(count)]


def run_file(arm: ArmName, seed: int) -> str:
    """Where an arm's run lies inside the submission's folder."""
    return f"runs/{arm}-seed-{seed}.json"


def load_submission(folder: Path) -> Submission:
    """Read and check `submission.json`. Raises LlmbenchError with the file, the key and the fix."""
    submission: Submission = load_record(folder / "submission.json", _SUBMISSION)
    return submission


def load_arm_runs(folder: Path, submission: Submission, arm: ArmName) -> list[FinishedRun]:
    """An arm's runs in the order of its seeds. Raises LlmbenchError where one is broken or has failed."""
    runs = []
    side = submission.record if arm == "record" else submission.candidate
    for seed in side.seeds if side else []:
        path = folder / run_file(arm, seed)
        run = load_run(path)
        if not isinstance(run, FinishedRun):
            raise LlmbenchError(f"{path} is a run that {run.status}; only finished runs can be submitted")
        runs.append(run)
    return runs


def load_frozen_track(folder: Path, submission: Submission) -> Track:
    """The track as it was when the claim was made."""
    return parse_track(folder / "track.toml", name=submission.track)


def judge_submission(folder: Path, submission: Submission) -> Verdict | None:
    """The verdict, from the runs and the frozen track alone; None for an opening."""
    if submission.record is None:
        return None
    records = load_arm_runs(folder, submission, "record")
    candidates = load_arm_runs(folder, submission, "candidate")
    if len(records) != len(candidates):
        raise LlmbenchError(
            f"{folder.name}: {len(records)} record runs and {len(candidates)} candidate runs are no pairs"
        )
    pairs = [Pair(record, candidate) for record, candidate in zip(records, candidates, strict=True)]
    track = load_frozen_track(folder, submission)
    added = frozen_cost(folder, submission.candidate) - frozen_cost(folder, submission.record)
    return judge(pairs, track.rule, added_statements=added, lane=submission.lane)


def frozen_source(folder: Path, variant: str) -> Path:
    """Where a variant's source is frozen."""
    return folder / "sources" / f"{variant}.py"


def frozen_cost(folder: Path, arm: Arm) -> int:
    """Statements of an arm's recipe, counted on the frozen sources."""
    return sum(count_statements_of(read_text(frozen_source(folder, variant))) for variant in arm.sources)


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises LlmbenchError where it cannot be read."""
    return sha256(read_bytes(path))
