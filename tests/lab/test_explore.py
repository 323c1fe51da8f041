"""--set: a track with other values is another type, stored apart, and nothing of it enters the board."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import ExploratoryTrack, Track, load_track
from harness.lab.submit import refuse_exploration
from tests.sandbox import FiledContest, Sandbox

SMALL = ("--set", "budget.tokens=1024", "--set", "budget.dev_evaluations=1", "--set", "model.num_layers=1")


def test_a_setting_makes_another_track_that_never_equals_the_contest(project: Project, smoke: Track) -> None:
    same = load_track(project, "smoke", ["model.num_layers=2"])  # the value that it has anyway
    other = load_track(project, "smoke", ["model.num_layers=1", "optim.muon_lr=1", 'device="cpu"', "threads=2"])
    assert isinstance(same, ExploratoryTrack)
    assert len({smoke.training_digest, same.training_digest, other.training_digest}) == 3
    assert (other.model.num_layers, other.optim.muon_lr, other.device, other.threads) == (1, 1.0, "cpu", 2)
    assert other.name != smoke.name


def test_other_data_or_another_vocabulary_take_the_pins_away(project: Project) -> None:
    assert load_track(project, "smoke", ["model.dim=32"]).data.pinned
    assert not load_track(project, "smoke", ["model.vocab_size=300"]).data.pinned
    assert not load_track(project, "smoke", ["data.dev_fraction=0.1"]).data.pinned


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.num_layer=2", ["smoke.toml with --set model.num_layer=2", "did you mean 'num_layers'"]),
        ("model.num_layers=two", ["model.num_layers", "valid integer", "'two'"]),
        ("model.dim=65", ["dim (65)", "num_heads (2)"]),
        ("budget.tokens=100", ["tokens (100)", "512"]),
        ("device=gpu", ["device", "'cpu' or 'cuda'", "'gpu'"]),
        ("modl.dim=3", ["'modl' cannot be set", "did you mean 'model'"]),
        ("rule.alpha=0.4", ["'rule' cannot be set"]),
        ("seeds=[1]", ["'seeds' cannot be set"]),
        ("data.train=4", ["digest of the data"]),
        ("model=4", ["model is a table"]),
        ("device.name=cpu", ["device has no keys; write device=VALUE"]),
        ("model.num_layers", ["KEY=VALUE"]),
        ("=3", ["KEY=VALUE"]),
    ],
)
def test_a_wrong_setting_is_named_with_the_fix(project: Project, setting: str, words: list[str]) -> None:
    with pytest.raises(LlmbenchError) as caught:
        load_track(project, "smoke", [setting])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_what_takes_submissions_refuses_an_exploratory_track(project: Project, smoke: Track) -> None:
    refuse_exploration(smoke, ())
    with pytest.raises(LlmbenchError, match=r"--set model\.dim=32 cannot be submitted"):
        refuse_exploration(load_track(project, "smoke", ["model.dim=32"]), ())


def test_an_exploratory_contest_says_so_counts_nothing_and_cannot_be_filed(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    ledger = sandbox.root / "runs" / "smoke" / "attempts.jsonl"
    before = ledger.read_text()
    done = sandbox("run", "candidate", "--variant", "qk_norm", "--track", "smoke", *SMALL)
    assert done.returncode in (0, 3, 4), done.stderr
    assert "base+token_smear+qk_norm against base+token_smear" in done.stderr  # the record holder of the contest
    assert "EXPLORATORY: smoke with --set budget.tokens=1024" in done.stdout
    assert "attempt" not in done.stdout.replace("are not counted as an attempt", "")
    assert "llmbench submit" not in done.stdout
    assert ledger.read_text() == before
    assert not list(sandbox.root.glob("runs/smoke/*qk_norm*"))
    assert len(list(sandbox.root.glob("runs/exploratory-smoke/*/*/seed-*/run.json"))) >= 2
    assert "cannot be submitted" in sandbox.refuses("submit", "--track", "smoke")


def test_a_gpu_track_without_a_gpu_says_what_to_do(sandbox: Sandbox) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refusal = " ".join(sandbox.refuses("run", "baseline", "--track", "moe-24gb").split())
    assert re.search(r"moe-24gb needs a CUDA GPU, and .* none here \(.*(CUDA|NVIDIA).*\); run it", refusal)
    assert "`--set device=cpu`" in refusal
