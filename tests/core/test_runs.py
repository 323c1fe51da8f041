"""Results: nothing that failed can carry a number, and no broken file is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.core.errors import LlmbenchError
from harness.core.project import write_atomic
from harness.core.runs import FailedRun, FinishedRun, dump_json, load_run, save_run
from tests.make import make_run

FINISHED: dict[str, Any] = json.loads(dump_json(make_run("base", 0, 5.0)))
IDENTITY = {key: value for key, value in FINISHED.items() if key not in ("status", "training", "evaluation")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def load(path: Path, content: Any) -> FinishedRun | FailedRun:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_run(path)


def test_a_run_survives_the_way_to_disk_and_back_bit_for_bit(path: Path) -> None:
    run = load(path, FINISHED)
    save_run(path, run)
    assert load_run(path) == run
    assert path.read_text() == dump_json(run)
    assert isinstance(run, FinishedRun)
    assert (run.evaluation.val_loss, run.evaluation.val_accuracy) == (5.0, 0.0)


@pytest.mark.parametrize("status", ["diverged", "invalid", "interrupted", "error"])
@pytest.mark.parametrize("metric", ["evaluation", "training", "val_loss"])
def test_what_failed_cannot_carry_a_number(path: Path, status: str, metric: str) -> None:
    failed = {**IDENTITY, "status": status, "reason": "because"}
    assert isinstance(load(path, failed), FailedRun)
    with pytest.raises(LlmbenchError, match="unknown key"):
        load(path, {**failed, metric: FINISHED.get(metric, 0.0)})


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_a_status_needs_what_belongs_to_it(path: Path, status: str) -> None:
    with pytest.raises(LlmbenchError, match="is missing; add it"):
        load(path, {**IDENTITY, "status": status})


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"5.0"', "null", "true", "-1.0"])
def test_a_metric_is_a_finite_number_and_nothing_else(path: Path, value: str) -> None:
    text = json.dumps(FINISHED).replace('"nats": 5120.0', f'"nats": {value}')
    assert value in text
    with pytest.raises(LlmbenchError, match=r"run\.json"):
        load(path, text)


def test_a_newer_schema_is_refused_with_the_way_out(path: Path) -> None:
    with pytest.raises(LlmbenchError, match="upgrade llmbench"):
        load(path, {**FINISHED, "schema_version": 99, "something": "new"})


def test_a_record_is_frozen(path: Path) -> None:
    run = load(path, FINISHED)
    with pytest.raises(ValidationError, match="frozen"):
        run.seed = 1  # type: ignore[misc]


def test_an_interrupted_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(LlmbenchError, match="No space left on device; free space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [other.name for other in path.parent.iterdir()] == ["run.json"]


def test_a_field_that_came_later_is_written_only_where_it_says_something() -> None:
    """So a record of before the field was there is written again byte for byte."""
    assert json.loads(dump_json(FinishedRun.model_validate_json(json.dumps(FINISHED)))) == FINISHED
    layer = {"load": [0.25, 0.75], "balance": 1.5}
    training = {**FINISHED["training"], "experts": [layer]}
    machine = {**FINISHED["provenance"]["machine"], "gpu": "a GPU, bfloat16"}
    told = {**FINISHED, "training": training, "provenance": {**FINISHED["provenance"], "machine": machine}}
    run = FinishedRun.model_validate_json(json.dumps(told))
    assert run.training.experts is not None
    assert json.loads(dump_json(run)) == told
