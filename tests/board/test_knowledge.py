"""What a claim's added sources could know of val: shown, checked, and absent from what was filed before it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.board.check_board import knowledge_of
from harness.board.check_claim import evidence_problems
from harness.board.readme import submission_markdown
from harness.board.submission import Claim, load_submission
from harness.core.project import Project
from harness.core.runs import dump_json
from harness.show.report import check_lines, check_markdown
from harness.variants.check import knowledge_nats
from tests.make import RECORD, ROOT

ADDS = ROOT / "submissions" / "0003-pocket-qk_norm"


def claim(folder: Path, knowledge: float | None) -> Claim:
    return Claim(folder, load_submission(folder).model_copy(update={"knowledge_nats": knowledge}))


def problems(one: Claim) -> list[str]:
    return [problem for problem in evidence_problems(one) if "knowledge_nats" in problem]


def test_only_what_the_candidate_adds_counts_over_vals_tokens() -> None:
    alone = knowledge_nats((ADDS / "sources" / "qk_norm.py").read_text()) / 64443
    assert claim(ADDS, None).knowledge_nats == pytest.approx(alone, abs=1e-4)
    assert claim(ROOT / "submissions" / "0001-pocket-baseline", None).knowledge_nats is None


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, False), (1.02, False), (0.5, True), (2.0, True), (0.0, True)])
def test_another_bound_than_the_sources_give_is_a_problem(factor: float, wrong: bool) -> None:
    known = claim(ADDS, None).knowledge_nats
    assert known
    assert bool(problems(claim(ADDS, round(factor * known, 4)))) == wrong
    assert bool(problems(claim(ROOT / "submissions" / "0001-pocket-baseline", 0.1)))


def test_older_claims_are_written_again_byte_for_byte() -> None:
    for path in sorted((ROOT / "submissions").glob("*/submission.json")):
        submission = load_submission(path.parent)
        assert submission.knowledge_nats is None or "knowledge_nats" in path.read_text()
        assert dump_json(submission) == path.read_text()


def test_what_failed_comes_last_in_the_terminal() -> None:
    lines = check_lines({"changes": ["harness was changed"], "0001-base": [], "0002-idea": []}, {}, {})
    assert [line.split()[0] for line in lines] == ["ok", "ok", "FAILED", "harness", "3"]


def test_the_bound_is_on_the_page_of_a_new_claim_and_in_what_verify_prints(project: Project) -> None:
    one = claim(RECORD, 0.0312)
    assert "at most 0.0312 nats per token" in submission_markdown(one.submission, *one.finished.values())
    known = knowledge_of(project, [RECORD.name, "0001-pocket-baseline"])
    assert known.keys() == {RECORD.name}
    for text in ("\n".join(check_lines({RECORD.name: []}, {}, known)), check_markdown({RECORD.name: []}, {}, known)):
        assert f"at most {known[RECORD.name]:.4f} nats per token" in text
