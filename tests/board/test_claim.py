"""The way of a claim: trained for real, submitted, verified, and refused once a number is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sandbox import FiledContest, Sandbox, one_sentence, problems

CANDIDATE = ("run", "candidate", "--variant", "token_smear", "--track", "smoke")


def test_a_candidate_prints_one_json_document_with_the_verdict(filed: FiledContest) -> None:
    candidate = filed.candidate
    assert candidate["decision"] == "accepted", candidate
    assert candidate["code"] == 0
    assert candidate["pairs"] == 3
    assert candidate["gain"] > candidate["margin"] > 0
    assert 0 < candidate["p_value"] < candidate["alpha_look"]
    assert -1 <= candidate["correlation"] <= 1
    assert candidate["reasons"][0] == "gain_shown"


def test_submit_writes_a_folder_that_verifies(filed: FiledContest) -> None:
    sandbox = filed.sandbox
    assert filed.submitted.returncode == 0, filed.submitted.stderr
    assert "| val loss (nats/token) |" in filed.submitted.stdout
    folder = sandbox.root / "submissions" / "0002-smoke-token_smear"
    assert {path.name for path in folder.iterdir()} == {
        *("submission.json", "track.toml", "README.md", "curves.png", "runs", "sources"),
    }
    assert sandbox("verify").returncode == 0
    assert sandbox("verify", str(folder)).returncode == 0
    rows = sandbox.json("leaderboard")["rows"]
    assert [(row["kind"], row["recipe"]) for row in rows] == [("opening", "base"), ("record", "base+token_smear")]
    assert rows[0]["val_loss"] - rows[1]["val_loss"] == pytest.approx(rows[1]["gain"], abs=2e-5)


def test_the_record_is_the_next_baseline(filed: FiledContest) -> None:
    assert filed.sandbox.json("run", "baseline", "--track", "smoke")["recipe"] == "base+token_smear"


def test_a_variant_of_the_record_is_measured_again_and_cannot_be_filed_again(filed: FiledContest) -> None:
    again = filed.sandbox.json(*CANDIDATE)
    assert (again["record"], again["candidate"]) == ("base", "base+token_smear")
    assert again["gain"] == filed.candidate["gain"]
    refused = filed.sandbox("submit", "--variant", "token_smear", "--track", "smoke")
    assert refused.returncode == 3
    assert "holds the record already" in refused.stderr
    assert one_sentence(refused.stderr)


@pytest.mark.parametrize("file", ["README.md", "curves.png", "track.toml", "sources/token_smear.py", "submission.json"])
def test_a_file_of_a_submission_may_not_be_touched(filed: FiledContest, tmp_path: Path, file: str) -> None:
    from harness.board.check_board import readable_board, verify_folder
    from harness.core.project import Project

    project = Project(filed.sandbox.copy(tmp_path / "llmbench").root)
    folder = project.submissions / "0002-smoke-token_smear"
    path = folder / file
    content = path.read_bytes()

    def problems() -> list[str]:
        return verify_folder(project, folder, readable_board(project))

    assert problems() == []
    for broken in (content + b"\n", content[:-1], b"", b"\xff\xfe", content.replace(b"\n", b"\r\n")):
        path.write_bytes(broken)
        assert problems(), broken[-30:]
    path.unlink()
    assert problems()
    path.mkdir()
    assert problems()
    path.rmdir()
    path.write_bytes(content)
    (folder / "notes.txt").write_text("hello")
    assert problems() == [f"{folder.name}/notes.txt does not belong to a submission; remove it"]


def test_a_board_cannot_rest_on_a_track_that_somebody_made_easier(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    path = sandbox.root / "tracks" / "smoke.toml"
    path.write_text(path.read_text().replace("alpha = 0.45", "alpha = 0.3"))
    assert "is not the edition that the board opened last" in problems(sandbox)["tracks/smoke.toml"][0]


def test_a_board_whose_record_cannot_be_built_any_more_is_refused(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    path = sandbox.root / "models" / "variants" / "token_smear.py"
    path.write_text(path.read_text() + "# a remark\n")
    assert "is not the file that holds the record" in problems(sandbox)["tracks/smoke.toml"][0]
    path.unlink()
    assert "there is no variant" in problems(sandbox)["tracks/smoke.toml"][0]


def test_a_submission_that_vanished_is_missed(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    shutil.rmtree(sandbox.root / "submissions" / "0001-smoke-baseline")
    assert "one is missing or taken twice" in problems(sandbox)["submissions"][0]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("leaderboard.csv", "base", "bass", "leaderboard.csv differs"),
        ("leaderboard.csv", "\n", "\r\n", "leaderboard.csv differs"),
        ("submissions/0002-smoke-token_smear/README.md", "val loss", "val  loss", "README.md is not what the runs say"),
        ("submissions/0002-smoke-token_smear/sources/token_smear.py", "zeros_", "ones_", "is not the source"),
        ("submissions/0002-smoke-token_smear/track.toml", "tokens = 65536", "tokens = 32768", "is not the track"),
        ("submissions/0002-smoke-token_smear/runs/record-seed-1.json", "{", "", "is not whole JSON"),
        ("submissions/0001-smoke-baseline/submission.json", '"seed', '"sead', "submission.json"),
    ],
)
def test_a_hand_edit_is_refused_in_a_sentence(
    filed: FiledContest, tmp_path: Path, file: str, old: str, new: str, words: str
) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    path = sandbox.root / file
    assert old in path.read_text() or old == '"seed'
    content = path.read_text().replace(old, new, 1) if old != '"seed' else path.read_text()[:-20]
    path.write_text(content, newline="")
    refused = sandbox("verify")
    assert refused.returncode == 3
    assert "Traceback" not in refused.stderr
    assert words in refused.stdout


def test_a_rebuilt_csv_verifies_again(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    before = (sandbox.root / "leaderboard.csv").read_text()
    (sandbox.root / "leaderboard.csv").write_text("nonsense")
    assert sandbox("verify").returncode == 3
    assert sandbox("leaderboard", "--rebuild").returncode == 0
    assert (sandbox.root / "leaderboard.csv").read_text() == before


def test_a_claim_against_a_record_that_moved_on_is_stale(filed: FiledContest, tmp_path: Path) -> None:
    """The same claim under the next number: by then the record is another."""
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    old = sandbox.root / "submissions" / "0002-smoke-token_smear"
    new = sandbox.root / "submissions" / "0003-smoke-token_smear"
    shutil.copytree(old, new)
    path = new / "submission.json"
    path.write_text(path.read_text().replace('"number": 2', '"number": 3'))
    assert any("stale_record" in problem for problem in problems(sandbox)["0003-smoke-token_smear"])


def test_a_record_whose_source_changed_holds_no_new_contest(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    path = sandbox.root / "models" / "variants" / "token_smear.py"
    path.write_text(path.read_text().replace("zeros_", "ones_"))
    refused = sandbox("run", "candidate", "--variant", "qk_norm", "--track", "smoke")
    assert refused.returncode == 2
    assert "is not the file that holds the record" in refused.stderr
    assert one_sentence(refused.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "candidate", "--variant", "nosuch"), 2, "there is no variant 'nosuch'"),
        (("run", "candidate"), 2, "--variant NAME"),
        (("run", "baseline", "--track", "smok"), 2, "did you mean 'smoke'"),
        (("submit", "--track", "smoke"), 2, "submit --baseline"),
        (("submit", "--baseline", "--track", "smoke"), 2, "run baseline"),
        (("verify", "nowhere"), 2, "not a folder under submissions/"),
        (("run", "candidate", "--variant", "qk_norm", "--max-pairs", "2"), 2, "--max-pairs 3 or more"),
        (("run", "candidate", "--variant", "qk_norm", "--lane", "sped"), 2, "did you mean 'speed'"),
        (("run", "baseline", "--track", "smoke", "--pairs", "99"), 2, "has 8 seeds"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_two(
    sandbox: Sandbox, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = sandbox(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert one_sentence(done.stderr)


HEAD = '"""An idea (somebody, 2026)."""\nfrom dataclasses import replace\nimport torch\nfrom torch import nn\n'
FUTURE = (
    HEAD
    + """
class Peek(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return self.inner(x) + x.roll(-1, dims=1)
def apply(parts):
    return replace(parts, block=lambda final, layer: Peek(parts.block(final, layer)))
"""
)
EXPLODE = (
    HEAD
    + """
def apply(parts):
    return replace(parts, optim=replace(parts.optim, head_lr=1e38, scalar_lr=1e38))
"""
)
ASLEEP = (
    HEAD
    + """
def apply(parts):
    return replace(parts, optim=replace(parts.optim, head_lr=1e-9))
"""
)
CRASH = (
    HEAD
    + """
class Crash(nn.Module):
    def forward(self, x):
        raise RuntimeError("shapes do not fit")
def apply(parts):
    return replace(parts, feed_forward=lambda final, layer: Crash())
"""
)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("def apply(parts:\n", 2, "syntax error"),
        (HEAD + "def apply(parts):\n    return 3\n", 2, "returned int, not Parts"),
        (HEAD + "import os\ndef apply(parts):\n    return parts\n", 2, "imports 'os'"),
        (FUTURE, 3, "invalid: causality"),
        (EXPLODE, 3, "diverged: the training loss is not finite"),
        (ASLEEP, 3, "hopeless: dev loss"),
        (CRASH, 3, "shapes do not fit"),
    ],
)
def test_a_bad_variant_ends_in_a_sentence_and_gets_no_number(
    filed: FiledContest, tmp_path: Path, text: str, code: int, words: str
) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    (sandbox.root / "models" / "variants" / "idea.py").write_text(text)
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
    [(CRASH, 3, "shapes do not fit"), (None, 2, "changes experts, and the model of this track has none")],
)
def test_a_variant_that_cannot_start_costs_no_run_of_the_record(
    filed: FiledContest, tmp_path: Path, text: str | None, code: int, words: str
) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    shutil.rmtree(sandbox.root / "runs")
    if text:
        (sandbox.root / "models" / "variants" / "idea.py").write_text(text)
    variant = "idea" if text else "zero_compute_expert"
    done = sandbox("run", "candidate", "--variant", variant, "--track", "smoke")
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert not list(sandbox.root.glob("runs/smoke/base+token_smear/*/seed-*/run.json"))


def test_a_truncated_run_file_is_named_and_the_others_are_kept(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    runs = sorted((sandbox.root / "runs" / "smoke" / "base+token_smear").glob("*/seed-*/run.json"))
    runs[1].write_text(runs[1].read_text()[:300])
    refused = sandbox(*CANDIDATE)
    assert refused.returncode == 2
    assert str(runs[1]) in refused.stderr
    assert one_sentence(refused.stderr)
    runs[1].unlink()
    mended = sandbox.json(*CANDIDATE)
    assert mended["gain"] == filed.candidate["gain"]


def losses(sandbox: Sandbox, *arguments: str) -> list[tuple[int, float, str]]:
    runs = sandbox.json("run", "baseline", "--track", "smoke", *arguments)["runs"]
    return [(run["seed"], run["evaluation"]["nats"], run["training"]["weights_sha256"]) for run in runs]


def test_an_interruption_keeps_what_is_finished_and_changes_no_result(
    sandbox: Sandbox, filed: FiledContest, tmp_path: Path
) -> None:
    """Ctrl-C in the middle, then the same command again: the very numbers of the undisturbed runs."""
    torn = sandbox.copy(tmp_path / "torn")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "run", "baseline", "--track", "smoke", "--jobs", "1"],
        cwd=torn.root,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(torn.root.glob("runs/smoke/base/*/seed-1/train.log")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    assert len(list(torn.root.glob("runs/smoke/base/*/seed-0/run.json"))) == 1
    assert not list(torn.root.glob("runs/smoke/base/*/seed-2/run.json"))
    opening = filed.sandbox.root / "submissions" / "0001-smoke-baseline" / "runs"
    undisturbed = [json.loads(path.read_text()) for path in sorted(opening.glob("*.json"))]
    assert losses(torn, "--jobs", "1") == [
        (run["seed"], run["evaluation"]["nats"], run["training"]["weights_sha256"]) for run in undisturbed
    ]


def test_seeds_cannot_be_picked(filed: FiledContest) -> None:
    from harness.board.check_claim import _seed_problems
    from harness.board.submission import Claim, confirmation_seeds, load_submission

    folder = filed.sandbox.root / "submissions" / "0002-smoke-token_smear"
    submission = load_submission(folder)
    assert list(_seed_problems(Claim(folder, submission))) == []

    def with_seeds(seeds: list[int]) -> list[str]:
        runs = {str(seed): "0" * 64 for seed in seeds}
        arms = {name: getattr(submission, name).model_copy(update={"runs": runs}) for name in ("record", "candidate")}
        return list(_seed_problems(Claim(folder, submission.model_copy(update=arms))))

    derived = confirmation_seeds(submission.track_digest, submission.candidate.sources, 8)
    assert len(set(derived)) == 8
    assert derived != confirmation_seeds(submission.track_digest, {"token_smear": "0" * 64}, 8)
    assert with_seeds([0, 1, 2, 3, 4]) == with_seeds(derived[:5]) == []
    for picked in ([0, 1, 3], [2, 1, 0], [7], derived[1:4]):
        assert any("are neither" in problem for problem in with_seeds(picked))


def test_every_attempt_is_counted_until_the_record_moves(filed: FiledContest, tmp_path: Path) -> None:
    from harness.board.leaderboard import read_board
    from harness.core.project import Project
    from harness.core.track import load_track
    from harness.lab.arms import Arms
    from harness.lab.contest import Contest
    from harness.lab.history import attempt_number, record_attempt
    from harness.rule.verdict import failed_verdict

    project = Project(filed.sandbox.copy(tmp_path / "llmbench").root)
    track, board = load_track(project, "smoke"), read_board(project)
    verdict = failed_verdict("candidate_failed", "why", track.rule, added_statements=1)
    contest = Contest(Arms("base+token_smear", "base+token_smear+x"), (), (), verdict)
    first, second = {"x": "1" * 64}, {"x": "2" * 64}
    assert attempt_number(project, board, track, first) == 1
    record_attempt(project, board, track, contest, first)
    record_attempt(project, board, track, contest, first)
    assert attempt_number(project, board, track, first) == 1
    assert attempt_number(project, board, track, second) == 2
    assert (
        attempt_number(project, board.before(2), track, second) == 2
    )  # that record had one attempt before it: its own


def test_each_lane_has_its_own_contest(filed: FiledContest) -> None:
    from harness.board.leaderboard import read_board
    from harness.core.errors import LlmbenchError
    from harness.core.project import Project
    from harness.core.track import load_track
    from harness.lab.arms import Arms, Entry, choose_arms

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
    from harness.board.leaderboard import Board, read_board
    from harness.core.project import Project

    best = read_board(Project(filed.sandbox.root)).submissions[-1]
    removal = best.model_copy(update={"number": 3, "lane": "simplicity", "candidate": best.record})
    board = Board((best, removal))
    key = (best.track, best.track_digest)
    assert board.holder_of(*key) == removal
    assert board.standing_of(*key, "loss") == board.standing_of(*key, "speed") == removal
    assert board.standing_of(*key, "simplicity") == best
