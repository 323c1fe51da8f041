"""A track whose rule asks that a record is not shown to lose on another size: what is filed, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.board.check_board import check_folder, readable_board
from harness.board.check_claim import evidence_problems
from harness.board.submission import SIZE_PAIRS, Claim, load_submission
from harness.core.errors import LlmbenchError, RejectedError
from harness.core.project import Project
from harness.core.runs import dump_json
from harness.core.track import load_track
from harness.lab.arms import Arms
from harness.lab.sizes import measure_sizes
from harness.lab.store import RunStore
from tests.sandbox import Done, Sandbox, make_sandbox

SLOW_WHERE_NARROW = '''"""Nothing on wide models; on narrow ones, learning rates at which nothing is learned."""
from models.seams import replace
def apply(parts):
    rates = {"muon_lr": 1e-6, "embed_lr": 1e-6, "head_lr": 1e-6} if parts.model.dim < 64 else {}
    return replace(parts, optim=replace(parts.optim, **rates))
'''


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sandbox, Done]:
    """A sandbox whose smoke track asks for a smaller size, smoke-s, and what filing token smearing printed."""
    sandbox = make_sandbox(tmp_path_factory.mktemp("sizes") / "llmbench")
    smoke = sandbox.root / "tracks" / "smoke.toml"
    small = smoke.read_text().replace('name = "smoke"', 'name = "smoke-s"').replace("dim = 64", "dim = 32")
    (sandbox.root / "tracks" / "smoke-s.toml").write_text(small.replace("tokens = 16384", "tokens = 4096"))
    asked = load_track(Project(sandbox.root), "smoke-s").digest
    smoke.write_text(smoke.read_text().replace("[rule]\n", f'[rule]\nholds_on = {{ smoke-s = "{asked}" }}\n'))
    for command in ("run baseline", "submit --baseline", "run candidate --variant token_smear"):
        done = sandbox(*command.split(), "--track", "smoke")
        assert done.returncode == 0, done.stderr
    assert "It first trains 3 pairs on smoke-s, where a record must not be shown to be worse" in done.stdout
    return sandbox, sandbox("submit", "--track", "smoke")


@pytest.fixture
def folder(held: tuple[Sandbox, Done]) -> Path:
    return held[0].root / "submissions" / "0002-smoke-token_smear"


def test_a_record_brings_its_pairs_on_the_other_size(held: tuple[Sandbox, Done], folder: Path) -> None:
    sandbox, filed = held
    assert filed.returncode == 0, filed.stderr
    submission = load_submission(folder)
    assert submission.sizes is not None
    assert submission.lost_on == []
    size = submission.sizes["smoke-s"]
    assert size.low < size.gain < size.high
    files = {path.relative_to(folder).as_posix() for path in folder.glob("sizes/*/*")}
    runs = {f"sizes/smoke-s/{arm}-seed-{seed}.json" for arm in ("record", "candidate") for seed in range(SIZE_PAIRS)}
    assert files == {"sizes/smoke-s/track.toml", *runs}
    assert (
        f"On `smoke-s`, another size of the track, the candidate is not shown to lose: gain {size.gain:+.4f}"
        in filed.stdout
    )
    assert sandbox("verify").returncode == 0
    assert "it must not be shown to lose on smoke-s" in " ".join(sandbox("tracks", "smoke").stdout.split())


def restated(folder: Path, **changes: object) -> Claim:
    """The claim with another statement about smoke-s; its files stay."""
    submission = load_submission(folder)
    assert submission.sizes is not None
    other = submission.sizes["smoke-s"].model_copy(update=changes)
    return Claim(folder, submission.model_copy(update={"sizes": {"smoke-s": other}}))


def test_verify_recomputes_the_gain_on_the_other_size(folder: Path) -> None:
    found = [*evidence_problems(restated(folder, high=0.5))]
    assert any("smoke-s.high is 0.5, but the runs give" in one for one in found)
    silent = Claim(folder, load_submission(folder).model_copy(update={"sizes": None}))
    assert any(
        "sizes has results on no other track, but the track's rule requires results on smoke-s" in one
        for one in evidence_problems(silent)
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("candidate-seed-0.json", '"correct": ', '"correct": 1', "does not have the digest that the submission states"),
        ("track.toml", "tokens = 4096", "tokens = 8192", "is not the version that `holds_on` in track.toml names"),
        ("record-seed-1.json", "", None, "sizes/smoke-s/record-seed-1.json is missing"),
        ("extra.json", None, "{}", "sizes/smoke-s/extra.json is not part of the submission"),
    ],
)
def test_verify_checks_each_file_of_the_other_size(
    held: tuple[Sandbox, Done], tmp_path: Path, folder: Path, file: str, old: str | None, new: str | None, problem: str
) -> None:
    project, copy = Project(held[0].root), Path(shutil.copytree(folder, tmp_path / folder.name))
    path = copy / "sizes" / "smoke-s" / file
    before = path.read_text() if old is not None else ""
    assert old is None or old in before
    if new is None:
        path.unlink()
    else:
        path.write_text(before.replace(old, new, 1) if old is not None else new)
    found = check_folder(project, copy, readable_board(project)).problems
    assert any(problem in one for one in found), found


def test_a_candidate_that_loses_on_the_other_size_is_no_record(
    held: tuple[Sandbox, Done], tmp_path: Path, folder: Path
) -> None:
    project = Project(held[0].root)
    (project.variants / "narrow.py").write_text(SLOW_WHERE_NARROW)
    store = RunStore(project, load_track(project, "smoke"), jobs=2)
    asked, arms, told = store.track.rule.holds_on or {}, Arms("base", "base+narrow"), list[str]()
    with pytest.raises(
        RejectedError,
        match=r"higher val loss than the record on smoke-s.*; to submit it as a negative result, add --negative",
    ):
        measure_sizes(store, arms, asked, told.append, negative=False)
    found = measure_sizes(store, arms, asked, told.append, negative=True)
    assert len(found.lost) == 1
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    for kind, refused in (("record", True), ("negative", False)):
        claim = load_submission(folder).model_copy(update={"kind": kind, "sizes": found.results})
        (copy / "submission.json").write_text(dump_json(claim))
        problems = check_folder(project, copy, readable_board(project)).problems
        assert any("its kind is" in one for one in problems) is refused, problems


def test_another_edition_of_the_size_is_refused_before_anything_is_trained(held: tuple[Sandbox, Done]) -> None:
    project = Project(held[0].root)
    store = RunStore(project, load_track(project, "smoke"), jobs=1)
    digest = load_track(project, "smoke-s").digest
    with pytest.raises(LlmbenchError, match=rf"smoke-s\.toml is not the version .* holds_on = {{ smoke-s = \"{digest}"):
        measure_sizes(store, Arms("base", "base+token_smear"), {"smoke-s": "0" * 64}, print, negative=False)
