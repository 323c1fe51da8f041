"""Reads one submission: a folder with a result and everything that is needed to check it.

`submissions/NNNN-name/` holds `submission.json`, the runs `runs/ARM-seed-N.json`, and copies of the track and the
variants, `track.toml` and `sources/VARIANT.py`. For human readers it also holds `README.md` and `curves.png`. If the
track's rule asks for runs on other sizes of the track, `sizes/TRACK/` holds a copy of that track, `track.toml`, and the
runs on it, `ARM-seed-N.json`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from harness.core.audit import Audit
from harness.core.errors import LlmbenchError
from harness.core.project import derive_seed, read_text
from harness.core.runs import ABSENT, FailedRun, FinishedRun, finished, load_run, read_record
from harness.core.schema import Count, Positive, Recipe, Sha256, Strict, TrackName, VariantName
from harness.core.track import Track, parse_track
from harness.rule.criteria import Lane
from harness.rule.replication import Outcome, rule_again
from harness.rule.scaling import Interval, Rung, gain_at
from harness.rule.verdict import Verdict, decide_arms
from harness.variants.check import knowledge_nats
from harness.variants.cost import count_statements_of

Kind = Literal["opening", "record", "negative", "challenge"]
ArmName = Literal["record", "candidate"]

Seed = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,18})$")]
"""A seed as text, because the keys of a JSON object are text."""

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]
"""Full id of a commit: a SHA-1 or SHA-256."""

KNOWLEDGE_DIGITS = 4
SIZE_PAIRS = 3  # pairs on each other size of the track; they use the first public seeds of that size
SUBMISSION_NAME = r"^[a-z0-9][a-z0-9_+-]*$"


class Arm(Strict):
    """One side of a comparison, the record or the candidate."""

    recipe: Recipe
    sources: dict[VariantName, Sha256]
    """Variant name -> digest of its syntax tree (harness/variants/canonical.py)."""
    statements: Count
    """Cost of the recipe: number of Python statements of all its variants together."""
    runs: Annotated[dict[Seed, Sha256], Field(min_length=1)]
    """Seed -> digest of the run's file, in the order in which the seeds were used."""

    @property
    def seeds(self) -> list[int]:
        return [int(seed) for seed in self.runs]


class OtherSize(Strict):
    """The result on another size of the track, one with a smaller or larger model.

    A candidate that is significantly worse on this size does not become the record.
    """

    runs: dict[ArmName, dict[Seed, Sha256]]
    """Arm -> seed -> digest of the run's file."""
    gain: float
    """Mean gain over the pairs, in nats per token."""
    low: float
    """Lower end of the gain's 90 % confidence interval."""
    high: float
    """Upper end of the gain's 90 % confidence interval."""

    @property
    def loses(self) -> bool:
        """Whether the candidate is significantly worse: the whole interval of its gain is below zero."""
        return self.high < 0


class Challenge(Strict):
    """The result of training a record again, on seeds that nobody knew when the record was submitted."""

    number: Positive
    """Number of the record that was trained again."""
    outcome: Outcome
    merged: Commit
    """Id of the commit that merged the record into the main branch. The seeds are computed from this id."""


class Submission(Strict):
    """A submitted result, as `submission.json` states it. `llmbench verify` recomputes its numbers from the stored
    runs."""

    schema_version: Literal[1] = 1
    number: Positive
    name: Annotated[str, Field(pattern=SUBMISSION_NAME)]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    kind: Kind
    """`opening`: the base, the track's first record. `record`: a candidate that broke the record. `negative`: a
    candidate that did not break it. `challenge`: a re-run of a record."""
    lane: Lane
    track: TrackName
    track_digest: Sha256
    record: Arm | None
    """The record that the candidate was measured against; None for an opening."""
    candidate: Arm
    attempt: Positive
    """How many candidates, this one included, were judged since the last record. For a challenge: how many challenges
    its record has had, this one included. For an opening: 1."""
    verdict: Verdict | None
    """None for an opening."""
    files: dict[Literal["curves.png", "track.toml"], Sha256]
    """Digests of the files that cannot be made again from the runs."""
    challenge: Challenge | None = Field(default=None, exclude_if=lambda challenge: challenge is None)
    """The details of a challenge; None for other kinds."""
    knowledge_nats: Annotated[float, Field(ge=0)] | None = Field(default=None, exclude_if=lambda nats: nats is None)
    """Upper bound on the gain, in nats per token, from val text that the candidate's new variants may store in their
    code. None without new variants, and in older submissions."""
    audit: Audit | None = ABSENT
    """Result of the audit, which tests one trained model of the candidate for leaks of val. None in a negative result,
    and in submissions that are older than this test."""
    sizes: dict[TrackName, OtherSize] | None = ABSENT
    """The results on the other sizes of the track that its rule names. None if it names none, for a challenge, and if
    the candidate was not accepted for its loss."""

    @property
    def added_variants(self) -> list[str]:
        """The candidate's variants that are not in the record."""
        return [name for name in self.candidate.sources if self.record is None or name not in self.record.sources]

    @property
    def lost_on(self) -> list[TrackName]:
        """The other sizes of the track on which the candidate is significantly worse than the record."""
        return [name for name, size in (self.sizes or {}).items() if size.loses]

    @property
    def folder_name(self) -> str:
        return f"{self.number:04d}-{self.name}"

    @property
    def arms(self) -> dict[ArmName, Arm]:
        """Name -> arm. A submission of a track's base (an opening) has only the candidate."""
        candidate: dict[ArmName, Arm] = {"candidate": self.candidate}
        return candidate if self.record is None else {"record": self.record, **candidate}


_SUBMISSION: TypeAdapter[Submission] = TypeAdapter(Submission)


def confirmation_seeds(track: Track, record: Mapping[str, str], candidate: Mapping[str, str], count: int) -> list[int]:
    """`count` seeds for a confirmation. They are computed from the track and from the code of record and candidate, so
    that nobody can choose them.

    `record` and `candidate` map each variant of an arm, in the order of its recipe, to the digest of its syntax tree. A
    variant's file name, and edits that do not change its syntax tree, do not change the seeds.
    """
    drawn = _derived_seeds("confirmation", track.digest, candidate_key(record), candidate_key(candidate))
    return _new_seeds(drawn, track.seeds, count)


def candidate_key(sources: Mapping[str, str]) -> str:
    """Key of a candidate, made from the digests of its variants, in their order. Equal code gives equal keys."""
    return json.dumps(list(sources.values()))


def fresh_seeds(submission: Submission, purpose: str, count: int) -> list[int]:
    """`count` seeds for training a submission again, all different from the seeds that its runs used.

    They are computed from its sources, its runs and `purpose`, a text that differs for each use.
    """
    candidate = submission.candidate
    content = candidate_key(candidate.sources), json.dumps(candidate.runs)
    drawn = _derived_seeds(purpose, submission.track_digest, *content)
    return _new_seeds(drawn, candidate.seeds, count)


def _derived_seeds(*key: str) -> Iterator[int]:
    """An endless sequence of seeds that are computed from the arguments, so that nobody can choose them."""
    return (derive_seed(*key, index) % 2**31 for index in itertools.count())


def _new_seeds(drawn: Iterator[int], taken: Iterable[int], count: int) -> list[int]:
    """The first `count` different seeds of `drawn` that are not in `taken`."""
    used, seeds = set(taken), list[int]()
    while len(seeds) < count:
        if (seed := next(drawn)) not in used:
            used.add(seed)
            seeds.append(seed)
    return seeds


def run_file(arm: ArmName, seed: int) -> str:
    """Path of the file of one run, relative to the submission's folder."""
    return f"runs/{arm}-seed-{seed}.json"


def size_file(track: TrackName, arm: ArmName, seed: int) -> str:
    """Path of the file of one run on another size of the track, relative to the submission's folder."""
    return f"sizes/{track}/{arm}-seed-{seed}.json"


def sizes_asked(track: Track, lane: Lane, verdict: Verdict | None) -> dict[TrackName, Sha256]:
    """Other sizes of the track on which a candidate with this verdict must be measured: name -> digest of that size."""
    accepted = verdict is not None and verdict.decision == "accepted" and lane == "loss"
    return (track.rule.holds_on or {}) if accepted else {}


def size_gain(records: Sequence[FinishedRun], candidates: Sequence[FinishedRun]) -> Interval:
    """Mean gain over all pairs, in nats per token, with its 90 % confidence interval.

    Raises LlmbenchError for fewer than two pairs.
    """
    losses = zip(records, candidates, strict=True)
    return gain_at(Rung(1.0, [one.evaluation.val_loss - two.evaluation.val_loss for one, two in losses]), 0.9)


def load_finished(path: Path) -> FinishedRun:
    """Read a run that has a score. Raises LlmbenchError for a run that failed, and so has no score."""
    run = load_run(path)
    if isinstance(run, FailedRun):
        raise LlmbenchError(
            f"{path} is a run that failed ({run.status}), so it has no val loss; only runs with a val loss can be "
            f"submitted"
        )
    return run


def load_submission(folder: Path, text: str | None = None) -> Submission:
    """Read and check `submission.json`. `text` is its content, if it was read already.

    Raises LlmbenchError if it is not valid. The message names the file, the key and the fix.
    """
    return read_record(folder / "submission.json", _SUBMISSION, text)


def knowledge_per_token(texts: Iterable[str], track: Track) -> float | None:
    """Upper bound on the gain, in nats per token, from val text that these sources may store; None without sources."""
    known = [knowledge_nats(text) for text in texts]
    return round(sum(known) / (track.data.pin("val").tokens - 1), KNOWLEDGE_DIGITS) if known else None


@dataclass(frozen=True)
class Claim:
    """A submission and the files in its folder.

    Each property raises LlmbenchError if a file that it reads is missing or not valid.
    """

    folder: Path
    submission: Submission

    @cached_property
    def track(self) -> Track:
        """The track as it was when the submission was made."""
        return parse_track(self.folder / "track.toml", self.submission.track)

    @cached_property
    def runs(self) -> dict[ArmName, list[FinishedRun | FailedRun]]:
        """Arm -> its runs, in the order of its seeds. Only in a challenge may a run of the candidate have failed."""
        runs: dict[ArmName, list[FinishedRun | FailedRun]] = {"record": [], "candidate": []}
        for name, arm in self.submission.arms.items():
            load = load_run if (self.submission.kind, name) == ("challenge", "candidate") else load_finished
            runs[name] = [load(self.folder / run_file(name, seed)) for seed in arm.seeds]
        return runs

    @cached_property
    def size_tracks(self) -> dict[TrackName, Track]:
        """The other sizes of the track, as they were when the submission was made."""
        return {
            name: parse_track(self.folder / f"sizes/{name}/track.toml", name) for name in self.submission.sizes or {}
        }

    @cached_property
    def size_runs(self) -> dict[TrackName, dict[ArmName, list[FinishedRun]]]:
        """Other size of the track -> arm -> its runs, in the order of its seeds."""
        return {
            name: {
                arm: [load_finished(self.folder / size_file(name, arm, int(seed))) for seed in runs]
                for arm, runs in size.runs.items()
            }
            for name, size in (self.submission.sizes or {}).items()
        }

    @property
    def finished(self) -> dict[ArmName, list[FinishedRun]]:
        """Arm -> its runs that have a score."""
        return {name: finished(runs) for name, runs in self.runs.items()}

    @cached_property
    def sources(self) -> dict[str, str]:
        """Variant -> its source as the submission keeps it, for the variants of both arms."""
        variants = {variant: None for arm in self.submission.arms.values() for variant in arm.sources}
        return {variant: read_text(self.folder / "sources" / f"{variant}.py") for variant in variants}

    def cost(self, arm: Arm) -> int:
        """Cost of an arm's recipe in statements, counted in the sources that the submission keeps."""
        return sum(count_statements_of(self.sources[variant]) for variant in arm.sources)

    @property
    def knowledge_nats(self) -> float | None:
        """The value that the submission's `knowledge_nats` must have, computed from the sources that it keeps."""
        return knowledge_per_token((self.sources[name] for name in self.submission.added_variants), self.track)

    @cached_property
    def verdict(self) -> Verdict | None:
        """The verdict, recomputed from the runs, sources and track that the submission keeps; None for an opening."""
        submission, rule = self.submission, self.track.rule
        if submission.record is None:
            return None
        return decide_arms(
            self.runs["record"],
            self.runs["candidate"],
            rule_again(rule) if submission.kind == "challenge" else rule,
            added_statements=self.cost(submission.candidate) - self.cost(submission.record),
            lane=submission.lane,
            # Only a negative result may rest on a screen. Every other submission is judged as a confirmation.
            stage=submission.verdict.stage if submission.kind == "negative" and submission.verdict else "confirmation",
        ).verdict
