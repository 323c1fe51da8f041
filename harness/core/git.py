"""Questions to git about one checkout. Paths are relative to its root, with slashes."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Literal

from harness.core.errors import LlmbenchError

ChangeKind = Literal["added", "changed", "deleted"]


def git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """The output of one git command. Raises LlmbenchError where there is no git, or where the command fails."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, input=stdin, capture_output=True, check=True).stdout
    except OSError as error:
        raise LlmbenchError(f"git cannot be run: {error.strerror}; install it") from error
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="backslashreplace").strip().partition("\n")[0]
        raise LlmbenchError(f"git {arguments[0]} failed: {message or f'exit code {error.returncode}'}") from error


def find_commit(root: Path, revision: str) -> str:
    """The full id of the commit that `revision` names. Raises LlmbenchError where there is none, or no repository."""
    try:
        top = Path(_text(git(root, "rev-parse", "--show-toplevel")).strip())
    except LlmbenchError as error:
        raise LlmbenchError(f"{root} cannot be asked for revisions ({error}); use a clone made by git") from error
    if top.resolve() != root.resolve():
        raise LlmbenchError(f"{root} is not a git repository of its own, it lies inside {top}; use a clone made by git")
    try:
        return _text(git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")).strip()
    except LlmbenchError as error:
        raise LlmbenchError(f"there is no revision '{revision}' here; fetch it, or name another") from error


def is_ancestor(root: Path, commit: str) -> bool:
    """Whether `commit` is HEAD or an ancestor of it."""
    return not git(root, "rev-list", "--max-count=1", commit, "--not", "HEAD", "--")


def changed_files(root: Path, commit: str) -> dict[str, ChangeKind]:
    """How the working tree differs from `commit`: tracked files, and untracked ones that are not ignored."""
    options = ("--name-status", "--no-renames", "--no-ext-diff", "--ignore-submodules=none", "-z")
    fields = _text(git(root, "diff", *options, commit, "--")).split("\0")[:-1]
    letters = dict(zip(fields[1::2], fields[::2], strict=True))
    kinds: dict[str, ChangeKind] = {"A": "added", "D": "deleted"}
    changes = {path: kinds.get(letter, "changed") for path, letter in letters.items()}
    for path in _text(git(root, "ls-files", "--others", "--exclude-standard", "-z")).split("\0")[:-1]:
        changes[path] = "changed" if path in changes else "added"  # deleted from the index alone
    return dict(sorted(changes.items()))


def read_at(root: Path, commit: str, path: str) -> bytes | None:
    """A file's bytes at `commit`; None where there was none."""
    if not git(root, "ls-tree", commit, "--", path):
        return None
    return git(root, "cat-file", "blob", f"{commit}:{path}")


def read_all_at(root: Path, commit: str, folder: str, name: str) -> dict[str, bytes]:
    """Path -> bytes at `commit` of the file `name` in each folder of `folder`, by two processes for all of them.

    Raises LlmbenchError where git does not have them, as in a partial clone without its origin.
    """
    blobs = {}
    for line in _text(git(root, "ls-tree", "-r", "-z", commit, "--", f"{folder}/")).split("\0")[:-1]:
        (_, kind, blob), path = line.partition("\t")[0].split(), line.partition("\t")[2]
        if kind == "blob" and path.count("/") == folder.count("/") + 2 and path.endswith(f"/{name}"):
            blobs[path] = blob
    wanted = "".join(f"{blob}\n" for blob in blobs.values()).encode()
    stream, found = io.BytesIO(git(root, "cat-file", "--batch", stdin=wanted)), {}
    for path in blobs:  # each is "BLOB blob SIZE", a line end, its bytes, a line end
        head = stream.readline().split()
        if head[-1] == b"missing":
            raise LlmbenchError(f"git does not have {path} of {commit}; fetch it")
        found[path] = stream.read(int(head[2]))
        stream.readline()
    return found


def files_at(root: Path, commit: str, folder: str) -> list[str]:
    """Paths of all files under `folder` at `commit`; none where there was no such folder."""
    return _text(git(root, "ls-tree", "-r", "--name-only", "-z", commit, "--", f"{folder}/")).split("\0")[:-1]


def _text(output: bytes) -> str:
    return output.decode(errors="backslashreplace")
