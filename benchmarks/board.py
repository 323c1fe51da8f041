"""How checking and showing the board grow with it: boards of N generated submissions that `verify` accepts.

The generated runs are committed ones with other numbers, tracks and recipes; every digest, verdict, attempt and
README is made by the functions that `submit` uses. Each of eight tracks has an opening, five records (a new variant
each) and a challenge of each; the rest are negative results. Each board is a checkout of its own in a scratch folder.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.board.challenge import challenge_seeds  # noqa: E402
from harness.board.leaderboard import rebuild  # noqa: E402
from harness.board.readme import submission_markdown  # noqa: E402
from harness.board.submission import Arm, Challenge, Submission, confirmation_seeds  # noqa: E402
from harness.core.project import Project, sha256  # noqa: E402
from harness.core.runs import FinishedRun, dump_json, load_run  # noqa: E402
from harness.core.track import Rule, Track, load_track  # noqa: E402
from harness.rule.replication import outcome_of_record, rule_again  # noqa: E402
from harness.rule.verdict import Stage, Verdict, decide_arms  # noqa: E402
from harness.variants.canonical import tree_digest  # noqa: E402
from harness.variants.cost import count_statements_of  # noqa: E402

NUM_TRACKS = 8
NUM_RECORDS = 5  # a track
RECORDS_END = 0.9  # share of a track's submissions among which its records lie
TEMPLATE = ROOT / "submissions" / "0002-pocket-token_smear"
SPREAD_NATS = 0.003  # of what a run does not share with its pair: 0.0042 / sqrt(2), benchmarks/noise/pocket
GAIN_NATS = 0.06  # of a record; the first one of `pocket` gained 0.05
COMMIT = "0" * 40  # that brought every record, as if; a board without a history cannot say
VARIANT = '''"""Embedding scale: multiply the embeddings by {factor} (generated for a benchmark)."""

from dataclasses import replace

from torch import nn


class Scaled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, tokens_BT):
        return {factor} * self.inner(tokens_BT)


def apply(parts):
    return replace(parts, embedding=lambda config: Scaled(parts.embedding(config)))
'''


@dataclass
class Contest:
    """One generated track and what happened on it so far."""

    track: Track
    rules: bytes
    runs: list[FinishedRun]
    """The record holder's, one for each public seed."""
    sources: dict[str, str] = field(default_factory=dict)
    """Variant -> source text of the record."""
    level: float = 3.6
    """Mean val loss of the record, nats per token."""
    attempts: int = 0
    """Since the last record."""
    unchallenged: Submission | None = None
    """The record, until it has its challenge."""


class Board:
    """Writes one submission after the other into a scratch checkout."""

    def __init__(self, root: Path) -> None:
        for folder in ("harness", "models", "tracks"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.project, self.draw, self.number = Project(root), random.Random(0), 0
        self.picture = root / "curves.png"
        shutil.copy(TEMPLATE / "curves.png", self.picture)
        run = load_run(next((TEMPLATE / "runs").glob("candidate-*.json")))
        assert isinstance(run, FinishedRun)
        self.template = run
        self.contests = [self._track(f"board-{index}") for index in range(1, NUM_TRACKS + 1)]

    def _track(self, name: str) -> Contest:
        text = (ROOT / "tracks" / "pocket.toml").read_text().replace('name = "pocket"', f'name = "{name}"')
        (self.project.tracks / f"{name}.toml").write_text(text)
        return Contest(load_track(self.project, name), text.encode(), [])

    def fill(self, count: int) -> None:
        """File `count` submissions, track after track in turn."""
        each = count // NUM_TRACKS
        records = {round((i + 1) * RECORDS_END * each / (NUM_RECORDS + 1)) for i in range(NUM_RECORDS)}
        for place in range(count):
            contest, turn = self.contests[place % NUM_TRACKS], place // NUM_TRACKS
            if turn == 0:
                self._open(contest)
            elif turn in records:
                self._compete(contest, GAIN_NATS)
            elif contest.unchallenged:
                self._challenge(contest)
            else:
                self._compete(contest, 0.0)
        rebuild(self.project)

    def _open(self, contest: Contest) -> None:
        contest.runs = self._runs(contest, "base", {}, contest.level, contest.track.seeds)
        self._write(contest, "opening", "baseline", None, {}, contest.runs, None, attempt=1)

    def _compete(self, contest: Contest, gain: float) -> None:
        """A new variant on top of the record: drawn again until the rule says what the board's plan says.

        One with a gain is confirmed, the others are dropped by the screen.
        """
        wanted, stage, rule = (
            "accepted" if gain else "rejected",
            "confirmation" if gain else "screen",
            contest.track.rule,
        )
        name = f"scale_{self.number + 1}"
        sources = contest.sources | {name: VARIANT.format(factor=1 + 1e-6 * (self.number + 1))}
        recipe = "+".join(("base", *sources))
        seeds, held = contest.track.seeds[: rule.screen_looks[-1]], contest.runs
        if gain:
            arms = ({variant: tree_digest(text) for variant, text in own.items()} for own in (contest.sources, sources))
            seeds = confirmation_seeds(contest.track, *arms, rule.looks[-1])
        while True:
            if gain:
                record = "+".join(("base", *contest.sources))
                held = self._runs(contest, record, contest.sources, contest.level, seeds)
            runs = self._runs(contest, recipe, sources, contest.level - gain, seeds)
            verdict = judge(held, runs, rule, count_statements_of(sources[name]), stage)
            if verdict.decision == wanted:
                break
        contest.attempts += 1
        records, kind = held[: verdict.pairs], "record" if gain else "negative"
        own = self._write(
            contest, kind, name, records, sources, runs[: verdict.pairs], verdict, attempt=contest.attempts
        )
        if gain:
            (self.project.variants / f"{name}.py").write_text(sources[name])
            contest.sources, contest.level = sources, contest.level - gain
            contest.runs = self._runs(contest, recipe, sources, contest.level, contest.track.seeds)
            contest.attempts = 0
            contest.unchallenged = own

    def _challenge(self, contest: Contest) -> None:
        """The record confirmed on fresh seeds."""
        target, rule = contest.unchallenged, rule_again(contest.track.rule)
        contest.unchallenged = None
        assert target is not None
        assert target.record is not None
        assert target.verdict is not None
        older = {name: text for name, text in contest.sources.items() if name in target.record.sources}
        seeds = challenge_seeds(target, 1, COMMIT, rule.looks[-1])
        while True:
            runs = self._runs(contest, target.candidate.recipe, contest.sources, contest.level, seeds)
            records = self._runs(contest, target.record.recipe, older, contest.level + GAIN_NATS, seeds)
            verdict = judge(records, runs, rule, target.verdict.added_statements)
            outcome = outcome_of_record(target.verdict, verdict)
            if outcome == "confirmed":
                break
        used, name = verdict.pairs, f"challenge-{target.number:04d}"
        challenge = Challenge(number=target.number, outcome=outcome, merged=COMMIT)
        self._write(
            contest, "challenge", name, records[:used], contest.sources, runs[:used], verdict, 1, challenge=challenge
        )

    def _runs(
        self, contest: Contest, recipe: str, sources: dict[str, str], level: float, seeds: tuple[int, ...] | list[int]
    ) -> list[FinishedRun]:
        """Runs whose losses lie around `level`, otherwise like the committed one."""
        runs = []
        for seed in seeds:
            shift = self.draw.gauss(level, SPREAD_NATS) - self.template.evaluation.val_loss
            evaluation = self.template.evaluation.model_copy(
                update={"nats": self.template.evaluation.nats + shift * self.template.evaluation.tokens}
            )
            curve = tuple(
                point.model_copy(
                    update={
                        "dev_loss_nats": point.dev_loss_nats + shift,
                        "train_loss_nats": point.train_loss_nats + shift,
                    }
                )
                for point in self.template.training.curve
            )
            weights = sha256(f"{contest.track.name} {recipe} {seed} {shift}".encode())
            training = self.template.training.model_copy(update={"weights_sha256": weights, "curve": curve})
            runs.append(
                self.template.model_copy(
                    update={
                        "track": contest.track.name,
                        "training_digest": contest.track.training_digest,
                        "recipe": recipe,
                        "sources": {name: tree_digest(text) for name, text in sources.items()},
                        "seed": seed,
                        "training": training,
                        "evaluation": evaluation,
                    }
                )
            )
        return runs

    def _write(
        self,
        contest: Contest,
        kind: str,
        name: str,
        records: list[FinishedRun] | None,
        sources: dict[str, str],
        runs: list[FinishedRun],
        verdict: Verdict | None,
        attempt: int,
        challenge: Challenge | None = None,
    ) -> Submission:
        """One folder under submissions/, as `submit` writes it. The picture is one file with many names."""
        self.number += 1
        submission = Submission(
            number=self.number,
            name=f"{contest.track.name}-{name}",
            date=self.template.training.ended[:10],
            kind=kind,  # type: ignore[arg-type]
            lane="loss",
            track=contest.track.name,
            track_digest=contest.track.digest,
            record=self._arm(records, sources) if records else None,
            candidate=self._arm(runs, sources),
            attempt=attempt,
            verdict=verdict,
            files={"curves.png": sha256(self.picture.read_bytes()), "track.toml": sha256(contest.rules)},
            challenge=challenge,
        )
        folder = self.project.submissions / submission.folder_name
        (folder / "runs").mkdir(parents=True)
        for arm, own in (("record", records or []), ("candidate", runs)):
            for run in own:
                (folder / "runs" / f"{arm}-seed-{run.seed}.json").write_text(dump_json(run))
        for variant, text in sources.items():
            (folder / "sources").mkdir(exist_ok=True)
            (folder / "sources" / f"{variant}.py").write_text(text)
        os.link(self.picture, folder / "curves.png")
        (folder / "track.toml").write_bytes(contest.rules)
        (folder / "submission.json").write_text(dump_json(submission))
        (folder / "README.md").write_text(submission_markdown(submission, records or [], runs))
        return submission

    def _arm(self, runs: list[FinishedRun], sources: dict[str, str]) -> Arm:
        return Arm(
            recipe=runs[0].recipe,
            sources=runs[0].sources,
            statements=sum(count_statements_of(sources[name]) for name in runs[0].sources),
            runs={str(run.seed): sha256(dump_json(run).encode()) for run in runs},
        )


def judge(
    records: list[FinishedRun], runs: list[FinishedRun], rule: Rule, added: int, stage: Stage = "confirmation"
) -> Verdict:
    """At each look in turn, as a contest does."""
    for look in rule.looks if stage == "confirmation" else rule.screen_looks:
        judged = decide_arms(records[:look], runs[:look], rule, added_statements=added, lane="loss", stage=stage)
        if judged.verdict.decision != "undecided":
            break
    return judged.verdict


def timed(project: Project, *arguments: str) -> tuple[float, float]:
    """One command in the scratch checkout: its wall and its processor seconds, all of its processes together."""
    command = [sys.executable, "-m", "harness.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(project.root), "NO_COLOR": "1", "COLUMNS": "120"}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(project: Project, repeats: int) -> dict[str, str]:
    """Median wall and processor seconds of each command."""
    newest = max(project.submissions.iterdir(), key=lambda path: int(path.name.split("-")[0]))
    commands = {
        "`verify --all`": ("verify", "--all"),
        "`leaderboard --rebuild`": ("leaderboard", "--rebuild"),
        "`leaderboard`": ("leaderboard",),
        "`verify` of the newest": ("verify", f"submissions/{newest.name}"),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, arguments in commands.items():
            found[name].append(timed(project, *arguments))
    medians = {name: map(statistics.median, zip(*times, strict=True)) for name, times in found.items()}
    return {name: "{:.2f} s ({:.2f} s)".format(*both) for name, both in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--submissions", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="Make the first board in this new folder, measure nothing, keep it.")
    options = parser.parse_args()
    if options.keep:
        Board(options.keep).fill(options.submissions[0])
        return
    lines = []
    for count in options.submissions:
        with tempfile.TemporaryDirectory(prefix="llmbench-board-") as scratch:
            board = Board(Path(scratch) / "llmbench")
            board.fill(count)
            found = measure(board.project, options.repeats)
        if not lines:
            lines = ["| submissions | " + " | ".join(found) + " |", "|---:|" + "---:|" * len(found)]
        lines.append(f"| {count:,} | " + " | ".join(found.values()) + " |")
        print(lines[-1], flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
