"""What was measured stays what the code computes: a kept run, trained again, ends in the same bits."""

from __future__ import annotations

import pytest

from harness.core.project import Project
from harness.core.runs import FinishedRun, load_run
from tests.sandbox import FiledContest


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_baseline_trained_here_is_the_kept_one(project: Project, filed: FiledContest, seed: int) -> None:
    """To the bit on the machine, the packages and the track of the kept runs; elsewhere sums round in another order."""
    kept = load_run(project.root / "benchmarks" / "noise" / "smoke" / f"record-seed-{seed}.json")
    path = next(filed.sandbox.root.glob(f"runs/smoke/base/*/seed-{seed}/run.json"))  # a timed contest keeps its own
    made = load_run(path)
    assert isinstance(kept, FinishedRun)
    assert isinstance(made, FinishedRun)
    assert made.training_digest == kept.training_digest
    assert made.evaluation.val_loss == pytest.approx(kept.evaluation.val_loss, abs=0.05)
    before, now = kept.provenance, made.provenance
    if (before.machine.cpu, before.packages) == (now.machine.cpu, now.packages):
        assert made.training.weights_sha256 == kept.training.weights_sha256
        assert made.evaluation.nats == kept.evaluation.nats
