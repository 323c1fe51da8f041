"""Cores of a run's own: no two runs are pinned to one core, and a player stays where it is put."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.core.track import Track
from harness.lab.cores import reserve_cores
from harness.referee.job import Job
from tests.players import OpenCasting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which cores a process may use")


def test_runs_at_the_same_time_have_cores_of_their_own_and_one_too_many_shares(own_cache: Path) -> None:
    mine = os.sched_getaffinity(0)
    with reserve_cores(1) as one:
        assert len(one) == 1
        with reserve_cores(len(mine) - 1) as others:
            assert {*one, *others} == mine
            with reserve_cores(1) as none:
                assert none == ()
        with reserve_cores(len(mine)) as too_many:
            assert too_many == ()
    with reserve_cores(len(mine)) as every:
        assert {*every} == mine


def test_a_player_is_pinned_to_its_runs_cores_and_cannot_leave_them(tiny: Track, job: Job) -> None:
    core = min(os.sched_getaffinity(0))
    text = (
        "import os\ndef apply(parts):\n    try: os.sched_setaffinity(0, range(64))\n    except OSError: return parts\n"
    )
    casting = OpenCasting(tiny, job, texts=(("idea", text),), cores=(core,))
    with casting.start("train", casting.assignment(start="empty")) as session:
        assert os.sched_getaffinity(session.player.pid) == {core}
