"""What `--json` prints, command by command: one pydantic model each, from which `llmbench schema` makes JSON Schema.

History of `schema_version`:
1 (2026-11): first version. A new field is no new version; a field that goes, or means something else, is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from harness.board.leaderboard import Standing
from harness.board.rows import Row
from harness.board.submission import Submission
from harness.core.dataspec import SplitName, SplitPin
from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.runs import Run
from harness.core.schema import Count, Sha256, Strict
from harness.core.track import Track
from harness.lab.doctor import Diagnosis
from harness.lab.noise import ContestPlan, NoiseReport
from harness.rule.external import Judgement
from harness.rule.replication import Outcome, State
from harness.rule.verdict import Verdict


class Document(Strict):
    """What every document has."""

    schema_version: Literal[1] = 1


class RunBaseline(Document):
    """`run baseline`: the record holder's runs. Exit code 0, or 2 where a run failed."""

    track: str
    exploratory: bool
    """Whether --set changed the track: such runs enter no board."""
    recipe: str
    runs: tuple[Run, ...]


class RunCandidate(Document, Verdict):
    """`run candidate`: the verdict and who competed. Exit code 0 accepted, 3 rejected, 4 undecided."""

    track: str
    exploratory: bool
    record: str
    candidate: str
    attempt: int | None
    """The how-manieth different candidate since the last record; None where the run explores."""
    failed: tuple[str, ...]
    """Runs without a score, a sentence each."""


class Submit(Document):
    """`submit`: what was filed, and the pull request's text."""

    folder: str
    submission: Submission
    markdown: str
    branch: str | None
    """With --open the branch that holds it."""
    pull_request: str | None
    """With --open the address of the pull request; None without the `gh` tool, which would make it."""
    commands: tuple[str, ...]
    """With --open and without `gh`: what opens the pull request by hand."""


class Rerun(Strict):
    """A claim trained again. Exit code 0 confirmed, 3 refuted, 4 open."""

    outcome: Outcome
    claim: Verdict | None
    """What was filed; None for an opening."""
    again: Verdict | None
    """What the re-run gives; None for an opening, whose seeds are trained once more."""
    seeds: tuple[int, ...]
    failed: tuple[str, ...] = ()
    differs: dict[str, str] = Field(default_factory=dict)
    """Of an opening: reason code -> what differs between then and now."""
    gain: float | None = None
    """Of an opening: nats by which the mean is lower now."""
    ci_low: float | None = None
    ci_high: float | None = None


class Challenge(Document, Rerun):
    """`challenge`: what the re-run of a record says, and where it was filed."""

    folder: str
    state: State
    """Of the record by now: empty, `disputed` or `retracted`."""
    markdown: str


class FlagFound(Strict):
    """Something odd about a submission, for a reviewer."""

    name: str
    detail: str


class Verify(Document):
    """`verify`: problems and flags. Exit code 0, 3 where there are problems, 4 where the board has moved on."""

    ok: bool
    problems: dict[str, tuple[str, ...]]
    """Folder or file -> what is wrong with it."""
    num_flags: Count = 0
    flags: dict[str, tuple[FlagFound, ...]] = Field(default_factory=dict)
    base: str | None = None
    """With --base the commit that was compared with."""
    new: tuple[str, ...] = ()
    """With --base the folders under submissions/ that are new."""
    summary: str | None = None
    stale: tuple[str, ...] = ()
    """With --base those of the problems that say that the board has moved on."""
    rerun: Rerun | None = None
    """With --rerun."""


class Judge(Document, Judgement):
    """`judge`: one fixed test. Exit code 0 accepted, 3 rejected, 4 undecided."""


class Explain(Document):
    """`explain`: codes and what they mean."""

    reasons: dict[str, str]


class Noise(Document, NoiseReport):
    """`noise`: what luck alone does on a track."""

    track: str


class Plan(Document, ContestPlan):
    """`plan`: what a gain costs to show."""

    track: str
    gain: float
    statements: Count


class Leaderboard(Document):
    """`leaderboard`: a row a submission, in the order of their numbers."""

    rows: tuple[Row, ...]


class VariantEntry(Strict):
    """One variant."""

    name: str
    statements: Count
    summary: str
    """First line of its docstring: the change and its source."""
    sha256: Sha256
    standings: tuple[Standing, ...]
    """Newest first."""


class Variants(Document):
    """`variants`: each with its cost and its standing; of a broken file, why it is refused."""

    variants: tuple[VariantEntry, ...]
    broken: dict[str, str]
    """Name -> why the file is no variant."""


class TrackEntry(Strict):
    """One track."""

    name: str
    digest: Sha256
    holder: Count | None
    """Number of the submission that holds its present edition; None where nobody opened it."""
    recipe: str | None
    """That holds it."""
    val_loss: float | None
    """Of the holder, mean over its seeds, nats per token."""
    track: Track


class Tracks(Document):
    """`tracks`: the contests and who holds them."""

    tracks: tuple[TrackEntry, ...]


class DataInfo(Document):
    """`data info`: a track's source and splits."""

    track: str
    source: dict[str, Any]
    """The table [data] of the track's file without its pins."""
    pinned: bool
    cache: str
    cached: bool
    checked: bool
    origin: dict[str, str]
    dtype: Literal["<u2", "<u4"]
    tokenizer_sha256: Sha256 | None
    splits: dict[SplitName, SplitPin]


class DataPrepare(Document):
    """`data prepare`: where the tokens lie."""

    track: str
    cache: str


class DataPin(Document):
    """`data pin`: what the track's file says by now."""

    track: str
    tokenizer_sha256: Sha256
    splits: dict[SplitName, SplitPin]


class Doctor(Document, Diagnosis):
    """`doctor`: this machine, and what it can run."""


class Schema(Document):
    """`schema` without a command: the JSON Schema of every command's document."""

    commands: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]


DOCUMENTS: Mapping[str, type[Document]] = {
    "run baseline": RunBaseline,
    "run candidate": RunCandidate,
    "submit": Submit,
    "verify": Verify,
    "challenge": Challenge,
    "judge": Judge,
    "explain": Explain,
    "noise": Noise,
    "plan": Plan,
    "leaderboard": Leaderboard,
    "variants": Variants,
    "tracks": Tracks,
    "data prepare": DataPrepare,
    "data pin": DataPin,
    "data info": DataInfo,
    "doctor": Doctor,
    "schema": Schema,
}


def json_schema(command: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what `command --json` prints. Raises LlmbenchError for an unknown command."""
    if command not in DOCUMENTS:
        raise LlmbenchError(
            f"there is no command '{command}' with --json{did_you_mean(command, DOCUMENTS)}; "
            f"commands are {', '.join(DOCUMENTS)}"
        )
    schema = TypeAdapter(DOCUMENTS[command]).json_schema()
    schema["required"] = ["schema_version", *schema.get("required", ())]  # it has a default, and is always printed
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"llmbench {command} --json", **schema}


def fields_of(record: BaseModel) -> dict[str, Any]:
    """A record's fields as they are, to make a document of it."""
    return dict(record)


def joined(lists: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Lists as tuples."""
    return {name: tuple(items) for name, items in lists.items()}
