"""Trackers get what the store observed, read back from what each really wrote; a broken one costs no run."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import LlmbenchError
from harness.core.events import Done, Step
from harness.core.project import Project
from harness.core.runs import FinishedRun, load_run
from harness.core.track import Track
from harness.show import trackers
from harness.show.trackers import TRACKERS, Logbook, Page, make_tracker
from tests.sandbox import FiledContest, Sandbox, valid_document

INSTALLED = [name for name in TRACKERS if importlib.util.find_spec(name) is not None]
Points = dict[str, dict[int, float]]
"""Name -> step -> number."""


@dataclass(frozen=True)
class Logged:
    """One run, trained while all installed trackers listened."""

    sandbox: Sandbox
    home: Path
    run: FinishedRun
    stderr: str


@pytest.fixture(scope="module")
def logged(filed: FiledContest, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    home = tmp_path_factory.mktemp("trackers")
    sandbox = filed.sandbox.copy(home / "llmbench")
    for folder in sandbox.root.glob("runs/smoke/base+token_smear/*/seed-0"):
        shutil.rmtree(folder)
    listeners = [word for name in INSTALLED for word in ("--log", name)]
    environment = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(home / "trackio"), "HF_HUB_OFFLINE": "1"}
    words = ("run", "baseline", "--track", "smoke", "--pairs", "1", *listeners, "--json")
    done = sandbox(*words, environment=environment)
    assert done.returncode == 0, done.stderr
    run = valid_document(done.stdout, *words)["runs"][0]  # what trackers print is not in it
    path = next(sandbox.root.glob("runs/smoke/base+token_smear/*/seed-0/run.json"))
    found = load_run(path)
    assert isinstance(found, FinishedRun)
    assert found.training.weights_sha256 == run["training"]["weights_sha256"]
    return Logged(sandbox, home, found, done.stderr)


def read_tensorboard(logged: Logged) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(logged.sandbox.root.glob("runs/logs/tensorboard/smoke/base+token_smear/seed-0/*"))
    events = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of an offline run's file: LevelDB's log format (github.com/google/leveldb, doc/log_format.md)."""
    place, whole = 7, b""  # W&B's own header comes first
    while place + 7 <= len(data):
        if (room := 32_768 - place % 32_768) < 7:  # the rest of a block is padding
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)  # kind: 1 whole, 2 first, 3 middle, 4 last
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def read_wandb(logged: Logged) -> Points:
    from wandb.proto.wandb_internal_pb2 import Record

    points = Points()
    for data in wandb_records(next(logged.sandbox.root.glob("runs/logs/wandb/offline-run-*/*.wandb")).read_bytes()):
        record = Record()
        record.ParseFromString(data)
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name in row.keys() - {"step"}:
            points.setdefault(name, {})[row["step"]] = row[name]
    return points


def read_trackio(logged: Logged) -> Points:
    points = Points()
    with sqlite3.connect(next((logged.home / "trackio").rglob("*.db"))) as database:
        for step, metrics in database.execute("select step, metrics from metrics"):
            for name, value in json.loads(metrics).items():
                points.setdefault(name, {})[step] = value
    return points


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "trackio": read_trackio}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_holds_the_curve_and_the_scores_of_the_run(name: str, logged: Logged) -> None:
    if name not in INSTALLED and name != "tensorboard":  # which the extra `dev` brings
        pytest.skip(f"{name} is not installed")
    points, run = READERS[name](logged), logged.run
    training = points["train/loss"]
    assert sorted(training) == list(range(1, run.training.steps + 1))
    assert all(map(math.isfinite, training.values()))
    assert points["dev/loss"] == pytest.approx({p.step: p.dev_loss_nats for p in run.training.curve}, rel=1e-6)
    assert points["val/loss"] == pytest.approx({run.training.steps: run.evaluation.val_loss}, rel=1e-6)
    assert points["val/accuracy"] == pytest.approx({run.training.steps: run.evaluation.val_accuracy}, rel=1e-6)


def test_a_verdict_is_logged_too(filed: FiledContest, tmp_path: Path) -> None:
    sandbox = filed.sandbox.copy(tmp_path / "llmbench")
    words = ("run", "candidate", "--variant", "token_smear", "--track", "smoke", "--log", "tensorboard")
    verdict = sandbox.json(*words)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(sandbox.root.glob("runs/logs/tensorboard/smoke/base+token_smear/verdict/*"))
    (gain,) = EventAccumulator(str(folder)).Reload().Scalars("verdict/gain")
    assert (gain.step, gain.value) == (verdict["pairs"], pytest.approx(verdict["gain"], rel=1e-6))


def test_a_missing_package_is_a_sentence_before_anything_trains(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlmbenchError, match=r"not installed; run `pip install -e '\.\[wandb\]'`"):
        make_tracker("wandb", project)
    with pytest.raises(LlmbenchError, match="did you mean 'tensorboard'"):
        make_tracker("tensorbord", project)


def test_a_tracker_that_fails_or_hangs_costs_its_own_log_alone(
    logged: Logged, smoke: Track, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store's threads are never held up, and stdout is whole again afterwards."""
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.2)
    kept, release, warnings = list[tuple[Any, ...]](), threading.Event(), list[str]()

    def broken(name: str, key: str, config: Mapping[str, Any]) -> Page:
        raise ConnectionError("no route\nto host")

    def stuck(name: str, key: str, config: Mapping[str, Any]) -> Page:
        release.wait(60)
        return broken(name, key, config)

    def good(name: str, key: str, config: Mapping[str, Any]) -> Page:
        return Page(lambda step, values: kept.append((step, *values)), lambda: None)

    started = time.monotonic()
    book = Logbook({"broken": broken, "stuck": stuck, "good": good}, smoke, warnings.append)
    with book:
        for step in (1, 2):
            book(logged.run, Step(step=step, tokens=step, loss_nats=3.0, train_s=0.1))
        book(logged.run, Done(result=logged.run, reused=False))
        sys.stdout.write("chatter of a tracker\n")
    sys.stdout.write("the document\n")
    assert time.monotonic() - started < 5
    release.set()
    assert capsys.readouterr().out == "the document\n"
    assert kept[0][:2] == (1, "train/loss")
    assert any("val/loss" in row for row in kept)
    assert warnings[0] == "broken failed, and the runs go on without its log: no route\\nto host"
    assert "stuck did not take all numbers" in warnings[1]
