"""What the two arms run on: the sources that count, and what is refused before anything is trained."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from harness.compare.arms import Arms, arms_of_commands, arms_of_revisions, digest_of_folder, forget_hook
from harness.compare.places import LocalPlaces
from harness.compare.settings import Settings
from harness.compare.store import TrialStore, fill
from harness.compare.trial import Request, Supervised
from harness.core.errors import LlmbenchError
from tests.sandbox import GIT, git

REVISIONS = Settings(run="python train.py {seed}", metric="x")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of a trainer."""
    for name, value in GIT.items():
        monkeypatch.setenv(name, value)
    top = tmp_path / "mine"
    top.mkdir()
    git(top, "init")
    for text in ("x = 1\n", "x = 2\n"):
        (top / "train.py").write_text(text)
        git(top, "add", "--all")
        git(top, "commit", "--message", "one")
    return top


def compared(top: Path, home: Path, *revisions: str, here: Path | None = None) -> Arms:
    first, second = revisions or ("HEAD~1", "HEAD")
    return arms_of_revisions(REVISIONS, top, here or top, (first, second), lambda line: None, home)


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["{out}", "'{out}'", '"{out}"', "-o={out}", r"\"{out}", "'a'{out}\"{out}\""])
@pytest.mark.parametrize("name", ["plain", "a b", "it's", '"$HOME" `x`', "ü\\{seed}"])
def test_a_folder_is_one_word_of_the_command(written: str, name: str) -> None:
    out = Path("/tmp") / name
    words = subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + fill(written, 7, out)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    plain = written.replace("\\", "").replace("{out}", str(out))
    expected = plain[1:-1] if written[0] == written[-1] and written[0] in "'\"" else plain
    assert words == [f"a{out}{out}" if written.startswith("'a'") else expected]


def test_a_lock_file_of_an_editor_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("x = 1\n")
    before = digest_of_folder(tmp_path)
    (tmp_path / ".#train.py").symlink_to("me@there.1234")
    (tmp_path / "gone.py").symlink_to("nowhere")
    assert digest_of_folder(tmp_path) == before


def test_a_run_during_which_the_files_changed_is_not_kept(tmp_path: Path) -> None:
    """Else its number would count for the files as they were."""
    (tmp_path / "train.py").write_text("x = 1\n")
    command = "echo loss {seed} >&2; echo '# edited' >> train.py; echo loss {seed}"
    settings = Settings(record=command, candidate="echo loss 1{seed}", metric="loss ([0-9]+)")
    arms = arms_of_commands(settings, tmp_path)
    store = TrialStore(settings, arms, LocalPlaces(1), tmp_path / ".llmbench", lambda event: None)
    assert store.obtain("candidate", 5).status == "finished"
    with pytest.raises(LlmbenchError, match="changed during a run"):
        store.obtain("record", 5)
    assert store.kept("record", 5) is None


# --- revisions ------------------------------------------------------------------------------------------------------


def test_a_hook_of_git_does_not_lose_its_index(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git gives its hooks GIT_INDEX_FILE; `git worktree add` would write the worktree's files into it."""
    (repository / "train.py").write_text("x = 3\n")
    before = git(repository, "status", "--porcelain")
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", str(repository / ".git"))
        hook.setenv("GIT_INDEX_FILE", str(repository / ".git" / "index"))
        forget_hook()
        compared(repository, tmp_path / "home", "HEAD", ".")
    assert git(repository, "status", "--porcelain") == before


def test_data_and_other_repositories_do_not_go_into_a_revision(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.compare.arms.MOST_UNTRACKED", 2 << 20)
    (repository / "weights.pt").write_bytes(bytes(3 << 20))
    with pytest.raises(LlmbenchError, match=r"has 3 MiB of untracked files \(the largest: weights.pt\)"):
        compared(repository, tmp_path / "home", "HEAD", ".")
    (repository / "weights.pt").unlink()
    (repository / "other").mkdir()
    git(repository / "other", "init")
    with pytest.raises(LlmbenchError, match="'other/' is a git repository of its own"):
        compared(repository, tmp_path / "home", "HEAD", ".")


def test_a_folder_that_a_revision_lacks_is_named(repository: Path, tmp_path: Path) -> None:
    (repository / "sub").mkdir()
    with pytest.raises(LlmbenchError, match="'HEAD~1' has no folder sub"):
        compared(repository, tmp_path / "home", here=repository / "sub")


def test_a_worktree_whose_sources_changed_is_not_used_again(repository: Path, tmp_path: Path) -> None:
    folder = compared(repository, tmp_path / "home").folders["candidate"]
    (folder / "log.txt").write_text("what a trainer leaves")
    compared(repository, tmp_path / "home")
    (folder / "train.py").write_text("x = 9\n")
    with pytest.raises(LlmbenchError, match="changed after llmbench had set it up; remove this folder"):
        compared(repository, tmp_path / "home")
    git(folder, "checkout", "train.py")
    git(folder, "checkout", "--detach", "HEAD~1")
    with pytest.raises(LlmbenchError, match="changed after llmbench had set it up; remove this folder"):
        compared(repository, tmp_path / "home")


# --- processes ------------------------------------------------------------------------------------------------------

DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("pid", "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's subreaper")
@pytest.mark.parametrize("how", ["stopped", "timeout"])
def test_a_daemon_of_the_trainer_ends_with_it(tmp_path: Path, how: str) -> None:
    (tmp_path / "train.py").write_text(DAEMON)
    limit = 2.0 if how == "timeout" else None
    run = Supervised(Request(f"{sys.executable} train.py", tmp_path, {}, tmp_path / "log", (), limit))
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if how == "stopped":
        run.stop()
    run.wait()
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int((tmp_path / "pid").read_text())).status() == psutil.STATUS_ZOMBIE
