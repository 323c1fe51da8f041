"""The way of a claim: trained for real, submitted, verified, and refused once a number is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.board.leaderboard import Board, read_board
from harness.board.submission import load_submission
from harness.core.dataspec import SPLITS
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import FinishedRun, load_run
from harness.core.track import Track, load_track
from harness.data.cache import open_split
from harness.lab.arms import Arms, Entry, choose_arms, contest_seeds
from harness.lab.contest import Contest
from harness.lab.history import Candidate, attempt_number, record_attempt
from harness.lab.provenance import collect_provenance
from harness.rule.verdict import failed_verdict
from tests.make import ROOT, make_job
from tests.players import OpenCasting, run_through
from tests.sandbox import FiledContest, Sandbox, valid_document

CANDIDATE = ("run", "candidate", "--variant", "token_smear", "--track", "smoke")


def test_a_candidate_prints_one_json_document_with_the_verdict(filed: FiledContest) -> None:
    candidate = filed.candidate
    assert candidate["decision"] == "accepted", candidate
    assert candidate["code"] == 0
    assert (candidate["stage"], candidate["pairs"], candidate["reasons"][0]) == ("confirmation", 2, "gain_shown")
    assert candidate["gain"] > candidate["margin"] > 0
    assert 0 < candidate["p_value"] < candidate["alpha"]
    assert (candidate["screen"]["stage"], candidate["screen"]["reasons"]) == ("screen", ["screen_passed"])


def test_submit_writes_a_folder_that_verifies(filed: FiledContest) -> None:
    sandbox = filed.sandbox
    assert filed.submitted.returncode == 0, filed.submitted.stderr
    assert "| val loss (nats/token) |" in filed.submitted.stdout
    folder = sandbox.root / "submissions" / "0002-smoke-token_smear"
    assert {path.name for path in folder.iterdir()} == {
        *("submission.json", "track.toml", "README.md", "curves.png", "runs", "sources"),
    }
    assert sandbox("verify", str(folder)).returncode == 0
    assert sandbox("verify", "2").stdout.splitlines()[0].split() == ["ok", folder.name]
    for path in ("leaderboard.csv", "README.md", "models/variants/token_smear.py"):
        assert path in filed.submitted.stderr
    rows = sandbox.json("leaderboard")["rows"]
    assert [(row["kind"], row["recipe"]) for row in rows] == [("opening", "base"), ("record", "base+token_smear")]
    assert sandbox.json("leaderboard", "--track", "smoke")["rows"] == rows
    assert sandbox.json("leaderboard", "--track", "pocket")["rows"] == []
    assert "there is no track 'nowhere'" in sandbox.refuses("leaderboard", "--track", "nowhere")
    assert rows[1]["gain"] == pytest.approx(filed.candidate["gain"], abs=1e-6)


def test_a_candidate_is_told_the_flags_that_verify_raises(filed: FiledContest) -> None:
    """No git repository is around the sandbox, so there is one at least."""
    told = filed.candidate["flags"]
    assert "no_revision" in [flag["name"] for flag in told]
    assert told == filed.sandbox.json("verify")["flags"]["0002-smoke-token_smear"]


def test_the_baseline_trained_here_is_the_kept_one(project: Project, smoke: Track, tmp_path: Path) -> None:
    """To the bit on the machine, the packages and the track of the kept runs; elsewhere sums round in another order."""
    kept = load_run(project.root / "benchmarks" / "noise" / "smoke" / "record-seed-1.json")
    assert isinstance(kept, FinishedRun)
    assert smoke.training_digest == kept.training_digest
    job = make_job(smoke, tmp_path).model_copy(update={"seed": 1})
    training, evaluation = run_through(OpenCasting(smoke, job), {split: open_split(smoke, split) for split in SPLITS})
    assert evaluation.val_loss == pytest.approx(kept.evaluation.val_loss, abs=0.05)
    before, now = kept.provenance, collect_provenance(project, smoke, jobs=1)
    if (before.machine.cpu, before.packages) == (now.machine.cpu, now.packages):
        assert training.weights_sha256 == kept.training.weights_sha256
        assert evaluation.nats == kept.evaluation.nats


def test_the_record_is_the_next_baseline(filed: FiledContest) -> None:
    assert filed.sandbox.json("run", "baseline", "--track", "smoke")["recipe"] == "base+token_smear"


def test_a_variant_of_the_record_is_measured_again_and_cannot_be_filed_again(filed: FiledContest) -> None:
    again = filed.sandbox.json(*CANDIDATE)
    assert (again["record"], again["candidate"]) == ("base", "base+token_smear")
    assert again["gain"] == filed.candidate["gain"]
    refusal = filed.sandbox.refuses("submit", "--variant", "token_smear", "--track", "smoke", code=3)
    assert "is already the record" in refusal


def test_a_confirmation_cannot_be_asked_twice_for_another_answer(filed: FiledContest, tmp_path: Path) -> None:
    """Nor does another layout, docstring or name of the file draw other seeds; another tree does."""
    own = filed.sandbox.copy(tmp_path / "llmbench")
    again = own.json("run", "candidate", "--variant", "token_smear", "--track", "smoke")
    keys = ("decision", "stage", "reasons", "pairs", "gain", "ci_low", "ci_high", "p_value", "time_ratio", "guards")
    assert {key: again[key] for key in keys} == {key: filed.candidate[key] for key in keys}
    variants, track = own.root / "models" / "variants", load_track(Project(own.root), "smoke")
    code = (variants / "token_smear.py").read_text().split('"""', 2)[2]
    (variants / "renamed.py").write_text(f'"""Other words (nobody, 2026)."""\n# and a comment\n{code}')
    (variants / "edited.py").write_text(f'"""Other words (nobody, 2026)."""\nONE = 1\n{code}')
    drawn = {
        name: contest_seeds(Project(own.root), track, Arms("base", f"base+{name}"), "confirmation")
        for name in ("token_smear", "renamed", "edited")
    }
    assert drawn["token_smear"] == drawn["renamed"]
    assert not set(drawn["token_smear"]) & set(drawn["edited"])


def test_a_record_whose_source_changed_holds_no_new_contest(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    path = sandbox.root / "models" / "variants" / "token_smear.py"
    path.write_text(path.read_text().replace("zeros_", "ones_"))
    refusal = sandbox.refuses("run", "candidate", "--variant", "qk_norm", "--track", "smoke")
    assert "has changed since" in refusal


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "candidate", "--variant", "nosuch"), "there is no variant 'nosuch'"),
        (("run", "candidate"), "--variant NAME"),
        (("run", "baseline", "--track", "smok"), "did you mean 'smoke'"),
        (("submit", "--track", "smoke"), "submit --baseline"),
        (("submit", "--baseline", "--track", "smoke"), "run baseline"),
        (("verify", "nowhere"), "not a folder under submissions/"),
        (("run", "candidate", "--variant", "qk_norm", "--max-pairs", "2"), "--max-pairs 3 or more"),
        (("run", "candidate", "--variant", "qk_norm", "--lane", "sped"), "did you mean 'speed'"),
        (("run", "baseline", "--track", "smoke", "--pairs", "99"), "give --pairs 8 or less"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_two(
    sandbox: Sandbox, arguments: tuple[str, ...], words: str
) -> None:
    assert words in sandbox.refuses(*arguments)


HEAD = '"""An idea (somebody, 2026)."""\nfrom dataclasses import replace\nimport torch\nfrom torch import nn\n'
FUTURE = """
class Peek(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return self.inner(x) + x.roll(-1, dims=1)
def apply(parts):
    return replace(parts, block=lambda final, layer: Peek(parts.block(final, layer)))
"""
EXPLODE = """
def apply(parts):
    return replace(parts, optim=replace(parts.optim, head_lr=1e38, scalar_lr=1e38))
"""
ASLEEP = """
def apply(parts):
    return replace(parts, optim=replace(parts.optim, head_lr=1e-9))
"""
CRASH = """
class Crash(nn.Module):
    def forward(self, x):
        raise RuntimeError("shapes do not fit")
def apply(parts):
    return replace(parts, feed_forward=lambda final, layer: Crash())
"""


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("import os\ndef apply(parts):\n    return parts\n", 2, "imports 'os'"),
        (FUTURE, 3, "invalid: causality"),
        (EXPLODE, 3, "diverged: the training loss is NaN or infinite"),
        (ASLEEP, 3, "hopeless: dev loss"),
    ],
)
def test_a_bad_variant_ends_in_a_sentence_and_gets_no_number(
    filed: FiledContest, tmp_path: Path, text: str, code: int, words: str
) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    (sandbox.root / "models" / "variants" / "idea.py").write_text(HEAD + text)
    done = sandbox("run", "candidate", "--variant", "idea", "--track", "smoke", "--json")
    assert done.returncode == code, done.stderr + done.stdout
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    if code == 3:
        verdict = json.loads(done.stdout)
        reason = "hopeless_start" if text == ASLEEP else "candidate_failed"
        assert (verdict["decision"], verdict["reasons"]) == ("rejected", [reason])
        assert verdict["attempt"] == 1
        assert verdict["gain"] is verdict["p_value"] is None
        assert sandbox("submit", "--track", "smoke").returncode == 3


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [(CRASH, 3, "shapes do not fit"), (None, 2, "changes experts, but the model of this track has none")],
)
def test_a_variant_that_cannot_start_costs_no_run_of_the_record(
    filed: FiledContest, tmp_path: Path, text: str | None, code: int, words: str
) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    shutil.rmtree(sandbox.root / "runs")
    (sandbox.root / "models" / "variants" / "idea.py").write_text(f"{HEAD}{text}")
    done = sandbox("run", "candidate", "--variant", "idea" if text else "zero_compute_expert", "--track", "smoke")
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(sandbox.root.glob("runs/smoke/base+token_smear/*/seed-*/run.json"))
    if text:
        said = sandbox.refuses("variants", "idea")
        assert (
            "shapes do not fit; `llmbench run candidate --variant idea --track pocket --screen` saves the whole log"
            in said
        )
        assert list(sandbox.root.glob("runs/smoke/*/*/seed-*/train.log"))


def test_a_truncated_run_file_is_named_and_the_others_are_kept(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    runs = sorted((sandbox.root / "runs" / "smoke" / "base+token_smear").glob("*/seed-*/run.json"))
    seeds = load_submission(sandbox.root / "submissions" / "0002-smoke-token_smear").candidate.seeds
    cut = next(path for path in runs if path.parent.name == f"seed-{seeds[0]}")  # of the confirmation
    whole = cut.read_text()
    cut.write_text(whole[:300])
    assert str(cut) in sandbox.refuses(*CANDIDATE)
    assert all(path.exists() for path in runs)
    cut.write_text(whole)
    assert sandbox.json(*CANDIDATE)["gain"] == filed.candidate["gain"]


def test_every_attempt_is_counted_until_the_record_moves(filed: FiledContest, tmp_path: Path) -> None:
    project = Project(filed.sandbox.copy(tmp_path / "llmbench").root)
    track, board = load_track(project, "smoke"), read_board(project)
    verdict = failed_verdict("candidate_failed", "why", track.rule, added_statements=1, stage="screen")
    arms, first, second = Arms("base+token_smear", "base+token_smear+x"), {"x": "1" * 64}, {"x": "2" * 64}
    contest, candidate = Contest(arms, (), (), (), verdict), Candidate(arms, Entry(added=("x",)), {}, first)
    assert attempt_number(project, board, track, first) == 1
    record_attempt(project, board, track, candidate, contest)
    record_attempt(project, board, track, candidate, contest)
    assert attempt_number(project, board, track, first) == 1
    assert attempt_number(project, board, track, second) == 2
    assert attempt_number(project, board.before(2), track, second) == 2  # one before it: the record's own


def test_an_invalid_run_is_an_attempt_that_deleting_its_file_does_not_undo(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    shutil.copy(ROOT / "tests/cheats/learned_look_ahead.py", sandbox.root / "models/variants/ahead.py")
    command = ("run", "candidate", "--variant", "ahead", "--track", "smoke", "--json")

    def attempt() -> int:
        done = sandbox(*command)
        assert (done.returncode, "invalid" in done.stdout) == (3, True), done.stdout + done.stderr
        number: int = valid_document(done.stdout, *command)["attempt"]
        return number

    assert attempt() == 1
    shutil.rmtree(sandbox.root / "runs/smoke/base+token_smear+ahead")
    assert attempt() == 2
    project = Project(sandbox.root)
    track, board = load_track(project, "smoke"), read_board(project)
    assert attempt_number(project, board, track, {"another": "1" * 64}) == 3


def test_each_lane_has_its_own_contest(filed: FiledContest) -> None:
    project = Project(filed.sandbox.root)
    track, board = load_track(project, "smoke"), read_board(project)
    record = "base+token_smear"
    for lane in ("loss", "speed"):
        arms = choose_arms(board, track, Entry(added=("qk_norm",), lane=lane))  # type: ignore[arg-type]
        assert arms == Arms(record, "base+token_smear+qk_norm", lane)  # type: ignore[arg-type]
    simpler = choose_arms(board, track, Entry(removed=("token_smear",), lane="simplicity"))
    assert simpler == Arms(record, "base", "simplicity")
    wrong = [
        Entry(added=("qk_norm",), lane="simplicity"),
        Entry(removed=("token_smear",)),
        Entry(removed=("qk_norm",), lane="simplicity"),
        Entry(added=("qk_norm", "token_smear")),
        Entry(added=("qk_norm", "qk_norm")),
        Entry(),
    ]
    for entry in wrong:
        with pytest.raises(LlmbenchError):
            choose_arms(board, track, entry)


def test_small_removals_cannot_walk_the_record_backwards(filed: FiledContest) -> None:
    """A record of the simplicity lane holds the track, but the next removal is measured against the best loss."""
    best = read_board(Project(filed.sandbox.root)).submissions[-1]
    removal = best.model_copy(update={"number": 3, "lane": "simplicity", "candidate": best.record})
    board = Board((best, removal))
    assert board.holder(best) == removal
    assert board.standing(best, "loss") == board.standing(best, "speed") == removal
    assert board.standing(best, "simplicity") == best
