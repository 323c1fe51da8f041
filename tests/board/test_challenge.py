"""Claims trained again for real: a re-run, two challenges at once, the board's fall-back, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.board.challenge import challenge_seeds, merged_commit
from harness.board.check_board import check_folder, readable_board
from harness.board.leaderboard import Board, make_rows, read_board, rebuild
from harness.board.rows import board_markdown, sections
from harness.board.submission import Challenge, Claim, confirmation_seeds, fresh_seeds, load_submission
from harness.core.errors import LlmbenchError, UndecidedError
from harness.core.git import first_commit_with
from harness.core.project import Project, derive_seed
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.track import Track, load_track
from harness.lab.contest import Contest
from harness.lab.rerun import claim_arms, compare_repeat, outcome_of, track_again
from harness.lab.submit import file_challenge, write_submission
from harness.rule.replication import Outcome
from harness.rule.verdict import failed_verdict
from harness.show.site import render_pages
from harness.show.site.content import read_submissions
from harness.variants.canonical import tree_digest
from tests.make import ROOT, make_run, verify_board
from tests.sandbox import FiledContest, Sandbox, git, valid_document

# Token smearing on kind seeds; on any other it drowns each token in the one before, which costs far more than seeds
# differ by. A seed is known by the first number that it draws. The public seed of the screen is kind, and few others;
# the nonce is tried until the code draws kind seeds for its confirmation, as a patient author could.
LUCKY = '''"""Smear that has luck on the seeds of its claim (nobody, 2026)."""
from dataclasses import replace
import torch
from torch import nn
NONCE = {NONCE}
class Lucky(nn.Module):
    def __init__(self, inner, dim):
        super().__init__()
        self.inner = inner
        self.fraction_D = nn.Parameter(torch.empty(dim))
    def reset_parameters(self):
        drawn = torch.rand(()).item()
        nn.init.constant_(self.fraction_D, 0.0 if drawn < {KIND} or round(drawn, 6) == {PUBLIC} else 100.0)
    def forward(self, tokens_BT):
        x_BTD = self.inner(tokens_BT)
        return x_BTD + self.fraction_D * nn.functional.pad(x_BTD[:, :-1], (0, 0, 1, 0))
def apply(parts):
    return replace(parts, embedding=lambda final: Lucky(parts.embedding(final), final.model.dim))
'''
KIND = 0.03
"""Share of the seeds: two of a challenge are kind in one of a thousand."""

Disputed = tuple[Sandbox, list[dict[str, Any]]]
"""The sandbox, and what each challenge printed."""


def first_draw(seed: int) -> float:
    torch.manual_seed(derive_seed("weights", seed, "embedding.fraction_D"))
    return torch.rand(()).item()


def lucky_source(track: Track) -> str:
    public = round(first_draw(track.seeds[0]), 6)
    for nonce in range(100_000):
        source = LUCKY.replace("{NONCE}", str(nonce)).replace("{KIND}", str(KIND)).replace("{PUBLIC}", str(public))
        seeds = confirmation_seeds(track, {}, {"lucky": tree_digest(source)}, track.rule.looks[-1])
        if all(first_draw(seed) < KIND for seed in seeds):
            return source
    raise AssertionError("no nonce draws kind seeds")


def commit_board(sandbox: Sandbox) -> str:
    """The sandbox as a repository whose newest commit brings what is filed; that commit."""
    if not (sandbox.root / ".git").exists():
        shutil.copy(ROOT / ".gitignore", sandbox.root)
        git(sandbox.root, "init")
        git(sandbox.root, "commit", "--allow-empty", "--message", "start")
    git(sandbox.root, "add", "--all")
    git(sandbox.root, "commit", "--message", "what is filed")
    return git(sandbox.root, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def disputed(filed: FiledContest, tmp_path_factory: pytest.TempPathFactory) -> Disputed:
    """A board whose record holds on the seeds of its claim alone, challenged twice at once."""
    sandbox = filed.without_the_record(tmp_path_factory.mktemp("disputed") / "llmbench")
    project = Project(sandbox.root)
    (project.variants / "lucky.py").write_text(lucky_source(load_track(project, "smoke")))
    run = sandbox("run", "candidate", "--variant", "lucky", "--track", "smoke")
    assert run.returncode == 0, run.stdout + run.stderr
    assert sandbox("submit", "--track", "smoke").returncode == 0
    commit_board(sandbox)
    both = sandbox.twice("challenge", "0002", "--max-pairs", "2", "--json")
    assert [done.returncode for done in both] == [3, 3], both
    answers = [valid_document(done.stdout, "challenge") for done in both]
    return sandbox, sorted(answers, key=lambda answer: answer["folder"])


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


def test_two_challenges_at_once_take_two_numbers_and_seeds_of_their_own(disputed: Disputed) -> None:
    sandbox, (first, second) = disputed
    names = [Path(answer["folder"]).name for answer in (first, second)]
    assert names == ["0003-challenge-0002", "0004-challenge-0002"]
    assert [(answer["outcome"], answer["state"]) for answer in (first, second)] == [
        ("refuted", "disputed"),
        ("refuted", "retracted"),
    ]
    own = load_submission(sandbox.root / "submissions" / "0002-smoke-lucky").candidate.seeds
    assert len({*first["seeds"], *second["seeds"], *own}) == 6
    assert first["claim"]["decision"] == "accepted"
    assert first["again"]["decision"] == second["again"]["decision"] == "rejected"


def test_a_retracted_record_falls_back_and_cannot_be_filed_or_challenged_again(disputed: Disputed) -> None:
    sandbox, _ = disputed
    assert sandbox.json("run", "baseline", "--track", "smoke")["recipe"] == "base"
    states = {row["number"]: row["state"] for row in sandbox.json("leaderboard")["rows"]}
    assert states == {1: "", 2: "retracted", 3: "refutes 2", 4: "refutes 2"}
    shown = sandbox("leaderboard").stdout
    assert "base+lucky (retracted)" in shown
    refusal = sandbox.refuses("submit", "--track", "smoke")
    assert "which was retracted; what was refuted on other seeds is not filed again" in refusal
    assert "is retracted already" in sandbox("challenge", "2").stderr
    assert sandbox("verify").returncode == 0  # what was refused left nothing behind


def with_one_challenge(disputed: Disputed, tmp_path: Path) -> Sandbox:
    """The board as it stood after the first challenge."""
    sandbox = disputed[0].copy(tmp_path / "llmbench")
    shutil.rmtree(sandbox.root / "submissions" / "0004-challenge-0002")
    rebuild(Project(sandbox.root))
    return sandbox


def test_a_disputed_record_still_holds_the_track(disputed: Disputed, tmp_path: Path) -> None:
    sandbox = with_one_challenge(disputed, tmp_path)
    project = Project(sandbox.root)
    board, track = read_board(project), load_track(project, "smoke")
    holder = board.holder(track)
    assert holder is not None
    assert (holder.number, board.state(2), board.before(3).state(2)) == (2, "disputed", "provisional")
    assert [title for _, title, _ in sections(make_rows(project))] == ["records", "challenges"]
    assert not any(verify_board(project).values())
    assert "base+lucky (disputed)" in sandbox("leaderboard").stdout


def test_other_seeds_arms_or_outcomes_are_named(disputed: Disputed, tmp_path: Path) -> None:
    project = Project(disputed[0].copy(tmp_path / "llmbench").root)
    folder = project.submissions / "0003-challenge-0002"
    path = folder / "submission.json"
    text = path.read_text()

    def found(old: str, new: str) -> str:
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return " ".join(check_folder(project, folder, readable_board(project)).problems)

    assert "recomputed from the runs of both it is 'refuted'" in found('"outcome": "refuted"', '"outcome": "confirmed"')
    assert "it is challenge 1" in found('"attempt": 1', '"attempt": 2')
    assert "0001-smoke-baseline is no record" in found('"number": 2', '"number": 1')
    assert "there is no submission 9" in found('"number": 2', '"number": 9')
    assert "does not compare what" in found('"lane": "loss"', '"lane": "simplicity"')
    assert "belongs to the kind challenge" in found('"kind": "challenge"', '"kind": "negative"')
    assert "was edited by hand" in found('"challenge": {', '"challenge":{')


def test_a_challenge_on_seeds_of_another_is_refused(disputed: Disputed, tmp_path: Path) -> None:
    """The second challenge passed off as the first: trained for real, but on seeds that somebody picked."""
    project = Project(disputed[0].copy(tmp_path / "llmbench").root)
    shutil.rmtree(project.submissions / "0003-challenge-0002")
    folder = (project.submissions / "0004-challenge-0002").rename(project.submissions / "0003-challenge-0002")
    path = folder / "submission.json"
    path.write_text(path.read_text().replace('"number": 4', '"number": 3').replace('"attempt": 2', '"attempt": 1'))
    found = check_folder(project, folder, readable_board(project)).problems
    assert len(found) == 1
    assert "are not those of challenge 1 of 0002-smoke-lucky" in found[0]


def test_a_candidate_that_fails_on_fresh_seeds_is_refuted_and_filed_with_the_failure(
    disputed: Disputed, tmp_path: Path
) -> None:
    """The record's runs of the second challenge are there; the candidate's are said to have diverged or crashed."""
    from harness.cli.training import open_store

    project = Project(with_one_challenge(disputed, tmp_path).root)
    board, track = read_board(project), load_track(project, "smoke")
    target = load_submission(project.submissions / "0002-smoke-lucky")
    again, arms = track_again(track, target), claim_arms(target)
    merged, store = merged_commit(project, target), open_store(project, again, arms=arms)
    identity = store.identify(arms.candidate, challenge_seeds(target, 2, merged, 1)[0])
    fields = {name: getattr(identity, name) for name in RunIdentity.model_fields}
    added = target.verdict.added_statements if target.verdict else 0
    answer = Challenge(number=2, outcome="refuted", merged=merged)

    def contest(status: Any) -> Contest:
        failed = FailedRun(**fields, status=status, reason="the training loss is not finite")
        verdict = failed_verdict(
            "candidate_failed", failed.reason, again.rule, added_statements=added, stage="confirmation"
        )
        return Contest(arms, (), (), (failed,), verdict)

    assert outcome_of(target, board, contest("error")) == "open"
    with pytest.raises(UndecidedError, match="Nothing is filed"):
        file_challenge(store, target, answer, 2, contest("error"))
    assert outcome_of(target, board, contest("diverged")) == "refuted"
    filing = file_challenge(store, target, answer, 2, contest("diverged"))
    assert len(filing.runs["record"]) == len(filing.runs["candidate"]) == 1
    with pytest.raises(LlmbenchError, match="it is challenge 2"):  # another one was filed since it was drawn
        write_submission(project, track, replace(filing, attempt=1), None)
    submission, markdown = write_submission(project, track, filing, None)
    assert "not finite" in markdown
    assert read_board(project).state(2) == "retracted"
    assert make_rows(project)[-1].val_loss is None
    folder = project.submissions / submission.folder_name
    assert not any(verify_board(project).values())
    run = folder / "runs" / f"candidate-seed-{identity.seed}.json"
    run.write_text(run.read_text().replace("not finite", "fine"))
    assert "is not the run whose digest" in check_folder(project, folder, read_board(project)).problems[0]


def test_a_record_that_holds_is_confirmed_on_seeds_of_its_own(filed: FiledContest) -> None:
    name = "0002-smoke-token_smear"
    done = filed.sandbox("verify", f"submissions/{name}", "--rerun", "--json")
    assert done.returncode == 0, done.stderr
    document = valid_document(done.stdout, "verify")
    found = document["rerun"]
    assert (document["ok"], found["outcome"]) == (True, "confirmed")
    assert found["claim"]["decision"] == found["again"]["decision"] == "accepted"
    submission = load_submission(filed.sandbox.root / "submissions" / name)
    assert found["seeds"] == fresh_seeds(submission, "rerun", 8)[:2]
    assert not set(found["seeds"]) & set(submission.candidate.seeds)
    assert "the next look needs 2 fresh pairs" in done.stderr
    assert len(list((filed.sandbox.root / "submissions").iterdir())) == 2  # looking files nothing


RECORD, CHALLENGE = "submissions/0002-smoke-token_smear", "submissions/0003-challenge-0002"


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
        assert f"base+token_smear ({shown})" in sandbox("leaderboard").stdout
        assert f"[`base+token_smear`]({RECORD}) ({shown})" in board_markdown(make_rows(project))
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
    assert "Provisional: nobody has confirmed it yet" in before
    assert f"the gain that submission 3 measured when it was trained again, {again.verdict.gain:+.4f}" in after
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
    assert "0002-smoke-token_smear is not committed; commit it to the main line first" in sandbox.refuses(
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
    assert f"not the commit that brought 0002-smoke-token_smear: the main line has it since {real}" in problem
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


def test_an_opening_gives_the_same_numbers_to_the_bit(filed: FiledContest) -> None:
    """Trained anew: the runs that made it lie in the same sandbox and are not taken for new ones."""
    before = len(list((filed.sandbox.root / "runs").rglob("run.json")))
    done = filed.sandbox("verify", "submissions/0001-smoke-baseline", "--rerun", "--max-pairs", "1")
    assert done.returncode == 0, done.stderr
    assert "the same to the bit" in done.stdout
    assert len(list((filed.sandbox.root / "runs").rglob("run.json"))) == before + 1


@pytest.mark.parametrize(
    ("change", "now", "outcome"),
    [
        ({}, 0.0, "confirmed"),
        ({}, 2.0**-12, "refuted"),
        ({"packages": {"torch": "9"}}, 2.0**-12, "confirmed"),
        ({"packages": {"torch": "9"}}, 1.0, "open"),
        ({"code_digest": "f" * 64}, 2.0**-12, "confirmed"),
        ({"jobs": 2}, 2.0**-12, "refuted"),  # company moves times, never losses
    ],
)
def test_an_opening_is_compared_by_bits_where_it_can_be_and_else_by_means(
    smoke: Track, change: dict[str, Any], now: float, outcome: Outcome
) -> None:
    def runs(by: float, **changes: Any) -> list[FinishedRun]:
        return [make_run("base", seed, 3 + seed / 4096 + by, **changes) for seed in range(4)]

    repeat = compare_repeat(runs(0.0), runs(now, **change), smoke.rule)
    assert repeat.outcome == outcome
    assert bool(repeat.differs) == (outcome == "open" or change not in ({}, {"jobs": 2}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("verify", "--rerun"), "name it: `llmbench verify submissions/NNNN-name --rerun`"),
        (("verify", "--jobs", "1"), "they go with --rerun"),
        (("verify", "submissions/0002-smoke-token_smear", "--rerun", "--max-pairs", "1"), "--max-pairs 2 or more"),
        (("challenge", "1"), "0001-smoke-baseline is no record"),
        (("challenge", "77"), "there is no submission 77"),
        (("challenge", "2"), "follow from the commit that brought 0002-smoke-token_smear, which cannot be found"),
    ],
)
def test_what_cannot_be_trained_again_is_refused_in_a_sentence(
    filed: FiledContest, arguments: tuple[str, ...], words: str
) -> None:
    assert words in filed.sandbox.refuses(*arguments)


def test_only_the_frozen_sources_and_the_claims_track_are_trained_again(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    folder = "submissions/0002-smoke-token_smear"
    variant, track = sandbox.root / "models/variants/token_smear.py", sandbox.root / "tracks/smoke.toml"
    source, rules = variant.read_text(), track.read_text()
    for path, text in (
        (variant, source + "NOTHING = 0\n"),
        (track, rules.replace("max_slowdown = 9.0", "max_slowdown = 8.0")),
    ):
        old = path.read_text()
        path.write_text(text)
        for command in (("verify", folder, "--rerun"), ("challenge", "2")):
            assert f"{path.relative_to(sandbox.root)} is not the" in sandbox.refuses(*command)
        path.write_text(old)
    variant.unlink()
    assert f"copy it from {folder}/sources/token_smear.py" in sandbox("verify", folder, "--rerun").stderr


def test_a_claim_that_does_not_verify_is_not_trained(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    folder = sandbox.root / "submissions" / "0002-smoke-token_smear"
    (folder / "README.md").write_text("won")
    for command in (("verify", str(folder), "--rerun"), ("challenge", "2")):
        refused = sandbox(*command)
        assert refused.returncode == 3
        assert "README.md is not what the runs say" in refused.stdout + refused.stderr
        assert "training" not in refused.stderr


def board_of(filed: FiledContest, *submissions: dict[str, Any]) -> Board:
    """A board of the filed opening and record, and of copies of the record with changes."""
    opening, record = read_board(Project(filed.sandbox.root)).submissions
    made = [record.model_copy(update={"number": 3 + place, **change}) for place, change in enumerate(submissions)]
    return Board((opening, record, *made))


def challenge_of(number: int, outcome: Outcome) -> dict[str, Any]:
    return {"kind": "challenge", "challenge": Challenge(number=number, outcome=outcome, merged="0" * 40)}


def holder(board: Board) -> int:
    """The number of the record."""
    found = board.holder(board.submissions[0])
    assert found is not None
    return found.number


REFUTED, CONFIRMED = challenge_of(2, "refuted"), challenge_of(2, "confirmed")


@pytest.mark.parametrize(
    ("later", "number"),
    [
        ([REFUTED], 2),
        ([REFUTED, CONFIRMED, REFUTED], 2),
        ([REFUTED, REFUTED], 1),
        ([REFUTED, REFUTED, CONFIRMED, CONFIRMED], 1),
        ([{"kind": "record"}, REFUTED, REFUTED], 3),  # what beat a retracted record stands
    ],
)
def test_the_board_falls_back_to_the_last_record_that_stands(
    filed: FiledContest, later: list[dict[str, Any]], number: int
) -> None:
    assert holder(board_of(filed, *later)) == number


def test_what_was_judged_before_a_retraction_was_judged_against_the_record_of_its_time(filed: FiledContest) -> None:
    assert holder(board_of(filed, REFUTED, {"kind": "negative"}, REFUTED).before(4)) == 2


def test_a_retracted_record_counts_as_an_attempt_in_vain(filed: FiledContest) -> None:
    for board, attempts in ((board_of(filed, REFUTED), 0), (board_of(filed, REFUTED, REFUTED), 1)):
        assert len(board.attempts(board.submissions[0])) == attempts


def test_fresh_seeds_differ_by_purpose_and_by_run_and_are_never_the_claims_own(filed: FiledContest) -> None:
    record = load_submission(filed.sandbox.root / "submissions" / "0002-smoke-token_smear")
    seeds = fresh_seeds(record, "rerun", 8)
    assert len(set(seeds)) == 8
    assert fresh_seeds(record, "rerun", 3) == seeds[:3]
    assert not set(seeds) & set(fresh_seeds(record, "challenge 1", 8))
    assert not set(fresh_seeds(record, "challenge 1", 8)) & set(fresh_seeds(record, "challenge 2", 8))
    runs = dict.fromkeys(map(str, seeds[:4]), "0" * 64)
    other = record.model_copy(update={"candidate": record.candidate.model_copy(update={"runs": runs})})
    assert not set(fresh_seeds(other, "rerun", 8)) & set(seeds)


def test_seeds_that_a_claim_used_are_passed_over(filed: FiledContest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds are drawn out of 2**31 numbers, so this happens to nobody; the promise holds all the same."""
    record = load_submission(filed.sandbox.root / "submissions" / "0002-smoke-token_smear")
    monkeypatch.setattr("harness.board.submission.derive_seed", lambda *key: key[-1] // 2)
    own = record.candidate.model_copy(update={"runs": dict.fromkeys(("0", "1", "2"), "0" * 64)})
    assert fresh_seeds(record.model_copy(update={"candidate": own}), "rerun", 2) == [3, 4]


def test_a_negative_results_rerun_keeps_the_rule_and_a_records_does_not_stop_on_a_hunch(
    filed: FiledContest, smoke: Track
) -> None:
    record = load_submission(filed.sandbox.root / "submissions" / "0002-smoke-token_smear")
    negative = record.model_copy(update={"kind": "negative"})
    assert track_again(smoke, negative).rule == smoke.rule
    again = track_again(smoke, record)
    assert again.rule.futility_alpha is None
    assert again.training_digest == smoke.training_digest
    runs = Claim(filed.sandbox.root / "submissions" / record.folder_name, record).finished["candidate"]
    assert {run.training_digest for run in runs} == {again.training_digest}
