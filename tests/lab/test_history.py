"""Nothing that was judged is lost: it is listed, said before it is trained again, and filed against what it met."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.board.leaderboard import Board, read_board, rebuild
from harness.core.errors import LlmbenchError
from harness.core.events import Done
from harness.core.project import Project
from harness.core.runs import FailedRun
from harness.core.track import load_track
from harness.lab.arms import Arms, Entry, choose_arms, contest_seeds, remember_entry, run_command
from harness.lab.contest import Contest
from harness.lab.history import (
    Candidate,
    Judged,
    attempt_number,
    find_unfiled,
    judged_before,
    read_history,
    record_attempt,
    record_invalid,
    unfiled_standings,
)
from harness.lab.submit import find_contest
from harness.rule.verdict import Decision, Stage, Verdict
from harness.show.describe import history_table, judged_sentence
from tests.make import make_run
from tests.sandbox import FiledContest, Sandbox

SMOKE = ("--track", "smoke")
RECORD = "0002-smoke-token_smear"
SLOW = '''"""A tenth of Muon's rate (somebody, 2026)."""
from dataclasses import replace
def apply(parts):
    return replace(parts, optim=replace(parts.optim, muon_lr=parts.optim.muon_lr * 0.1))
'''


class Machine:
    """A board and this machine's log, to which verdicts can be added without training."""

    def __init__(self, sandbox: Sandbox, filed: FiledContest) -> None:
        self.sandbox, self.project, self.filed = sandbox, Project(sandbox.root), filed
        self.track, self.log = load_track(self.project, "smoke"), self.project.runs / "smoke" / "attempts.jsonl"

    @property
    def board(self) -> Board:
        return read_board(self.project)

    def write(self, name: str, text: str = SLOW) -> Entry:
        """A variant's file."""
        (self.project.variants / f"{name}.py").write_text(text)
        return Entry(added=(name,))

    def candidate(self, entry: Entry) -> Candidate:
        """Against the present record."""
        return Candidate.read(self.project, choose_arms(self.board, self.track, entry), entry)

    def judge(self, entry: Entry, stage: Stage, decision: Decision, reason: str, pairs: int = 1) -> None:
        """What `run candidate` appends when it has come to this verdict."""
        candidate = self.candidate(entry)
        verdict = Verdict(
            decision=decision,
            lane=entry.lane,
            stage=stage,
            reasons=(reason,),
            pairs=pairs,
            look=1,
            next_look=None,
            design="paired",
            gain=-0.0123,
            margin=0.0,
            alpha=0.01,
            added_statements=3,
        )
        record_attempt(self.project, self.board, self.track, candidate, Contest(candidate.arms, (), (), (), verdict))

    def drop(self, entry: Entry) -> None:
        self.judge(entry, "screen", "rejected", "screened_out")

    def move_record(self) -> None:
        """File token smearing as the record."""
        folder = self.filed.sandbox.root / "submissions" / RECORD
        shutil.copytree(folder, self.project.submissions / RECORD)
        rebuild(self.project)

    def renew_track(self) -> None:
        """Another edition."""
        path = self.project.tracks / "smoke.toml"
        path.write_text(path.read_text().replace("time_tolerance = 0.02", "time_tolerance = 0.03"))
        self.track = load_track(self.project, "smoke")

    def history(self, track: str | None = "smoke") -> list[Judged]:
        return read_history(self.project, self.board, track)

    def listed(self) -> list[tuple[str, str | None, str, int | None]]:
        return [(one.candidate, one.stage, one.decision, one.number) for one in self.history()]


@pytest.fixture
def opened(filed: FiledContest, tmp_path: Path) -> Machine:
    """The record is base; token smearing was accepted, and is not filed."""
    return Machine(filed.without_the_record(tmp_path / "llmbench"), filed)


SMEARED = ("base+token_smear", "confirmation", "accepted", None)


def test_a_result_is_listed_and_filed_after_the_record_moved_on(opened: Machine) -> None:
    """For real: dropped by the screen against base, filed when base+token_smear holds the track."""
    sandbox, _ = opened.sandbox, opened.write("slow")
    dropped = sandbox.json("run", "candidate", "--variant", "slow", *SMOKE)
    assert (dropped["decision"], dropped["stage"], dropped["attempt"]) == ("rejected", "screen", 2)
    newest = sandbox.json("history")["verdicts"][0]
    assert (newest["candidate"], newest["record"], newest["number"]) == ("base+slow", "base", None)
    for key in ("stage", "decision", "reasons", "gain", "pairs"):
        assert newest[key] == dropped[key]
    (entry,) = (one for one in sandbox.json("variants")["variants"] if one["name"] == "slow")
    assert entry["unfiled"] == [newest]
    assert "on this machine" in sandbox("variants", "slow").stdout

    opened.move_record()
    refusal = sandbox.refuses("submit", "--variant", "slow", *SMOKE, code=3)
    for words in (
        "was rejected against base",
        "record is now base+token_smear",
        "--negative",
        "`llmbench run candidate",
    ):
        assert words in refusal
    filing = sandbox.json("submit", "--variant", "slow", "--negative", *SMOKE)
    assert filing["folder"] == "submissions/0003-smoke-slow"
    assert sandbox.json("verify")["ok"] is True
    row = sandbox.json("leaderboard")["rows"][2]
    assert (row["kind"], row["recipe"], row["beaten"], row["gain"]) == (
        *("negative", "base+slow", "base"),
        pytest.approx(dropped["gain"], abs=1e-6),
    )
    assert {one.candidate: one.number for one in opened.history()} == {"base+slow": 3, "base+token_smear": 2}

    opened.write("renamed", SLOW.replace("tenth", "tenth  # the same code"))
    again = sandbox("run", "candidate", "--variant", "renamed", "--screen", *SMOKE)
    (said,) = (line for line in again.stderr.splitlines() if line.startswith("Judged before: "))
    for words in ("base+slow against base", "submission 0003", "rejected by the screen (screened_out)", "gain -0.0"):
        assert words in said
    assert 0 <= again.stderr.index(said) < again.stderr.index("training")


def test_a_result_is_filed_once(opened: Machine) -> None:
    opened.write("slow")
    assert opened.sandbox.json("run", "candidate", "--variant", "slow", *SMOKE)["decision"] == "rejected"
    for _ in range(2):  # judged again from the kept runs, it is the same result
        filing = opened.sandbox("submit", "--negative", *SMOKE)
    assert "these runs were already submitted, as 0002-smoke-slow" in filing.stderr
    assert len(list(opened.project.submissions.glob("0*"))) == 2


def candidate_runs(machine: Machine) -> list[Path]:
    """Of token smearing's confirmation, in the order of its seeds."""
    arms = Arms("base", "base+token_smear")
    seeds = contest_seeds(machine.project, machine.track, arms, "confirmation")
    return [next(machine.project.runs.glob(f"smoke/{arms.candidate}/*/seed-{seed}/run.json")) for seed in seeds]


def test_an_unfinished_candidate_is_told_the_command_that_goes_on(opened: Machine) -> None:
    first, *others = candidate_runs(opened)
    for path in others:
        path.unlink()
    command = "`llmbench run candidate --variant token_smear --track smoke"
    for more in ((), ("--negative",)):
        refusal = opened.sandbox.refuses("submit", "--variant", "token_smear", *SMOKE, *more, code=4)
        assert f"{command}` to train more pairs" in refusal
        assert "fewer pairs than the first" in refusal
    (screen,) = opened.project.runs.glob("smoke/base+token_smear/*/seed-0/run.json")
    screen.rename(kept := screen.with_name("kept"))  # the confirmation was forced
    assert f"{command} --no-screen` to train more pairs" in opened.sandbox.refuses("submit", *SMOKE, code=4)
    kept.rename(screen)
    first.unlink()
    refusal = opened.sandbox.refuses("submit", *SMOKE, code=4)
    assert f"{command}` to train more pairs" in refusal
    assert "Only the confirmation" in refusal


def test_what_was_accepted_against_an_older_record_is_told_how_to_be_confirmed(opened: Machine) -> None:
    entry = opened.write("slow").model_copy(update={"jobs": 1})
    opened.judge(entry, "confirmation", "accepted", "gain_shown", pairs=2)
    opened.move_record()
    remember_entry(opened.project, opened.track, entry)
    command = "`llmbench run candidate --variant slow --track smoke --jobs 1`"
    for named in ((), ("--variant", "slow"), ("--variant", "slow", "--negative")):
        refusal = opened.sandbox.refuses("submit", *named, *SMOKE, code=4)
        for words in ("was accepted against base on 20", f"the record is now base+token_smear ({RECORD})", command):
            assert words in refusal


def test_a_negative_result_needs_its_files_its_runs_and_a_record_that_was_one(opened: Machine) -> None:
    entry = opened.write("slow").model_copy(update={"jobs": 1})
    opened.drop(entry)

    def find(board: Board) -> Any:
        asked = entry.model_copy(update={"jobs": None})
        return find_contest(opened.project, board, opened.track, asked, negative=True)

    with pytest.raises(LlmbenchError, match="base, which was never the record of this version of smoke"):
        find(Board(()))
    opened.move_record()
    found, arms, _ = find(opened.board)
    assert found == entry, "its runs lie where those of one job lie"
    assert arms == Arms("base", "base+slow")
    refusal = opened.sandbox.refuses("submit", "--variant", "slow", "--negative", *SMOKE, code=4)
    assert "the runs of base+slow against base are missing" in refusal
    opened.write("slow", SLOW.replace("0.1", "0.2"))
    with pytest.raises(LlmbenchError, match=r"slow\.py is not the file with which base\+slow was judged against base"):
        find(opened.board)
    (opened.project.variants / "slow.py").unlink()
    with pytest.raises(LlmbenchError, match=r"slow\.py is not the file"):
        find(opened.board)


def test_of_each_stage_the_last_verdict_is_listed_newest_first(opened: Machine) -> None:
    assert opened.listed() == [SMEARED]
    slow = opened.write("slow")
    opened.judge(slow, "screen", "undecided", "screen_passed")
    assert opened.listed() == [("base+slow", "screen", "undecided", None), SMEARED]
    opened.judge(slow, "confirmation", "undecided", "needs_more_pairs", pairs=3)
    assert opened.listed() == [("base+slow", "confirmation", "undecided", None), SMEARED]
    opened.judge(slow, "confirmation", "rejected", "hopeless", pairs=4)
    opened.judge(slow, "screen", "undecided", "screen_passed")
    assert opened.listed() == [("base+slow", "confirmation", "rejected", None), SMEARED]
    assert opened.history()[0].pairs == 4
    opened.drop(slow)  # a screen of a track whose thresholds are others, say
    assert opened.listed()[:2] == [
        ("base+slow", "screen", "rejected", None),
        ("base+slow", "confirmation", "rejected", None),
    ]
    opened.move_record()
    assert opened.listed()[2:] == [("base+token_smear", "confirmation", "accepted", 2)]
    opened.drop(slow)
    assert [(one.candidate, one.record) for one in opened.history()[:2]] == [
        ("base+token_smear+slow", "base+token_smear"),
        ("base+slow", "base"),
    ]
    assert opened.history("pocket") == []
    assert opened.history(None) == opened.history()


def test_what_the_board_alone_holds_is_listed_too(opened: Machine) -> None:
    opened.log.unlink()
    opened.move_record()
    (one,) = opened.history()
    assert (one.candidate, one.number, one.here, one.gain) == (
        *("base+token_smear", 2, False),
        opened.filed.candidate["gain"],
    )


def test_a_line_of_an_earlier_llmbench_is_read_and_listed(opened: Machine) -> None:
    old = json.loads(opened.log.read_text().splitlines()[-1])
    del old["met"]
    opened.log.write_text(2 * (json.dumps({**old, "date": "2026-11-22"}) + "\n"))
    assert opened.listed() == 2 * [("base+token_smear", None, "accepted", None)]
    assert attempt_number(opened.project, opened.board, opened.track, {"x": "1" * 64}) == 2
    assert judged_before(opened.project, opened.board, opened.track, opened.candidate(Entry(added=("qk_norm",)))) == []
    shown = opened.sandbox("history")
    assert (shown.returncode, "2026-11-22" in shown.stdout) == (0, True), shown.stderr


@pytest.mark.parametrize("torn", [True, False])
def test_a_broken_line_is_one_sentence_and_the_others_are_kept(opened: Machine, torn: bool) -> None:
    whole = opened.log.read_text().splitlines()[-1] + "\n"
    half = whole[: len(whole) // 2]
    opened.log.write_text(whole + half + ("" if torn else "\n"))  # torn by a kill while it was written
    opened.drop(opened.write("slow"))
    lines = opened.log.read_text().splitlines()
    assert len(lines) == 3, "the line after a torn one stands on its own"
    for command in (("history",), ("variants",), ("run", "candidate", "--variant", "slow", *SMOKE)):
        assert "attempts.jsonl:2: this line cannot be read; restore or delete it" in opened.sandbox.refuses(*command)
    opened.log.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert opened.listed() == [("base+slow", "screen", "rejected", None), SMEARED]


def test_the_same_change_is_recognised_whatever_it_is_called_and_whatever_it_is_added_to(opened: Machine) -> None:
    opened.drop(opened.write("slow"))
    opened.write("other", SLOW.replace("0.1", "0.2"))
    opened.write("renamed", '"""Another text (nobody, 2025)."""  # and a comment\n' + SLOW.partition("\n")[2])

    def before(*names: str, **more: Any) -> list[str]:
        candidate = opened.candidate(Entry(added=names, **more))
        return [one.candidate for one in judged_before(opened.project, opened.board, opened.track, candidate)]

    assert before("slow") == before("renamed") == before("slow", lane="speed") == ["base+slow"]
    assert before("other") == before("slow", "other") == before("qk_norm") == []
    opened.move_record()
    assert before("slow") == before("renamed") == ["base+slow"]
    opened.drop(Entry(added=("renamed",)))
    assert before("slow") == ["base+token_smear+renamed", "base+slow"]
    assert before("token_smear") == ["base+token_smear"]
    opened.renew_track()
    assert before("slow") == [], "another edition of the track is another contest"


def test_candidates_are_counted_by_their_code_from_one_record_to_the_next(opened: Machine) -> None:
    def number(name: str) -> int:
        sources = opened.candidate(Entry(added=(name,))).sources
        return attempt_number(opened.project, opened.board, opened.track, sources)

    slow = opened.write("slow")
    opened.write("renamed", SLOW.replace("tenth", "10 %"))
    opened.write("other", SLOW.replace("0.1", "0.2"))
    assert number("slow") == number("other") == 2
    opened.drop(slow)  # a screen that drops is an attempt like any other
    assert (number("slow"), number("renamed"), number("other")) == (2, 2, 3)
    opened.judge(slow, "confirmation", "rejected", "hopeless", pairs=3)
    assert (number("slow"), number("other")) == (2, 3)
    opened.move_record()
    assert number("slow") == number("other") == 1


def test_a_verdict_stands_beside_a_variant_until_it_is_filed_or_the_file_is_another(opened: Machine) -> None:
    def standing(name: str) -> list[str]:
        found = unfiled_standings(opened.project, opened.board)
        return [one.candidate for (variant, _), judged in found.items() for one in judged if variant == name]

    slow = opened.write("slow")
    assert (standing("slow"), standing("token_smear")) == ([], ["base+token_smear"])
    opened.drop(slow)
    opened.move_record()
    opened.judge(Entry(removed=("token_smear",), lane="simplicity"), "confirmation", "rejected", "loss_worse", pairs=3)
    assert (standing("slow"), standing("token_smear")) == (["base+slow"], ["base"])
    assert find_unfiled(opened.project, opened.board, opened.track, slow) != []
    lines = opened.sandbox("variants").stdout
    assert "on this machine" in " ".join(lines.split())
    assert "not submitted" in " ".join(lines.split())
    opened.write("slow", SLOW.replace("0.1", "0.2"))
    (entry,) = (one for one in opened.sandbox.json("variants")["variants"] if one["name"] == "slow")
    assert entry["unfiled"] == [], "that verdict is on another source"
    opened.renew_track()
    assert standing("slow") == standing("token_smear") == find_unfiled(opened.project, opened.board, opened.track, slow)
    assert standing("slow") == [], "those are of another edition of the track"


def test_an_invalid_run_is_listed_with_its_stage(opened: Machine) -> None:
    observe = record_invalid(opened.project, opened.board, opened.track, opened.candidate(opened.write("slow")))
    for seed in (0, 12345):
        run = make_run("base+slow", seed, 3.0)
        observe(run, Done(result=FailedRun(**identity(run), status="invalid", reason="causality"), reused=False))
    assert opened.listed() == [
        ("base+slow", "confirmation", "rejected", None),
        ("base+slow", "screen", "rejected", None),
        SMEARED,
    ]


def identity(run: Any) -> dict[str, Any]:
    return {name: getattr(run, name) for name in FailedRun.model_fields if name not in ("status", "reason")}


def test_the_table_fits_eighty_columns_and_holds_every_word(opened: Machine) -> None:
    (one,) = opened.history()
    long = one.model_copy(
        update={
            "track": "pocket-moe",
            "record": "base+token_smear+qk_norm",
            "candidate": "base+token_smear+qk_norm+zero_compute_expert",
            "decision": "undecided",
            "reasons": ("evaluation_time_unclear",),
            "lane": "speed",
            "gain": -0.0123,
            "number": 1234,
            "state": "provisional",
        }
    )
    console = Console(width=80, file=io.StringIO())
    console.print(history_table([one, long, one.model_copy(update={"record": None, "stage": None, "gain": None})]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    for word in ("pocket-moe", "+zero_compute_expert", "(lane speed)", "base+token_smear+qk_norm", "provisional"):
        assert word in text
    for word in ("undecided, confirmation", "evaluation_time_unclear", "-0.0123", "1234", "no"):
        assert word in text
    assert judged_sentence(long) == (
        f"base+token_smear+qk_norm+zero_compute_expert against base+token_smear+qk_norm in the lane speed, "
        f"{one.date[:10]}, submission 1234: undecided by the confirmation (evaluation_time_unclear), "
        "gain -0.0123 over 2 pairs"
    )


def test_a_command_says_how_its_runs_were_made() -> None:
    entry = Entry(added=("a", "b"), lane="speed", jobs=1)
    assert run_command(None, entry) == "llmbench run candidate --variant a --variant b --lane speed --jobs 1"
    assert run_command(None, Entry(removed=("a",), executor="ray")).endswith("--without a --executor ray")


def test_history_of_nothing_says_what_to_do(sandbox: Sandbox) -> None:
    assert "llmbench run candidate --variant NAME" in sandbox("history").stdout
    assert sandbox.json("history")["verdicts"] == []
    assert "did you mean 'smoke'" in sandbox.refuses("history", "--track", "smok")


def test_a_variant_that_changes_nothing_is_told_so_after_one_run(opened: Machine) -> None:
    """Its losses are the record's own bits, so no line of losses has a star; it is an attempt and can be filed."""
    opened.write("nothing", '"""Nothing (somebody, 2026)."""\ndef apply(parts):\n    return parts\n')
    done = opened.sandbox("run", "candidate", "--variant", "nothing", *SMOKE)
    assert done.returncode == 3, done.stderr
    assert "REJECTED: " in done.stdout
    assert "this variant changes nothing on this track." in done.stdout
    (loss,) = (line for line in done.stdout.splitlines() if line.startswith("val loss"))
    assert "*" not in loss
    assert opened.listed()[0] == ("base+nothing", "screen", "rejected", None)
    trained = list(opened.project.runs.glob("smoke/base+nothing/*/seed-*/run.json"))
    assert len(trained) == opened.track.rule.screen_looks[0] == 1
    assert opened.sandbox.json("submit", "--negative", *SMOKE)["submission"]["verdict"]["reasons"] == ["identical"]
