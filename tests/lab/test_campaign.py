"""Campaigns: the outcome follows from the runs' numbers alone, whatever ends first, fails, is killed or moves."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.board.leaderboard import rebuild
from harness.core.errors import LlmbenchError, UndecidedError
from harness.core.project import Project
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.schema import parse_duration
from harness.core.track import load_track
from harness.lab.arms import Entry
from harness.lab.executor import Executor
from harness.lab.store import RunStore
from harness.lab.studies.campaign import Campaign
from harness.lab.studies.names import campaign_names
from harness.lab.studies.outcomes import CampaignRow, campaign_rows
from harness.referee.job import Job
from tests import kills
from tests.make import FIRST, PLAIN, ROOT, copy_board
from tests.sandbox import FiledContest, Sandbox, valid_document

IDEA = '''"""An idea (somebody, 2026).{notes}"""
from dataclasses import replace
def apply(parts):
    return replace(parts, optim=replace(parts.optim, muon_lr=parts.optim.muon_lr * {factor}))
'''
GAINS = {"best": 0.1, "good": 0.05, "none": 0.0, "some": 0.004, "bad": -0.05, "worse": -0.2}
"""Nats per token that a made-up variant gains."""


class MadeUp(Executor):
    """Makes up runs in milliseconds, in an order of its own: a variant's gain and the noise of recipe and seed."""

    name = "local"
    order = random.Random(0)
    made: ClassVar = Counter[str]()
    began: ClassVar = list[RunIdentity]()
    at_work, most_at_work = 0, 0
    wanted = 0
    """So many should be at work at once: until they were, a run waits a moment for the others."""
    guard = threading.Lock()
    refuses: ClassVar = dict[str, Exception]()

    @staticmethod
    def room(track: Any) -> int:
        return 2

    def make(self, run: RunIdentity, job: Job, watch: Any) -> FinishedRun | FailedRun:
        cls = type(self)
        with cls.guard:
            cls.made[run.recipe] += 1
            cls.began.append(run)
            cls.at_work += 1
            cls.most_at_work = max(cls.most_at_work, cls.at_work)
            pause = cls.order.random() * 0.01
        time.sleep(pause)
        deadline = time.monotonic() + 0.5
        while cls.most_at_work < cls.wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        with cls.guard:
            cls.at_work -= 1
        names = run.recipe.split("+")[1:]
        for name in names:
            if name in cls.refuses:
                raise cls.refuses[name]
        if "diverges" in names:
            return FailedRun(**dict(run), status="diverged", reason="the loss is no number")
        loss = 4.0 - sum(GAINS.get(name, 0.01) for name in names)
        loss += random.Random(f"{run.recipe} {run.seed}").gauss(0, 0.001)
        evaluation = PLAIN.evaluation.model_copy(update={"nats": loss * PLAIN.evaluation.tokens})
        return FinishedRun(**dict(run), training=PLAIN.training, evaluation=evaluation)


@pytest.fixture
def checkout(tmp_path: Path) -> Project:
    """A checkout whose track `pocket` is held by the base, with a file for each made-up variant."""
    project = copy_board(tmp_path / "llmbench", 1)
    (project.root / "harness").symlink_to(ROOT / "harness")
    for path in project.variants.glob("[a-z]*.py"):
        if path.stem not in ("placebo", "requery", "token_smear"):
            path.unlink()
    for place, name in enumerate((*GAINS, "diverges")):
        (project.variants / f"{name}.py").write_text(IDEA.format(factor=0.5 + place / 100, notes=""))
    MadeUp.made, MadeUp.began, MadeUp.refuses = Counter(), [], {}
    MadeUp.most_at_work = MadeUp.wanted = 0
    return project


def campaign(project: Project, names: Sequence[str], jobs: int = 2, **options: Any) -> Campaign:
    store = RunStore(project, load_track(project, "pocket"), jobs=jobs, executor=MadeUp)
    return Campaign(store, names, Entry(jobs=jobs), **options)


def outcomes(rows: Sequence[CampaignRow]) -> dict[str, tuple[Any, ...]]:
    """What must not depend on how a campaign went."""
    keys = ("outcome", "record", "stage", "gain", "ci_low", "price", "noise", "pairs", "note")
    return {row.name: (*(getattr(row, key) for key in keys), *row.reasons[:1]) for row in rows}


NAMES = (*GAINS, "diverges")


def test_the_outcome_depends_on_neither_order_nor_jobs_and_every_core_is_busy(checkout: Project) -> None:
    found = []
    for place, jobs in enumerate((1, 2, 5)):
        MadeUp.order, MadeUp.made, MadeUp.most_at_work, MadeUp.wanted = random.Random(place), Counter(), 0, jobs
        shutil.rmtree(checkout.runs, ignore_errors=True)
        own = campaign(checkout, NAMES, jobs)
        own.run()
        rows = campaign_rows(own)
        found.append(outcomes(rows))
        assert MadeUp.most_at_work == jobs
        if jobs == 1:
            pairs = sum(row.pairs for row in rows if row.stage == "confirmation")
            assert MadeUp.made["base"] == 4 + pairs, "the record's screen is made once, a confirmation's pairs anew"
            assert (MadeUp.made["base+bad"], MadeUp.made["base+diverges"]) == (1, 1)
    assert found[0] == found[1] == found[2]
    assert [row.name for row in rows[:2]] == ["best", "good"]
    decided = {name: (outcome, reason) for name, (outcome, *_, reason) in found[0].items()}
    assert decided["best"] == decided["good"] == ("accepted", "gain_shown")
    assert decided["bad"] == ("rejected", "screened_out")
    assert decided["diverges"] == ("rejected", "candidate_failed")
    assert {row.name: row.note for row in rows if row.note} == {"diverges": "the loss is no number"}
    assert not list(checkout.runs.glob("pocket/campaign-*.json")), "it has ended"


def test_first_runs_of_all_come_first_and_the_best_is_confirmed_first(checkout: Project) -> None:
    said = list[str]()
    own = campaign(checkout, ("bad", "some", "good", "none", "best"), 1, tell=said.append)
    own.run()
    public = own.track.seeds
    places = [public.index(run.seed) for run in MadeUp.began if run.recipe != "base" and run.seed in public]
    assert places == sorted(places)
    assert places.count(0) == 5
    assert max(places) > 1, "one took more than two looks"
    confirmed = [line.partition(":")[0] for line in said if ": confirmation" in line]
    assert confirmed == ["best", "good", "some"]


def test_what_was_judged_is_skipped_with_its_verdict(checkout: Project) -> None:
    own = campaign(checkout, NAMES, 5)
    own.run()
    MadeUp.made = Counter()
    again = campaign(checkout, NAMES, 5)
    again.run()
    assert not MadeUp.made
    after = campaign_rows(again)
    assert outcomes(campaign_rows(own)) == outcomes(after)
    assert all(row.judged_before for row in after)


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_at_every_line_it_comes_to_the_same_outcome(checkout: Project, jobs: int) -> None:
    whole = campaign(checkout, NAMES, jobs)
    whole.run()
    made = Counter(MadeUp.made)
    shutil.rmtree(checkout.runs)
    MadeUp.made = Counter()
    for lines in range(1, 100):
        left = [lines]

        def tell(line: str, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        own = campaign(checkout, NAMES, jobs, tell=tell)
        try:
            own.run()
        except KeyboardInterrupt:
            continue
        break
    assert lines > 5
    assert outcomes(campaign_rows(own)) == outcomes(campaign_rows(whole))
    if jobs == 1:
        assert MadeUp.made == made, "no run was made twice"


def move(project: Project) -> None:
    """Somebody else's record, which comes with a `git pull`."""
    shutil.copytree(FIRST[1], project.submissions / FIRST[1].name)
    rebuild(project)


def moves_at(project: Project, words: str) -> Callable[[str], None]:
    """Hears lines, and moves the record at the first that has these words."""
    waiting = [words]

    def tell(line: str) -> None:
        if waiting and re.search(waiting[0], line):
            waiting.clear()
            move(project)

    return tell


@pytest.mark.parametrize("at", ["bad: rejected", "best: confirmation", "best: accepted"])
def test_a_record_that_moves_is_met_by_all_that_were_not_dropped(checkout: Project, at: str) -> None:
    own = campaign(checkout, ("bad", "best", "good"), 1, tell=moves_at(checkout, at))
    own.run()
    met = {row.name: (row.outcome, row.record) for row in campaign_rows(own)}
    assert met["good"] == ("accepted", "base+token_smear")
    assert met["best"] == ("accepted", "base+token_smear" if "rejected" in at else "base")
    assert met["bad"] == ("rejected", "base")


def test_a_campaign_that_ended_early_goes_on_where_it_began(checkout: Project) -> None:
    """Who was dropped before the record moved stays dropped, as if the campaign had not been killed."""

    def killed(line: str) -> None:
        moves_at(checkout, "best: passed")(line)
        if line.startswith("the record of pocket is now"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign(checkout, ("bad", "best"), 1, asked="all", tell=killed).run()
    MadeUp.made = Counter()
    own = campaign(checkout, ("bad", "best"), 1, asked="all")
    own.run()
    met = {row.name: (row.outcome, row.record) for row in campaign_rows(own)}
    assert met == {"best": ("accepted", "base+token_smear"), "bad": ("rejected", "base")}
    assert not MadeUp.made["base+token_smear+bad"]
    anew = campaign(checkout, ("bad", "best"), 1, asked="all")
    anew.run()
    assert {row.name: row.record for row in campaign_rows(anew)}["bad"] == "base+token_smear", "a new campaign"


def test_without_time_nothing_starts_and_what_is_stored_counts(checkout: Project) -> None:
    own = campaign(checkout, ("bad", "best"), budget_s=0.0)
    own.run()
    assert {row.outcome for row in campaign_rows(own)} == {"not_started"}
    assert own.out_of_time
    assert not MadeUp.made
    with pytest.raises(KeyboardInterrupt):
        campaign(checkout, ("bad", "best"), 1, tell=interrupt_at("best: confirmation")).run()
    later = campaign(checkout, ("bad", "best"), 1, budget_s=0.0)
    later.run()
    rows = {row.name: row for row in campaign_rows(later)}
    assert (rows["bad"].outcome, rows["best"].outcome) == ("rejected", "undecided")
    assert "budget ended before its confirmation" in rows["best"].note


def interrupt_at(words: str) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if words in line:
            raise KeyboardInterrupt

    return tell


def test_a_bug_that_one_meets_and_one_that_cannot_start_lose_no_other(checkout: Project) -> None:
    MadeUp.refuses = {"some": RuntimeError("a bug"), "none": LlmbenchError("no experts here; leave it out")}
    (checkout.variants / "broken.py").write_text('"""Opens a file."""\nopen("x")\n')
    own = campaign(checkout, ("some", "none", "broken", "absent", "bad", "best"))
    own.run()
    (crash,) = (one.crash for one in own.contestants if one.crash is not None)
    assert crash is MadeUp.refuses["some"]
    rows = {row.name: row for row in campaign_rows(own)}
    found = {name: row.outcome for name, row in rows.items()}
    assert found == {
        **{"some": "crashed", "none": "refused", "broken": "unreadable", "absent": "unreadable"},
        **{"bad": "rejected", "best": "accepted"},
    }
    assert rows["none"].note == "no experts here; leave it out"
    assert "there is no variant 'absent'" in rows["absent"].note


def test_a_record_without_a_score_ends_the_campaign_in_a_sentence(checkout: Project) -> None:
    MadeUp.refuses = {}
    store = RunStore(checkout, load_track(checkout, "pocket"), jobs=2, executor=NoRecord)
    with pytest.raises(UndecidedError, match=r"the record's run with seed \d+ has no val loss"):
        Campaign(store, ("best",), Entry()).run()


class NoRecord(MadeUp):
    def make(self, run: RunIdentity, job: Job, watch: Any) -> FinishedRun | FailedRun:
        return FailedRun(**dict(run), status="diverged", reason="the loss is no number")


def test_names_topics_and_all_but_placebos(checkout: Project) -> None:
    placebos = {load_track(checkout, path.stem).rule.noise_variant for path in checkout.tracks.glob("*.toml")}
    assert set(campaign_names(checkout, (), None)) == {*NAMES, "token_smear", "requery", "placebo"} - placebos
    (checkout.variants / "best.py").write_text(IDEA.format(factor=0.3, notes="\n\nTopic: optimizer\n"))
    assert campaign_names(checkout, (), "optimizer") == ["best"]
    assert campaign_names(checkout, ("good", "best", "good"), None) == ["good", "best"]
    with pytest.raises(LlmbenchError, match="did you mean 'optimizer'"):
        campaign_names(checkout, (), "optimiser")
    with pytest.raises(LlmbenchError, match="either names of variants or --topic"):
        campaign_names(checkout, ("best",), "optimizer")
    with pytest.raises(LlmbenchError, match=r"there is no variant 'bset'.*best"):
        campaign_names(checkout, ("good", "bset"), None)


def test_a_part_of_the_record_is_no_candidate(checkout: Project) -> None:
    move(checkout)
    own = campaign(checkout, ("token_smear", "best"))
    own.run()
    found = {row.name: row.outcome for row in campaign_rows(own)}
    assert found == {"token_smear": "in_record", "best": "accepted"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("45s", 45), ("0.5h", 1800)]
)
def test_a_budget_is_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "2d", "h", "30m1h", "-1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(LlmbenchError, match="is not a duration above zero; write it as 90m"):
        parse_duration(text)


# --- for real ----------------------------------------------------------------------------------------------------

SLOW = IDEA.format(factor=0.1, notes="")
ODD = {
    "same": '"""Changes nothing (somebody, 2026)."""\ndef apply(parts):\n    return parts\n',
    "explodes": IDEA.replace("muon_lr=parts.optim.muon_lr * {factor}", "head_lr=1e38, scalar_lr=1e38"),
    "looks_ahead": (ROOT / "tests" / "cheats" / "attention_looks_ahead.py").read_text(),
    "hangs": '''"""Takes for ever (somebody, 2026)."""
from dataclasses import replace
from torch import nn
class Hangs(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.count = inner, 0
    def forward(self, tokens_BT):
        self.count += 1
        while self.count > 20:
            pass
        return self.inner(tokens_BT)
def apply(parts):
    return replace(parts, embedding=lambda final: Hangs(parts.embedding(final)))
''',
}
SHORT_SILENCE = "from harness.referee import casting; casting.SILENT_S = 4.0; from harness.cli import main; main()"
"""The program, with less patience for a player that says nothing."""


def start(root: Path, *arguments: str) -> subprocess.Popen[Any]:
    command = [sys.executable, "-c", SHORT_SILENCE, "campaign", "--track", "smoke", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**variables, "NO_COLOR": "1"},
    )


def opened(filed: FiledContest, root: Path, **variants: str) -> Sandbox:
    """The record is base, whose runs are there; nothing was judged."""
    own = filed.without_the_record(root)
    (own.root / "runs" / "smoke" / "attempts.jsonl").unlink()
    for name, text in variants.items():
        (own.root / "models" / "variants" / f"{name}.py").write_text(text)
    return own


def test_who_breaks_a_rule_diverges_hangs_or_changes_nothing_gets_a_row(filed: FiledContest, tmp_path: Path) -> None:
    own = opened(filed, tmp_path / "llmbench", **ODD)
    with start(own.root, *ODD, "zero_compute_expert", "--json") as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    document = valid_document(out, "campaign")
    rows = {row["name"]: row for row in document["rows"]}
    found = {name: (row["outcome"], row["reasons"][:1]) for name, row in rows.items()}
    failed = ("rejected", ["candidate_failed"])
    assert found == {
        **{"same": ("rejected", ["identical"]), "explodes": failed, "looks_ahead": failed, "hangs": failed},
        "zero_compute_expert": ("refused", []),
    }
    assert "has none; leave the variant out" in rows["zero_compute_expert"]["note"]
    history = {one["candidate"] for one in own.json("history")["verdicts"]}
    assert {f"base+{name}" for name in ODD} <= history


def lines_until(process: subprocess.Popen[Any], words: str) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if words in line:
            return
    raise AssertionError(f"it ended before '{words}'")


def test_interrupted_and_killed_it_files_each_outcome_once(filed: FiledContest, tmp_path: Path) -> None:
    names = ("slow", "token_smear", "qk_norm")
    own = opened(filed, tmp_path / "llmbench", slow=SLOW)
    with start(own.root, *names, "--file", "--json") as first:
        said = [*lines_until(first, ": passed")]
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=100)
    assert (first.returncode, out) == (130, ""), [*said, err]
    assert f"to continue, run `llmbench campaign {' '.join(names)} --track smoke --file`" in err
    with start(own.root, *names, "--file", "--json") as second:
        [*lines_until(second, "the record of smoke is now base+token_smear")]
        kills.kill(second, "tree", random.Random(0))
    with start(own.root, *names, "--file", "--json") as third:
        out, err = third.communicate(timeout=200)
    assert third.returncode == 0, err
    document = valid_document(out, "campaign")
    assert document["record"] == "base+token_smear+qk_norm"
    rows = {row["name"]: row for row in document["rows"]}
    found = {name: (row["outcome"], row["record"], row["submission"]) for name, row in rows.items()}
    assert found == {
        "slow": ("rejected", "base", "0002-smoke-slow"),
        "token_smear": ("accepted", "base", "0003-smoke-token_smear"),
        "qk_norm": ("accepted", "base+token_smear", "0004-smoke-qk_norm"),
    }
    assert rows["slow"]["judged_before"] is rows["token_smear"]["judged_before"] is True
    assert rows["token_smear"]["ci_low"] > rows["token_smear"]["price"]
    folders = sorted(path.name for path in (own.root / "submissions").iterdir())
    assert folders == ["0001-smoke-baseline", *sorted(row["submission"] for row in rows.values())]
    assert own.json("verify")["ok"] is True
