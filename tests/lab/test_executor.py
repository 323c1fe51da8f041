"""Where runs are made: one GPU a worker, the part of a cluster's run that needs no cluster, and the option."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from harness.core.events import NODE_EVENT, Ended, Evaluating, Made, NodeEvent, Refused, Step
from harness.core.project import Project, sha256
from harness.core.runs import FinishedRun
from harness.core.track import Track, load_track
from harness.lab.executor import LocalExecutor
from harness.lab.ray.cluster import pack
from harness.lab.ray.node import run_on_node
from harness.lab.ray.remote_run import NodeRequest
from harness.lab.store import RunStore
from harness.player import code_digest
from harness.referee.job import Job
from tests.make import ROOT
from tests.sandbox import Sandbox

NOWHERE = {"RAY_ADDRESS": "127.0.0.1:1"}
SHORT = ("budget.tokens=4096", "budget.dev_evaluations=1")


def test_each_of_two_runs_at_once_has_a_gpu_of_its_own(tiny: Track, job: Job) -> None:
    """What their players are told, as far as a machine without a GPU can say it."""
    track = tiny.model_copy(update={"device": "cuda"})
    executor = LocalExecutor(track, 2, gpus=["4", "GPU-7f"])
    with executor.casting(job) as one, executor.casting(job) as other:
        cells = [casting.cell(casting.assignment(start="empty")) for casting in (one, other)]
    assert [cell.environment["CUDA_VISIBLE_DEVICES"] for cell in cells] == ["4", "GPU-7f"]


def test_more_runs_than_gpus_share_them_and_a_cpu_track_asks_for_none(tiny: Track) -> None:
    gpu_track = tiny.model_copy(update={"device": "cuda"})
    executor = LocalExecutor(gpu_track, 3, gpus=["0", "1"])
    with executor.device() as one, executor.device() as other, executor.device() as third:
        lent = [environment["CUDA_VISIBLE_DEVICES"] for environment in (one, other, third)]
    assert lent == ["0", "1", "0"]
    with LocalExecutor(tiny, 1).device() as environment:
        assert environment == {}


def test_the_sources_that_are_sent_are_all_that_runs_need_and_the_same_each_time(project: Project) -> None:
    archive = pack(project)
    assert pack(project) == archive
    names = set(zipfile.ZipFile(BytesIO(archive)).namelist())
    assert {"harness/player/train.py", "models/gpt.py", "models/variants/token_smear.py", "tracks/smoke.toml"} <= names
    assert not {name for name in names if name.split("/")[0] not in ("harness", "models", "tracks")}


@pytest.fixture(scope="module")
def short(project: Project) -> Track:
    return load_track(project, "smoke", SHORT)


def make_request(track: Track, project: Project, **changes: Any) -> str:
    job = Job(
        root="/nowhere",
        track=track.name,
        training_digest=track.training_digest,
        settings=SHORT,
        recipe="base",
        sources={},
        seed=3,
        folder="/nowhere/else",
    )
    content = {"job": job, "code_digest": code_digest(project), "revision": "f" * 40, "dirty": True, "occasion": "o"}
    return NodeRequest(**{**content, **changes}).model_dump_json()


def carried_out(request: str, archive: bytes) -> list[tuple[NodeEvent, dict[str, bytes]]]:
    return [(NODE_EVENT.validate_json(line), files) for line, files in run_on_node(archive, sha256(archive), request)]


def test_what_a_machine_of_a_cluster_makes_is_what_this_one_makes(
    project: Project, short: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a remote run but Ray: sent sources, a machine on which nothing ran yet; the same bits come back."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    archive = pack(project)
    *events, (made, files), (ended, _) = carried_out(make_request(short, project), archive)
    assert {type(event) for event, _ in events} <= {Step, Evaluating}
    assert ended == Ended(code=0, log="")
    assert isinstance(made, Made), made
    run = made.run
    assert isinstance(run, FinishedRun), run
    assert (run.provenance.revision, run.provenance.dirty) == ("f" * 40, True)
    assert sha256(files["weights.safetensors"]) == run.training.weights_sha256

    store = RunStore(Project(ROOT), short, jobs=1, occasion=str(tmp_path))
    identity = store.identify("base", 3)
    folder = tmp_path / "local"
    folder.mkdir()
    job = NodeRequest.model_validate_json(make_request(short, project)).job
    job = job.model_copy(update={"root": str(ROOT), "folder": str(folder)})
    here = LocalExecutor(short, 1).make(identity, job, lambda event: None)
    assert isinstance(here, FinishedRun), here
    assert (here.training.weights_sha256, here.evaluation.nats) == (run.training.weights_sha256, run.evaluation.nats)
    assert run.provenance.machine == store.provenance.machine


def test_other_sources_than_those_asked_for_are_refused(
    project: Project, short: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (refused, _), _ = carried_out(make_request(short, project, code_digest="0" * 64), pack(project))
    assert isinstance(refused, Refused), refused
    assert "differ from those on your machine" in refused.message


def test_an_executor_is_local_or_ray_and_times_are_compared_on_one_machine(sandbox: Sandbox) -> None:
    unknown = sandbox.refuses("run", "baseline", "--track", "smoke", "--executor", "rai")
    assert "there is no executor 'rai' (did you mean 'ray'?)" in unknown
    timed = sandbox.refuses("run", "candidate", "--variant", "token_smear", "--lane", "speed", "--executor", "ray")
    assert "training times are compared, so all runs must be on the same machine; leave --executor ray out" in timed


def test_a_cluster_that_is_not_there_is_one_sentence(sandbox: Sandbox) -> None:
    pytest.importorskip("ray")
    refused = sandbox.refuses("run", "baseline", "--track", "smoke", "--executor", "ray", environment=NOWHERE)
    assert "no Ray cluster can be reached; start one (`ray start --head`)" in refused
