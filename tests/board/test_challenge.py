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
from harness.board.rows import sections
from harness.board.submission import Challenge, Claim, confirmation_seeds, fresh_seeds, load_submission
from harness.core.errors import LlmbenchError, UndecidedError
from harness.core.project import Project, derive_seed
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.track import Track, load_track
from harness.lab.contest import Contest
from harness.lab.rerun import claim_arms, compare_repeat, outcome_of, track_again
from harness.lab.submit import file_challenge, write_submission
from harness.rule.replication import Outcome
from harness.rule.verdict import decide, failed_verdict
from harness.show.report import outcome_sentence
from harness.variants.canonical import tree_digest
from tests.make import RULE, STORED, make_pairs, make_run, verify_board
from tests.sandbox import FiledContest, Sandbox, commit_board, valid_document

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
    assert "+lucky (retracted)" in shown
    refusal = sandbox.refuses("submit", "--track", "smoke")
    assert "which was retracted because re-runs on other seeds refuted it" in refusal
    assert "is already retracted" in sandbox("challenge", "2").stderr
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
    assert "+lucky (disputed)" in sandbox("leaderboard").stdout


def test_other_seeds_arms_or_outcomes_are_named(disputed: Disputed, tmp_path: Path) -> None:
    project = Project(disputed[0].copy(tmp_path / "llmbench").root)
    folder = project.submissions / "0003-challenge-0002"
    path = folder / "submission.json"
    text = path.read_text()

    def found(old: str, new: str) -> str:
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return " ".join(check_folder(project, folder, readable_board(project)).problems)

    assert "but the runs of the challenge and of the record give 'refuted'" in found(
        '"outcome": "refuted"', '"outcome": "confirmed"'
    )
    assert "it is challenge 1" in found('"attempt": 1', '"attempt": 2')
    assert "0001-smoke-baseline is not a record" in found('"number": 2', '"number": 1')
    assert "there is no submission 9" in found('"number": 2', '"number": 9')
    assert "must repeat the comparison of" in found('"lane": "loss"', '"lane": "simplicity"')
    assert "if its kind is challenge, it must have the field challenge" in found(
        '"kind": "challenge"', '"kind": "negative"'
    )
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
    assert "are not the seeds that challenge 1 of 0002-smoke-lucky must have" in found[0]


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
    with pytest.raises(UndecidedError, match="Nothing is submitted"):
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
    assert "does not have the digest" in check_folder(project, folder, read_board(project)).problems[0]


def test_a_record_that_holds_is_confirmed_on_seeds_of_its_own(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")  # where other tests find no runs of it
    name = "0002-smoke-token_smear"
    done = sandbox("verify", f"submissions/{name}", "--rerun", "--json")
    assert done.returncode == 0, done.stderr
    document = valid_document(done.stdout, "verify")
    found = document["rerun"]
    assert (document["ok"], found["outcome"]) == (True, "confirmed")
    assert found["claim"]["decision"] == found["again"]["decision"] == "accepted"
    submission = load_submission(sandbox.root / "submissions" / name)
    assert found["seeds"] == fresh_seeds(submission, "rerun", 8)[:2]
    assert not set(found["seeds"]) & set(submission.candidate.seeds)
    assert "the first decision needs 2 pairs on new seeds" in done.stderr
    assert len(list((sandbox.root / "submissions").iterdir())) == 2  # looking files nothing


def test_a_rerun_that_time_alone_rejects_is_said_to_refute_nothing() -> None:
    slow = decide(make_pairs([3.0, 3.01, 3.02], [2.9, 2.911, 2.92], [(10.0, 20.0)] * 3), RULE, added_statements=0)
    assert slow.reasons == ("too_slow",)
    assert "rejected only for its time" in outcome_sentence("open", slow)
    weak = decide(make_pairs([3.0, 3.01, 3.02], [2.99, 2.98, 3.04]), RULE, added_statements=0)
    assert "1 more pair may decide: run it again with --max-pairs 4 or more" in outcome_sentence("open", weak)


def test_an_opening_gives_the_same_numbers_to_the_bit(filed: FiledContest, tmp_path: Path) -> None:
    """Trained anew: the runs that made it lie in the same sandbox and are not taken for new ones."""
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    before = len(list((sandbox.root / "runs").rglob("run.json")))
    done = sandbox("verify", "submissions/0001-smoke-baseline", "--rerun", "--max-pairs", "1")
    assert done.returncode == 0, done.stderr
    assert "the same numbers to the bit" in done.stdout
    assert len(list((sandbox.root / "runs").rglob("run.json"))) == before + 1


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
        (("verify", "--rerun"), "name its folder: `llmbench verify submissions/NNNN-name --rerun`"),
        (("verify", "--jobs", "1"), "need --rerun, because without it nothing is trained"),
        (("verify", "submissions/0002-smoke-token_smear", "--rerun", "--max-pairs", "1"), "--max-pairs 2 or more"),
        (("challenge", "1"), "0001-smoke-baseline is not a record"),
        (("challenge", "77"), "there is no submission 77"),
        (
            ("challenge", "2"),
            "the commit that added 0002-smoke-token_smear to the main branch, but this commit cannot be found",
        ),
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
        assert "README.md does not match the runs" in refused.stdout + refused.stderr
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


def test_a_negative_results_rerun_keeps_the_rule_and_a_records_does_not_stop_on_a_hunch(filed: FiledContest) -> None:
    smoke = load_track(Project(filed.sandbox.root), "smoke")
    record = load_submission(filed.sandbox.root / "submissions" / "0002-smoke-token_smear")
    negative = record.model_copy(update={"kind": "negative"})
    assert track_again(smoke, negative).rule == smoke.rule
    again = track_again(smoke, record)
    assert again.rule.futility_alpha is None
    stored = smoke.model_copy(update={"rule": STORED})
    assert {track_again(stored, claim).rule.stored_runs for claim in (record, negative)} == {None}  # both arms anew
    assert again.training_digest == smoke.training_digest
    runs = Claim(filed.sandbox.root / "submissions" / record.folder_name, record).finished["candidate"]
    assert {run.training_digest for run in runs} == {again.training_digest}
