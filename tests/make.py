"""What tests build and share: runs and contests, boards, checkouts that are driven through the command line, corpora.

Fixtures are in conftest.py; everything here can be imported by any test.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from pydantic_core import to_json

from harness.board.check_board import check_board
from harness.board.leaderboard import read_board, rebuild
from harness.core.dataspec import FilesData, TrainedTokenizer
from harness.core.project import Project
from harness.core.runs import FinishedRun, Machine, Pair, Provenance, finished, load_run
from harness.core.track import Rule, Track
from harness.referee.job import Job

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["the", "a", "dog", "cat", "tree", "river", "sees", "finds", "loves", "and", "or", "in", "naïve", "日本", "🙂"]
TEXTS = [f"{number}: " + " ".join(random.Random(number).choices(WORDS, k=40 + number % 17)) for number in range(120)]
"""A corpus of documents that all differ."""
OWN_VARIANTS = ("placebo", "qk_norm", "requery", "token_smear", "zero_compute_expert")
"""The project's own variants. A contributor's is checked by `llmbench submit` and `verify`, and by no test."""
NEED_EXPERTS = {"zero_compute_expert"}
"""Variants that go with mixture-of-experts tracks alone."""
MakeTrack = Callable[..., Track]

# The project's own submissions: four on one track, then an opening and a negative result on another.
FIRST = sorted((ROOT / "submissions").glob("000[1-6]-*"))
_, RECORD, NEGATIVE, *_ = FIRST

# --- runs and contests -------------------------------------------------------------------------------------------

PLAIN = next(iter(finished([load_run(ROOT / "benchmarks" / "noise" / "smoke" / "record-seed-0.json")])))
TOKENS = 1024  # a power of two: losses survive nats -> val_loss to the bit

RULE = Rule(
    noise_variant="placebo",
    noise_nats=2.0**-6,
    screen_looks=(1, 2, 4),
    screen_pass=(2.5, 1.5, 0.75),
    screen_drop=(-0.5, 0.25, 0.75),
    alpha=0.01,
    looks=(3, 4, 6, 8),
    levels=(0.001438, 0.001869, 0.002876, 0.005751),
    futility_alpha=0.5,
    time_level=0.2,
    loss_per_statement=2.0**-13,
    max_slowdown=0.1,
    milestone=0.5,
    milestone_deficit=0.3,
    speed_per_statement=2e-5,
    loss_tolerance=2.0**-6,
    time_tolerance=0.02,
)
STORED = RULE.model_copy(update={"stored_runs": 8, "levels": (0.0025,) * 4})
"""The record's runs are stored ones, which every candidate is compared with."""
NOON = "2026-11-22T12:00:00Z"


def make_run(
    recipe: str, seed: int, val_loss: float, train_s: float = 10.0, ended: str = NOON, **changes: Any
) -> FinishedRun:
    """A whole, valid run; `changes` go to it, or to its provenance where that has such a field."""
    machine = Machine(cpu="x", cores=2, memory_gib=8, os="Linux", python="3.11")
    provenance = Provenance(
        revision="a" * 40, dirty=False, packages={"torch": "2.11.0"}, machine=machine, threads=1, jobs=1
    )
    inner = {key: changes.pop(key) for key in list(changes) if key in Provenance.model_fields}
    training = {
        "train_s": train_s,
        "cpu_s": train_s,
        "wall_s": train_s,
        "warmup_s": 0.0,
        "ended": ended,
        "confinement": (),
        "curve": (),
    }
    evaluation = {"nats": val_loss * TOKENS, "tokens": TOKENS, "correct": 0, "confinement": ()}
    fields = {
        "training_digest": "b" * 64,
        "recipe": recipe,
        "sources": dict.fromkeys(recipe.split("+")[1:], "c" * 64),
        "code_digest": "d" * 64,
        "seed": seed,
        "provenance": provenance.model_copy(update=inner),
        "training": PLAIN.training.model_copy(update=training),
        "evaluation": PLAIN.evaluation.model_copy(update=evaluation),
    }
    return PLAIN.model_copy(update=fields | changes)


def make_pairs(
    record: Sequence[float], candidate: Sequence[float], times: Sequence[tuple[float, float]] | None = None
) -> list[Pair]:
    """Pairs with seeds 0, 1, ... and `times` in seconds (record, candidate), 10 s each by default."""
    times = times or [(10.0, 10.0)] * len(record)
    return [
        Pair(make_run("base", seed, r, time[0]), make_run("base+idea", seed, c, time[1]))
        for seed, (r, c, time) in enumerate(zip(record, candidate, times, strict=True))
    ]


# Multiples of 1/1024 keep every sum and difference exact, so that verdicts can be compared to the bit.
losses = st.integers(2048, 4096).map(lambda k: k / 1024)
seconds = st.integers(512, 2048).map(lambda k: k / 64)
steps = st.integers(1, 1024).map(lambda k: k / 1024)


@st.composite
def contests(draw: st.DrawFn, largest: int = 9, gains: Sequence[float] = (0.125, 0.0, 0.5, -0.25)) -> list[Pair]:
    """Pairs with one of `gains` in much or little noise, with equal or with random times."""
    num = draw(st.sampled_from([n for n in (3, 4, 6, 8, 8, 9, 5, 2, 0) if n <= largest]))
    gain, size = draw(st.sampled_from(gains)), draw(st.sampled_from([4, 32]))
    base, noise = draw(losses), st.integers(-size, size).map(lambda k: k / 1024)
    record = [base + draw(noise) for _ in range(num)]
    candidate = [base - gain + draw(noise) for _ in range(num)]
    times = [(draw(seconds), draw(seconds)) for _ in range(num)] if draw(st.booleans()) else None
    return make_pairs(record, candidate, times)


# --- boards ------------------------------------------------------------------------------------------------------

MOST_LOSS = 0.004  # nats a token that one made-up record gains over the one before


def copy_board(root: Path, count: int = len(FIRST)) -> Project:
    """What `verify` reads of the first `count` submissions, so that a test knows its board whatever is filed later."""
    for folder in (ROOT / "tracks", ROOT / "models", *FIRST[:count]):
        shutil.copytree(folder, root / folder.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", root / "README.md")
    rebuild(Project(root))
    return Project(root)


def edit(path: Path, **fields: Any) -> dict[str, Any]:
    """Replace keys of a JSON file; its new content."""
    content: dict[str, Any] = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(content))
    return content


def make_board(root: Path) -> Project:
    """A board of nine submissions: the eighth a record, the others negative, over months.

    Losses and curves are those of the committed confirmation, shifted; so verdicts come from real scatter.
    """
    project = copy_board(root, 3)
    claim = json.loads((RECORD / "submission.json").read_text())
    recipe, sources, won = claim["candidate"]["recipe"], claim["candidate"]["sources"], 0
    real_gain = claim["verdict"]["gain"]
    for number in range(4, 10):
        idea, is_record = f"idea_{number}", number == 8
        folder = project.submissions / f"{number:04d}-pocket-{idea}"
        shutil.copytree(RECORD, folder)
        text = (NEGATIVE / "sources" / "qk_norm.py").read_text() + f"x = {number}\n" * (7 * number % 30)
        (folder / "sources" / f"{idea}.py").write_text(text)
        for variant in sources:
            shutil.copy(RECORD / "sources" / "token_smear.py", folder / "sources" / f"{variant}.py")
        claim = json.loads((folder / "submission.json").read_text())
        record = claim["record"] | {"recipe": recipe, "sources": sources}
        ours = {**sources, idea: f"{number:064x}"}
        candidate = claim["candidate"] | {"recipe": f"{recipe}+{idea}", "sources": ours, "statements": 20 + number}
        edit(
            folder / "submission.json",
            number=number,
            name=f"pocket-{idea}",
            kind="record" if is_record else "negative",
            date=f"2027-{1 + number // 5:02d}-{1 + number % 5 * 6:02d}",
            record=record,
            candidate=candidate,
        )
        for path in (folder / "runs").iterdir():
            is_candidate = path.name.startswith("candidate")
            shift = MOST_LOSS * (won + (4 if is_record and is_candidate else number % 3 if is_candidate else 0))
            shift -= real_gain if is_candidate else 0
            run = json.loads(path.read_text())
            run["evaluation"]["nats"] -= shift * run["evaluation"]["tokens"]
            for point in run["training"]["curve"]:
                point["dev_loss_nats"] -= shift
            path.write_text(json.dumps(run))
        if is_record:
            recipe, sources, won = candidate["recipe"], ours, won + 4
    return project


def newest(project: Project, kind: str) -> Path:
    """The folder of the newest submission of a kind."""
    found = [submission for submission in read_board(project).submissions if submission.kind == kind]
    return project.submissions / found[-1].folder_name


def written(content: Any) -> str:
    """JSON as llmbench writes it, to the byte: what is not changed stays as it was."""
    return to_json(content, indent=1).decode() + "\n"


def smoke_with(data: str, name: str = "smoke") -> str:
    """The smoke track as TOML under another name, with this [data] and 300 tokens in its vocabulary."""
    text = (ROOT / "tracks" / "smoke.toml").read_text().replace("vocab_size = 512", "vocab_size = 300")
    head, _, tail = text.partition("[data]")
    return f"{head.replace('smoke', name, 1)}[data]\n{data}\n[model]{tail.partition('[model]')[2]}"


def make_job(track: Track, folder: Path) -> Job:
    """A run of the base on `track`, which is smoke or made of it, with no checkpoint on the way."""
    return Job(
        root=str(ROOT),
        track="smoke",
        training_digest=track.training_digest,
        recipe="base",
        sources={},
        seed=0,
        folder=str(folder),
        checkpoint_every_s=1e9,
    )


def files(pattern: Path | str, **fields: Any) -> FilesData:
    """The data of a track whose text is in files, with a tokenizer of its own."""
    usual = {"tokenizer": TrainedTokenizer(source="trained"), "dev_fraction": 0.1, "val_fraction": 0.2}
    return FilesData(source="files", files=(str(pattern),), **{**usual, **fields})


def write_text(folder: Path, texts: list[str]) -> dict[str, Any]:
    for number, text in enumerate(texts):
        (folder / f"{number:04}.txt").write_text(text)
    return {"format": "text", "document": "file"}


def write_paragraphs(folder: Path, texts: list[str]) -> dict[str, Any]:
    (folder / "all.txt").write_text("\n\n".join(texts))
    return {"format": "text", "document": "paragraph"}


def write_lines(folder: Path, texts: list[str]) -> dict[str, Any]:
    (folder / "all.txt").write_text("\n".join(texts))
    return {"format": "text", "document": "line"}


def write_jsonl(folder: Path, texts: list[str]) -> dict[str, Any]:
    (folder / "all.jsonl").write_text("".join(json.dumps({"n": 1, "body": text}) + "\n" for text in texts))
    return {"format": "jsonl", "text": "body"}


def write_parquet(folder: Path, texts: list[str]) -> dict[str, Any]:
    half = len(texts) // 2
    for name, part in (("a", texts[:half]), ("b", texts[half:])):
        pq.write_table(pa.table({"n": range(len(part)), "body": part}), folder / f"{name}.parquet", row_group_size=7)
    return {"format": "parquet", "text": "body"}


WRITERS = [write_text, write_paragraphs, write_lines, write_jsonl, write_parquet]
Write = Callable[[Path, list[str]], dict[str, Any]]


def verify_board(project: Project) -> dict[str, list[str]]:
    """Folder or file name -> the problems that `verify --all` finds."""
    return {name: checked.problems for name, checked in check_board(project).items()}
