"""The documents that `--json` prints: one pydantic model for each command.

`llmbench schema` prints the JSON Schema of each document.

Version 1 (2026-11) is the first `schema_version`. A new field does not change the version. Removing a field, or
changing its meaning, makes a new version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.board.flags import Flag
from harness.board.leaderboard import Standing
from harness.board.rows import Row
from harness.board.submission import Submission
from harness.compare.comparison import Compared, Comparison
from harness.core.audit import Audit
from harness.core.dataspec import SplitName, SplitPin
from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.runs import Run
from harness.core.schema import Count, Positive, Sha256, Strict
from harness.core.track import Track
from harness.lab.doctor import Diagnosis
from harness.lab.history import Judged
from harness.lab.rerun import Repeat
from harness.lab.studies.ablation import Ablation
from harness.lab.studies.noise import NoiseReport
from harness.lab.studies.outcomes import CampaignRow
from harness.lab.studies.rungs import Ladder
from harness.rule.external import Judgement
from harness.rule.forecast import ContestPlan
from harness.rule.replication import State
from harness.rule.verdict import Verdict


class Document(Strict, defer_build=True):
    """Base class of all documents. A document's schema is built when it is first used."""

    schema_version: Literal[1] = 1


class RunBaselineDocument(Document):
    """`run baseline`: the runs of the record's recipe. Exit code: 0, or 2 if a run failed."""

    track: str
    exploratory: bool
    """Whether --set changed the track; such runs cannot be submitted."""
    recipe: str
    runs: tuple[Run, ...]


class RunCandidateDocument(Document, Verdict):
    """`run candidate`: the verdict and both recipes. Exit codes: 0 accepted, 3 rejected, 4 undecided."""

    track: str
    exploratory: bool
    record: str
    candidate: str
    attempt: int | None
    """Number of different candidates since the last record, including this one; None if --set changed the track."""
    screen: Verdict | None
    """The screen's verdict, if this document holds the verdict of a confirmation after a screen; else None."""
    failed: tuple[str, ...]
    """One sentence for each run without a score."""
    flags: tuple[Flag, ...]
    """Flags (unusual things) that `verify` would show to a reviewer of these runs; none if --set changed the track."""


class CampaignDocument(Document):
    """`campaign`: the outcomes of many candidates.

    Exit codes: 0 if all candidates have a verdict, 4 if some are undecided or were not started.
    """

    track: str
    record: str
    """Recipe of the track's record at the end of the campaign."""
    filed: bool
    """Whether results were submitted."""
    rows: tuple[CampaignRow, ...]
    """One row for each candidate, the largest gain first."""
    picture: str | None
    """Path of the picture; None if no candidate has a gain."""


class LadderDocument(Document, Ladder):
    """`ladder`: the gains of ideas on several sizes of a track."""

    track: str


class SubmitDocument(Document):
    """`submit`: the new submission, and the text of the pull request."""

    folder: str
    submission: Submission
    markdown: str
    branch: str | None
    """With --open: branch of the pull request."""
    pull_request: str | None
    """With --open: address of the pull request; None without the tool `gh`, which opens it."""
    commands: tuple[str, ...]
    """With --open and without `gh`: the commands that open the pull request by hand."""


class RerunFindings(Repeat, title="Rerun"):
    """The result of training a submission again. Exit codes: 0 confirmed, 3 refuted, 4 open (neither)."""

    claim: Verdict | None
    """The verdict in the submission; None if it is the first submission of a track, the base."""
    again: Verdict | None
    """The verdict of the re-run; None if the submission files a track's base: its own seeds are trained again."""
    seeds: tuple[int, ...]
    failed: tuple[str, ...] = ()
    """One sentence for each run without a score."""
    audit: Audit | None = None
    """The test that the newly trained model sees no later tokens (its audit), if the submission is a record."""


class ChallengeDocument(Document, RerunFindings):
    """`challenge`: the result of training a record again, and the folder of the submission with these runs."""

    folder: str
    state: State
    """State of the record after this challenge; empty if it is confirmed."""
    markdown: str


class VerifyDocument(Document):
    """`verify`: problems, and flags (notes for a reviewer about unusual things).

    Exit codes: 0 no problem, 3 problems, 4 problems only because other submissions were merged in the meantime.
    """

    ok: bool
    problems: Mapping[str, Sequence[str]]
    """Folder or file -> its problems."""
    num_flags: Count = 0
    flags: Mapping[str, Sequence[Flag]] = Field(default_factory=dict)
    knowledge_nats: Mapping[str, float] = Field(default_factory=dict)
    """Submission -> the most that its sources could know of val, in nats per token; for named and new submissions."""
    base: str | None = None
    """With --base: the commit with which the working tree was compared."""
    new: tuple[str, ...] = ()
    """With --base: new folders under submissions/."""
    summary: str | None = None
    stale: tuple[str, ...] = ()
    """With --base: problems that exist only because other submissions were merged since."""
    rerun: RerunFindings | None = None
    """With --rerun: the result of training the submission again."""


class JudgeDocument(Document, Judgement):
    """`judge`: the test's verdict on numbers from a file. Exit codes: 0 accepted, 3 rejected, 4 undecided."""


class CompareDocument(Document, Comparison):
    """`compare`: the verdict on two versions of a trainer. Exit codes: 0 accepted, 3 rejected, 4 undecided."""


class InitDocument(Document):
    """`init`: the files that the command wrote."""

    files: tuple[str, ...]


class ExplainDocument(Document):
    """`explain`: reason codes, with a sentence for each."""

    reasons: dict[str, str]


class NoiseDocument(Document, NoiseReport):
    """`noise`: how much results on a track vary by chance."""

    track: str


class AblateDocument(Document, Ablation):
    """`ablate`: how much each variant of a recipe lowers the loss, and whether that exceeds the price of its code."""

    track: str


class PlanDocument(Document, ContestPlan):
    """`plan`: how likely a gain is accepted, and how many runs and how much time screen and confirmation take."""

    track: str
    gain: float
    statements: Count


class LeaderboardDocument(Document):
    """`leaderboard`: one row for each submission, in the order of their numbers."""

    rows: tuple[Row, ...]


class HistoryDocument(Document):
    """`history`: all verdicts that were made on this machine, submitted or not, and the verdicts of all submissions."""

    verdicts: tuple[Judged, ...]
    """The verdicts, newest first."""
    comparisons: tuple[Compared, ...] = ()
    """Comparisons of the user's own trainer, from the folder `.llmbench` here, newest first."""


class VariantEntry(Strict):
    """One variant."""

    name: str
    statements: Count
    summary: str
    """First line of the variant's docstring: the change and its source."""
    sha256: Sha256
    standings: tuple[Standing, ...]
    """The submissions that add or remove the variant, with their states, newest first."""
    unfiled: tuple[Judged, ...]
    """This machine's verdicts on the variant's present code that are not submitted, newest first."""


class BuiltVariant(Strict):
    """The model that a player (the process that runs a variant's code) built from the base and one variant."""

    track: str
    num_params: Positive


class VariantsDocument(Document):
    """`variants`: all variants with their costs and results, and the reason for each file that is refused."""

    built: BuiltVariant | None = None
    """If one variant is named: its model on the first CPU track on which it starts."""

    variants: tuple[VariantEntry, ...]
    broken: dict[str, str]
    """Name -> why its file is not a variant."""


class TrackEntry(Strict):
    """One track."""

    name: str
    digest: Sha256
    holder: Count | None
    """Number of the submission that holds the record of the track as it is now; None if there is no submission."""
    recipe: str | None
    """Recipe of the record; None if the track has no submission."""
    val_loss: float | None
    """Mean val loss of the record over its seeds, in nats per token."""
    track: Track


class TracksDocument(Document):
    """`tracks`: the tracks, and the recipes of their records."""

    tracks: tuple[TrackEntry, ...]


class DataInfoDocument(Document):
    """`data info`: the source of a track's text, and its splits (train, dev, val)."""

    track: str
    source: dict[str, Any]
    """The table `[data]` of the track's file, without the pins (the digests of the tokens)."""
    pinned: bool
    cache: str
    cached: bool
    checked: bool
    origin: dict[str, str]
    dtype: Literal["<u2", "<u4"]
    tokenizer_sha256: Sha256 | None
    splits: dict[SplitName, SplitPin]


class DataPrepareDocument(Document):
    """`data prepare`: the folder with the track's tokens."""

    track: str
    cache: str


class DataPinDocument(Document):
    """`data pin`: the digests of the tokens, as they are now in the track's file."""

    track: str
    tokenizer_sha256: Sha256
    splits: dict[SplitName, SplitPin]


class DoctorDocument(Document, Diagnosis):
    """`doctor`: this machine, and what it can run."""


class SchemaDocument(Document):
    """`schema` without a command: the JSON Schema of every command's document."""

    commands: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]


DOCUMENTS = {
    " ".join(re.findall("[A-Z][a-z]+", document.__name__)[:-1]).lower(): document
    for document in Document.__subclasses__()
}
"""Command -> class of its document, such as `run baseline` -> RunBaselineDocument."""


def json_schema(command: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the output of `command --json`. Raises LlmbenchError for an unknown command."""
    if command not in DOCUMENTS:
        raise LlmbenchError(
            f"there is no command '{command}' with --json{did_you_mean(command, DOCUMENTS)}; "
            f"commands are {', '.join(DOCUMENTS)}"
        )
    document = DOCUMENTS[command]
    schema = document.model_json_schema()
    schema["title"] = document.__name__.removesuffix("Document")
    schema["required"] = ["schema_version", *schema.get("required", ())]  # is always printed, although it has a default
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
