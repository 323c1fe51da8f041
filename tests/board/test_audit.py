"""The audit that a claim holds: it is of the claim's own model, and every number of it is guarded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.board.check_board import check_folder, readable_board
from harness.board.readme import submission_markdown
from harness.board.submission import Claim, load_submission
from harness.core.audit import Audit
from harness.core.project import Project
from harness.core.runs import dump_json
from tests.make import copy_board, newest


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """The committed board, whose newest record has been given an audit."""
    project = copy_board(tmp_path_factory.mktemp("board"))
    folder = newest(project, "record")
    claim = Claim(folder, load_submission(folder))
    audit = Audit(
        weights_sha256=claim.finished["candidate"][0].training.weights_sha256,
        seed="weights",
        positions=claim.track.data.pin("val").tokens - 1,
        tested=3992,
        audit_s=31.0,
    )
    write(folder, claim, audit)
    assert check_folder(project, folder, readable_board(project)).problems == []
    return project, folder


def write(folder: Path, claim: Claim, audit: Audit) -> None:
    submission = claim.submission.model_copy(update={"audit": audit})
    (folder / "submission.json").write_text(dump_json(submission))
    (folder / "README.md").write_text(submission_markdown(submission, *claim.finished.values()))


def test_the_readme_says_what_the_audit_would_have_found(audited: tuple[Project, Path]) -> None:
    text = (audited[1] / "README.md").read_text()
    assert "no leak at 3,992 of the 64,443 positions of val (31 s)" in text
    assert "0.0017 nats per token: 90.0 % (47.2 %)" in text
    assert "0.01 nats per token: over 99.9 % (98.3 %)" in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weights_sha256", "0" * 64, "must be the digest of the final weights of one of the candidate's runs"),
        ("positions", 64_444, "the track's val text has 64443 positions"),
        ("tested", 64_444, "but the val text has only 64443 positions"),
        ("seed", "drawn", "in a submission it must be 'weights'"),
    ],
)
def test_an_audit_of_something_else_is_named_even_where_the_readme_agrees(
    audited: tuple[Project, Path], key: str, value: Any, words: str
) -> None:
    project, folder = audited
    before = (folder / "submission.json").read_text(), (folder / "README.md").read_text()
    claim = Claim(folder, load_submission(folder))
    assert claim.submission.audit is not None
    write(folder, claim, claim.submission.audit.model_copy(update={key: value}))
    problems = check_folder(project, folder, readable_board(project)).problems
    for name, text in zip(("submission.json", "README.md"), before, strict=True):
        (folder / name).write_text(text)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(("key", "value"), [("tested", 3993), ("audit_s", 32.0), ("tested", 0), ("positions", None)])
def test_a_number_changed_by_hand_is_named(audited: tuple[Project, Path], key: str, value: Any) -> None:
    project, folder = audited
    path = folder / "submission.json"
    text = path.read_text()
    content = json.loads(text)
    content["audit"][key] = value
    path.write_text(json.dumps(content, indent=1) + "\n")
    problems = check_folder(project, folder, readable_board(project)).problems
    path.write_text(text)
    assert problems


def test_claims_are_written_as_they_were_read() -> None:
    for folder in sorted((Path(__file__).parents[2] / "submissions").glob("000*")):
        text = (folder / "submission.json").read_text()
        assert dump_json(load_submission(folder)) == text
        assert ("audit" in json.loads(text)) == (json.loads(text)["kind"] == "record")
