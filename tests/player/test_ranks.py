"""Several processes train one run: the same batches, the same start and, but for the order of sums, the same losses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from harness.core.errors import LlmbenchError
from harness.core.events import Answer, Failed, RunEvent, Step, Stopped, Trained
from harness.core.project import Project
from harness.core.track import Track, load_track, parse_track
from harness.data.batches import Batches
from harness.lab.doctor import _remarks
from harness.lab.executor import LocalExecutor
from harness.lab.provenance import available_cores
from harness.lab.ray.cluster import resources
from harness.player.device import require_device
from harness.player.job import Job
from harness.player.ranks import ALONE, Ranks, _first_failure
from tests.make import ROOT, make_job
from tests.player.rank_worker import Case, outcome

SHORT = ("budget.tokens=20480",)  # 40 steps


@dataclass(frozen=True)
class Together:
    """What each of two processes found, and where a single one can find the same."""

    folder: Path
    ranks: list[dict[str, Any]]

    def alone(self, case: str, folder: Path) -> tuple[Any, Case]:
        """The same case in this process."""
        for name in ("track.json", "tokens.npz", "job.json"):
            (folder / name).write_bytes((self.folder / name).read_bytes())
        alone = Case(folder)
        return outcome(getattr(alone, case)), alone


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, tiny: Track, tiny_tokens: dict[str, Any]) -> Together:
    """Every case of tests/rank_worker.py, by two processes that gloo connects."""
    folder = tmp_path_factory.mktemp("together")
    track = tiny.model_copy(update={"processes": 2})
    job = make_job(track, folder)
    (folder / "track.json").write_text(track.model_dump_json())
    (folder / "job.json").write_text(job.model_dump_json())
    np.savez(folder / "tokens.npz", **tiny_tokens)
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.player.rank_worker", str(folder)],
            cwd=ROOT,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), **place, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return Together(folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)])


def losses(training: dict[str, Any]) -> list[list[float]]:
    return [[point["train_loss_nats"], point["dev_loss_nats"]] for point in training["curve"]]


def test_the_shares_of_a_batch_are_the_batch(tiny_tokens: dict[str, Any]) -> None:
    batch_BT1 = Batches(tiny_tokens["train"], seq_len=16, batch_sequences=12, seed=0).batch(3)
    for size in (1, 2, 3, 4, 6, 12):
        shares = [Ranks(rank, size).share(batch_BT1) for rank in range(size)]
        assert np.array_equal(np.concatenate(shares), batch_BT1)
        assert {len(share) for share in shares} == {12 // size}


def test_each_process_draws_its_own_dropout_and_the_first_that_of_a_single_one() -> None:
    assert len({Ranks(rank, 4).key for rank in range(4)}) == 4
    assert Ranks(0, 4).key == ALONE.key


def test_two_processes_see_and_train_what_one_does(together: Together, tmp_path: Path) -> None:
    training, alone = together.alone("whole", tmp_path)
    found = together.ranks[0]["whole"]
    one, other = (rank["rows"] for rank in together.ranks)
    assert [a + b for a, b in zip(one[1:], other[1:], strict=True)] == alone.rows[1:]  # the first is the warm-up
    assert len(alone.rows) == 1 + found["steps"]
    assert np.allclose(losses(found), losses(training), rtol=0, atol=1e-4)
    assert (found["steps"], found["tokens"]) == (training["steps"], training["tokens"])
    assert found["num_params"] == training["num_params"]
    weights = [load_file(folder / "whole" / "weights.safetensors") for folder in (together.folder, tmp_path)]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], rtol=0, atol=1e-3), name


def test_all_processes_end_alike(together: Together) -> None:
    """That their weights are one is checked by the run itself: see `parting`."""
    one, other = ({k: v for k, v in found.items() if k != "rows"} for found in together.ranks)
    assert one == other


def test_a_stopped_and_resumed_run_of_two_equals_an_uninterrupted_one(together: Together) -> None:
    torn, whole = (together.ranks[0][name] for name in ("torn", "whole"))
    assert torn["weights_sha256"] == whole["weights_sha256"]
    assert losses(torn) == losses(whole)
    assert torn["tokens"] == whole["tokens"]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("diverging", "DivergedError: the training loss is not finite at step"),
        ("hopeless", "HopelessError: dev loss"),
        ("parting", "RuleBrokenError: processes: their weights have parted"),
    ],
)
def test_a_run_that_fails_ends_all_processes_for_one_reason(together: Together, case: str, reason: str) -> None:
    for found in together.ranks:
        assert found[case].startswith(reason), found[case]


def test_what_is_drawn_at_random_does_not_part_the_processes(together: Together) -> None:
    assert together.ranks[0]["drawing"]["experts"] is not None


def test_a_parameter_that_nobody_uses_stays_where_it_is(together: Together, tmp_path: Path) -> None:
    training, _ = together.alone("spare", tmp_path)
    assert np.allclose(losses(together.ranks[0]["spare"]), losses(training), rtol=0, atol=1e-4)
    weights = load_file(together.folder / "spare" / "weights.safetensors")
    assert weights["head.spare"].tolist() == [1, 1, 1]


def test_processes_are_part_of_the_contest_and_one_is_none(project: Project, smoke: Track) -> None:
    text = (ROOT / "tracks" / "smoke.toml").read_text()
    path = ROOT / "tracks" / "smoke.toml"
    one, two = (parse_track(path, text=f"processes = {count}\n{text}") for count in (1, 2))
    assert one.digest == smoke.digest
    assert two.digest != smoke.digest
    assert two.training_digest != smoke.training_digest
    assert (smoke.num_processes, one.num_processes, two.num_processes) == (1, 1, 2)
    with pytest.raises(LlmbenchError, match=r"batch_sequences \(8\) must be a multiple of processes \(3\)"):
        load_track(project, "smoke", ["processes=3"])
    with pytest.raises(LlmbenchError, match="compile and processes do not go together yet"):
        load_track(project, "smoke", ["processes=2", "compile=true"])


def test_a_run_of_several_processes_is_lent_as_many_gpus_and_cores(smoke: Track, monkeypatch: Any) -> None:
    track = smoke.model_copy(update={"processes": 2})
    assert LocalExecutor.room(track) == max(1, available_cores() // 2)
    many = smoke.model_copy(update={"processes": 8 * available_cores()})
    assert f"threads of a run share {available_cores()} core(s)" in " ".join(_remarks(many))
    assert resources(track) == {"num_cpus": 2, "num_gpus": 0}
    on_gpus = track.model_copy(update={"device": "cuda"})
    assert resources(on_gpus) == {"num_cpus": 2, "num_gpus": 2}
    monkeypatch.setattr("harness.lab.executor.alike_gpus", lambda: ["4", "5", "6", "7", "8"])
    assert LocalExecutor.room(on_gpus) == 2
    executor = LocalExecutor(on_gpus, 3)
    with executor.device() as one, executor.device() as other, executor.device() as third:
        lent = [environment["CUDA_VISIBLE_DEVICES"] for environment in (one, other, third)]
    assert lent == ["4,5", "6,7", "4,5"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(LlmbenchError, match=r"takes 2 GPUs, one a process, and torch finds 1 here"):
        require_device(on_gpus)


def test_the_log_ends_with_the_process_that_failed_first(capsys: pytest.CaptureFixture[str]) -> None:
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    for error in (IndexError("the cause"), RuntimeError("connection closed by peer")):
        _first_failure(store)(type(error), error, None)
    assert capsys.readouterr().err == "IndexError: the cause\n"


def second_process(folder: Path) -> int:
    """Process id of the second of those that train in `folder`."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = ((path / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(folder).encode() in words and b"RANK=1" in variables.split(b"\0"):
            return int(path.name)
    raise AssertionError("the second process is not there")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_run_of_two_survives_a_killed_process_and_a_stop(project: Project, tmp_path: Path) -> None:
    """All of the real thing, torchrun and confinement included: killed, then sent SIGTERM, then brought to its end."""

    def ask(folder: str, interrupt: Any = None) -> tuple[Answer, list[int]]:
        """One session, in whose fourth step `interrupt` is called. Its answer, and the steps that it told of."""
        settings = SHORT if folder == "alone" else ("processes=2", *SHORT)
        track = load_track(project, "smoke", settings)
        (tmp_path / folder).mkdir(exist_ok=True)
        job = Job(
            root=str(ROOT),
            track=track.name,
            training_digest=track.training_digest,
            settings=settings,
            recipe="base",
            sources={},
            seed=0,
            folder=str(tmp_path / folder),
            checkpoint_every_s=0.0,
        )
        executor, steps = LocalExecutor(track, 1), list[int]()

        def watch(event: RunEvent) -> None:
            assert isinstance(event, Step)
            steps.append(event.step)
            if len(steps) == 4 and interrupt is not None:
                interrupt(executor)

        return executor.ask("train", job, watch), steps

    killed, steps = ask("torn", lambda executor: os.kill(second_process(tmp_path / "torn"), signal.SIGKILL))
    assert killed == Failed(status="interrupted", reason="killed by signal 9, perhaps for want of memory")
    assert steps[-1] < 40
    stopped, more = ask("torn", lambda executor: executor.stop())
    assert stopped == Stopped()
    assert more[0] > 1, "it began anew"
    assert more[-1] < 40
    resumed, rest = ask("torn")
    assert (rest[0], rest[-1]) == (more[-1] + 1, 40)
    alone, _ = ask("alone")
    assert isinstance(resumed, Trained)
    assert isinstance(alone, Trained)
    both, one = (answer.training.model_dump() for answer in (resumed, alone))
    assert np.allclose(losses(both), losses(one), rtol=0, atol=1e-4)
    assert both["confinement"] == one["confinement"]
    left = {name: {path.name for path in (tmp_path / name).iterdir()} for name in ("torn", "alone")}
    assert left["torn"] == left["alone"]
