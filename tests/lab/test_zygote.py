"""The process that forks workers: each begins in clean memory, and none outlives its executor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.lab.zygote import Request, Zygote, zygote
from harness.player.job import Job


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("zygote") / "log") as lent:
        yield lent


@pytest.fixture
def ask(job: Job, tmp_path: Path) -> Callable[..., Request]:
    def request(**variables: str) -> Request:
        (tmp_path / "log").write_text("")
        module, log = "tests.lab.telling_worker", str(tmp_path / "log")
        return Request(module=module, job=job, log=log, environment=variables)

    return request


def test_each_worker_begins_in_the_same_clean_memory(
    parent: Zygote, ask: Callable[..., Request], tmp_path: Path
) -> None:
    found = []
    for variables in ({"VARIABLE": "set"}, {}):
        parent.start(ask(**variables))
        _, first, ended = parent.events()
        assert ended == {"event": "ended", "code": 0}
        found.append(first)
    assert found[0]["process"] != found[1]["process"]
    assert [one["variable"] for one in found] == ["set", None]
    for one in found:
        assert one["torch"]
        assert not one["marked"]
        assert one["others"] == 2, "its events, and what tells of its end"
    assert (tmp_path / "log").read_text() == "a word on stdout\n"


def until(event: str, events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return next(found for found in events if found["event"] == event)


def test_a_stop_reaches_the_worker_that_runs_and_no_later_one(parent: Zygote, ask: Callable[..., Request]) -> None:
    parent.start(ask(VARIABLE="wait"))
    events = parent.events()
    until("waiting", events)
    parent.stop()
    assert until("ended", events)["code"] == 5
    parent.stop()  # too late
    parent.start(ask())
    assert until("ended", parent.events())["code"] == 0


def test_a_worker_ends_with_its_executor(ask: Callable[..., Request], tmp_path: Path) -> None:
    with suppress(KeyError), zygote(tmp_path / "other") as lent:
        lent.start(ask(VARIABLE="wait"))
        events = lent.events()
        worker = until("found", events)["process"]
        until("waiting", events)
        raise KeyError
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.02)
    assert not lent.alive
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_killed_zygote_says_so_and_is_not_lent_again(ask: Callable[..., Request], tmp_path: Path) -> None:
    with zygote(tmp_path / "other") as lent:
        lent.start(ask(VARIABLE="wait"))
        events = lent.events()
        until("waiting", events)
        os.kill(lent._process.pid, signal.SIGKILL)
        assert until("ended", events)["code"] == -signal.SIGKILL
    with zygote(tmp_path / "other") as another:
        assert another is not lent
        assert another.alive
