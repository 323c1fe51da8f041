"""A record's state: provisional until a challenge confirms it on seeds that nobody knew when it was filed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board.challenge import challenge_seeds, merged_commit
from harness.board.leaderboard import make_rows
from harness.board.rows import board_markdown
from harness.board.submission import load_submission
from harness.core.errors import UndecidedError
from harness.core.git import first_commit_with
from harness.core.project import Project
from harness.core.runs import FailedRun, RunIdentity
from harness.core.track import load_track
from harness.lab.contest import decide_stored
from harness.lab.rerun import claim_arms, track_again
from harness.lab.submit import file_challenge
from harness.show.site import render_pages
from harness.show.site.content import read_submissions
from tests.sandbox import FiledContest, Sandbox, commit_board, git, valid_document

RECORD, CHALLENGE = "submissions/0002-smoke-token_smear", "submissions/0003-challenge-0002"


@pytest.fixture(scope="module")
def confirmed(filed: FiledContest, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A board whose record was confirmed by a challenge, which is committed too."""
    sandbox = filed.sandbox.copy(tmp_path_factory.mktemp("confirmed") / "llmbench")
    commit_board(sandbox)
    done = sandbox("challenge", "2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = valid_document(done.stdout, "challenge")
    assert (answer["outcome"], answer["state"]) == ("confirmed", "")
    commit_board(sandbox)
    return sandbox


def test_a_record_is_provisional_until_a_challenge_confirms_it_and_shows_the_gain_of_the_rerun(
    filed: FiledContest, confirmed: Sandbox
) -> None:
    before, after = (sandbox.json("leaderboard")["rows"] for sandbox in (filed.sandbox, confirmed))
    own, again = (load_submission(confirmed.root / folder).verdict for folder in (RECORD, CHALLENGE))
    assert own is not None
    assert again is not None
    assert [(row["state"], row["confirmed_by"]) for row in before] == [("", None), ("provisional", None)]
    assert [(row["state"], row["confirmed_by"]) for row in after] == [("", None), ("", 3), ("confirms 2", None)]
    for row, verdict in ((before[1], own), (after[1], again)):
        assert verdict.p_value is not None
        found = [row[name] for name in ("gain", "ci_low", "ci_high", "pairs", "p_value")]
        numbers = [verdict.gain, verdict.ci_low, verdict.ci_high, verdict.pairs, verdict.p_value]
        assert found == pytest.approx(numbers, rel=0.005, abs=1e-6)
    assert before[1]["gain"] != after[1]["gain"]
    assert before[1]["val_loss"] == after[1]["val_loss"]  # of its own seeds
    text = (confirmed.root / RECORD / "README.md").read_text()
    assert text == (filed.sandbox.root / RECORD / "README.md").read_text()
    assert f"**{own.gain:+.4f}**" in text


def test_the_state_is_shown_wherever_a_record_is(filed: FiledContest, confirmed: Sandbox) -> None:
    for sandbox, state, shown in ((filed.sandbox, "provisional", "provisional"), (confirmed, "", "confirmed by 3")):
        project = Project(sandbox.root)
        assert f"+token_smear ({shown})" in sandbox("leaderboard").stdout
        assert f"[`+token_smear`]({RECORD}) ({shown})" in board_markdown(make_rows(project), {})
        entry = next(v for v in sandbox.json("variants")["variants"] if v["name"] == "token_smear")
        row = make_rows(project)[1]
        (standing,) = entry["standings"]
        assert (standing["state"], standing["confirmed_by"]) == (state, row.confirmed_by)
        assert standing["gain"] == pytest.approx(row.gain, abs=1e-6)
        told = sandbox("variants", "token_smear").stdout
        assert ("holds smoke, provisional" in told) == (state == "provisional")
        assert ("confirmed by 0003" in told) == (state == "")


def test_a_page_says_what_a_record_waits_for_and_which_rerun_its_gain_is_of(
    filed: FiledContest, confirmed: Sandbox
) -> None:
    pages = [render_pages(read_submissions(Project(s.root)), ()) for s in (filed.sandbox, confirmed)]
    before, after = (files[f"{RECORD}.html"] for files in pages)
    again = load_submission(confirmed.root / CHALLENGE)
    assert again.verdict is not None
    assert again.challenge is not None
    assert "Provisional: no re-run has confirmed" in before
    assert f"submission 3 trained this record again and measured a gain of {round(again.verdict.gain, 6):+.4f}" in after
    assert ('<span class="note">provisional</span>' in before, "Confirmed" in before) == (True, False)
    assert ('<span class="note">confirmed by 3</span>' in after, "Provisional" in after) == (True, False)
    assert f"<code>{again.challenge.merged[:12]}</code>" in pages[1][f"{CHALLENGE}.html"]


def test_a_challenges_seeds_follow_from_the_commit_that_brought_its_record(confirmed: Sandbox) -> None:
    record, challenge = (load_submission(confirmed.root / folder) for folder in (RECORD, CHALLENGE))
    first = git(confirmed.root, "rev-list", "--reverse", "HEAD").split()[1]
    assert challenge.challenge is not None
    assert merged_commit(Project(confirmed.root), record) == challenge.challenge.merged == first
    assert challenge.candidate.seeds == challenge_seeds(record, 1, first, 2)
    others = challenge_seeds(record, 1, "0" * 40, 8)
    assert not set(others) & {*challenge_seeds(record, 1, first, 8), *challenge_seeds(record, 2, "0" * 40, 8)}


def test_nobody_challenges_a_record_that_is_not_committed(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    (sandbox.root / RECORD).rename(tmp_path / "record")
    commit_board(sandbox)
    (tmp_path / "record").rename(sandbox.root / RECORD)
    assert "0002-smoke-token_smear is not committed; commit it to the main branch first" in sandbox.refuses(
        "challenge", "2"
    )
    commit_board(sandbox)
    shallow = shallow_clone(sandbox, tmp_path / "shallow", 1)
    assert "run `git fetch --unshallow` first" in shallow.refuses("challenge", "2")
    assert len(list((sandbox.root / "submissions").iterdir())) == 2


def shallow_clone(sandbox: Sandbox, target: Path, depth: int) -> Sandbox:
    """A clone of the newest `depth` commits, with the checkout's code."""
    git(target.parent, "clone", "--quiet", "--depth", str(depth), f"file://{sandbox.root}", str(target))
    return Sandbox(target)


def test_a_challenge_on_the_seeds_of_a_commit_that_its_author_chose_is_refused(
    confirmed: Sandbox, tmp_path: Path
) -> None:
    """Trained for real on a line of commits of one's own: another commit brought the record to the main line."""
    sandbox = confirmed.copy(tmp_path / "llmbench")
    shutil.rmtree(sandbox.root / ".git")
    (sandbox.root / CHALLENGE).rename(tmp_path / "challenge")
    real = commit_board(sandbox)
    (tmp_path / "challenge").rename(sandbox.root / CHALLENGE)
    checked = sandbox.json("verify")
    (problem,) = checked["problems"]["0003-challenge-0002"]
    assert f"but 0002-smoke-token_smear was merged by the commit {real}" in problem
    assert not any(problems for name, problems in checked["problems"].items() if name != "0003-challenge-0002")


def test_without_the_history_a_challenges_commit_is_flagged_and_no_pull_request_brings_it(
    confirmed: Sandbox, tmp_path: Path
) -> None:
    assert sandbox_flags(confirmed) == []
    copy = confirmed.copy(tmp_path / "copy")
    shutil.rmtree(copy.root / ".git")
    assert sandbox_flags(copy) == ["unchecked_commit"]
    shallow = shallow_clone(confirmed, tmp_path / "shallow", 2)
    assert sandbox_flags(shallow) == ["unchecked_commit"]
    assert confirmed("verify", "--base", "HEAD^").returncode == 0
    refused = shallow("verify", "--base", "HEAD^")
    assert refused.returncode == 3
    assert "run `git fetch --unshallow` first" in refused.stdout


def sandbox_flags(sandbox: Sandbox) -> list[str]:
    """The flags of the challenge about its commit; nothing may be wrong with the board."""
    found = sandbox.json("verify")
    assert found["ok"], found["problems"]
    return [flag["name"] for flag in found["flags"]["0003-challenge-0002"] if flag["name"] == "unchecked_commit"]


def test_the_commit_that_brought_a_file_is_the_oldest_on_the_main_line_that_holds_it_as_it_is(tmp_path: Path) -> None:
    def commit(*arguments: str) -> str:
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--allow-empty", "--message", "change", *arguments)
        return git(tmp_path, "rev-parse", "HEAD").strip()

    path = tmp_path / "claim.json"
    git(tmp_path, "init")
    path.write_text("an older claim in the same place")
    commit()
    path.write_text("the claim")
    assert first_commit_with(tmp_path, "claim.json") is None
    git(tmp_path, "switch", "--quiet", "--create", "mine")
    own = commit()
    assert first_commit_with(tmp_path, "claim.json") == own  # as long as this is the line
    git(tmp_path, "switch", "--quiet", "main")
    commit("--allow-empty")
    git(tmp_path, "merge", "--no-ff", "--message", "bring it", "mine")
    merge = git(tmp_path, "rev-parse", "HEAD").strip()
    assert first_commit_with(tmp_path, "claim.json") == merge
    path.unlink()
    commit()
    path.write_text("the claim")
    assert first_commit_with(tmp_path, "claim.json") == merge  # it was there already
    commit()
    assert first_commit_with(tmp_path, "claim.json") == merge
    path.write_text("the claim, edited")
    assert first_commit_with(tmp_path, "claim.json") is None


def test_a_challenge_is_filed_with_the_runs_that_its_verdict_rests_on(confirmed: Sandbox) -> None:
    """A run that was trained ahead and failed moves no verdict, and no challenge waits for it."""
    from harness.cli.training import open_store

    project = Project(confirmed.root)
    record, filed = (load_submission(confirmed.root / folder) for folder in (RECORD, CHALLENGE))
    assert filed.challenge is not None
    track, arms = track_again(load_track(project, "smoke"), record), claim_arms(record)
    store = open_store(project, track, arms=arms)
    contest = decide_stored(store, arms, "confirmation", filed.candidate.seeds)
    identity = store.identify(arms.candidate, 99)
    fields = {name: getattr(identity, name) for name in RunIdentity.model_fields}
    failed = FailedRun(**fields, status="error", reason="no space left on the device")
    filing = file_challenge(store, record, filed.challenge, 1, replace(contest, failed=(failed,)))
    assert filing.verdict == filed.verdict
    assert [run.seed for run in filing.runs["candidate"]] == filed.candidate.seeds
    few = decide_stored(store, arms, "confirmation", filed.candidate.seeds[:1])
    with pytest.raises(UndecidedError, match="Nothing is submitted"):
        file_challenge(store, record, filed.challenge, 1, few)
