"""The bubble around the fork server: what its processes see, and that the referee still reaches them."""

from __future__ import annotations

import json
import platform
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.player.bubble import NAME, bubble_works
from tests.make import ROOT
from tests.sandbox import python

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="bubblewrap is Linux's")


def looked(folder: Path, **variables: str) -> Any:
    """What tests/player/bubbled.py found."""
    (folder / "private").write_text("text")
    arguments = ("-m", "tests.player.bubbled", str(folder / "private"))
    done = python(*arguments, cwd=folder, PYTHONPATH=str(ROOT), HF_TOKEN="secret", **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_in_a_bubble_a_process_sees_the_sources_and_no_run_and_writes_nowhere(tmp_path: Path) -> None:
    if not bubble_works():
        pytest.skip("bubblewrap does not work here")
    around, seen, wrote, names, interfaces, pid, known_as, code = looked(tmp_path)
    assert around == NAME
    assert seen == ["harness"]
    assert wrote == []
    assert interfaces == ["lo"]
    assert (pid, code) == (known_as, -signal.SIGKILL), "the referee cannot reach it by its process id"
    assert "LLMBENCH_BUBBLE" not in names


@pytest.mark.parametrize("bubble", ["0", "1"])
def test_the_fork_server_is_started_without_the_users_secrets(tmp_path: Path, bubble: str) -> None:
    names = looked(tmp_path, LLMBENCH_BUBBLE=bubble)[3]
    assert "OPENBLAS_NUM_THREADS" in names
    assert not {"HF_TOKEN", "HOME", "USER", "PATH"} & set(names)


def test_without_bubblewrap_processes_start_all_the_same(tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    around, seen, *_ = looked(tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert around == ""
    assert str(tmp_path / "private") in seen
