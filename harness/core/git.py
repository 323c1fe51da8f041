"""Functions that ask git about a checkout. Paths are relative to the checkout's root and use slashes."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Literal, NamedTuple

from harness.core.errors import LlmbenchError

ChangeKind = Literal["added", "changed", "deleted"]


def git(root: Path, *arguments: str) -> bytes:
    """The stdout of one git command. Raises LlmbenchError if git is missing or fails."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout
    except OSError as error:
        raise LlmbenchError(f"git cannot be run ({error.strerror}); install git") from error
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="backslashreplace").strip().partition("\n")[0]
        command = next((word for word in arguments if word[0].isalpha() and "=" not in word), arguments[0])
        raise LlmbenchError(f"git {command} failed: {message or f'exit code {error.returncode}'}") from error


def find_commit(root: Path, revision: str) -> str:
    """Full id of the commit that `revision` names.

    Raises LlmbenchError if `root` has no repository or no such commit.
    """
    try:
        top = Path(_text(git(root, "rev-parse", "--show-toplevel")).strip())
    except LlmbenchError as error:
        raise LlmbenchError(f"git cannot read {root} ({error}); work in a clone made by `git clone`") from error
    if top.resolve() != root.resolve():
        raise LlmbenchError(
            f"{root} is only a folder inside the git repository {top}, not a clone of llmbench; "
            f"work in a clone made by `git clone`"
        )
    try:
        return _text(git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")).strip()
    except LlmbenchError as error:
        raise LlmbenchError(
            f"there is no revision '{revision}' in the git repository {root}; run `git fetch`, or name another revision"
        ) from error


def is_ancestor(root: Path, commit: str) -> bool:
    """Whether `commit` is HEAD or one of its ancestors."""
    return not git(root, "rev-list", "--max-count=1", commit, "--not", "HEAD", "--")


def first_commit_with(root: Path, path: str) -> str | None:
    """Id of the oldest commit on HEAD's main line whose file `path` has the present content; None if no commit has it.

    The main line is HEAD and its first-parent ancestors. Nobody can know this id before the file is final, because the
    id depends on the file's content. Raises LlmbenchError outside a repository and in a shallow clone, which lacks the
    history.
    """
    head = find_commit(root, "HEAD")
    if _text(git(root, "rev-parse", "--is-shallow-repository")).strip() != "false":
        raise LlmbenchError("this clone is shallow, so it lacks git's history; run `git fetch --unshallow` first")
    if not (root / path).is_file():
        return None
    blob = _text(git(root, "hash-object", "--", path)).strip()
    touched = _text(git(root, "rev-list", "--first-parent", "--reverse", head, "--", path)).split()
    return next((commit for commit in touched if blob in _text(git(root, "ls-tree", commit, "--", path)).split()), None)


class Change(NamedTuple):
    """How the file at one path differs from its version in a commit."""

    kind: ChangeKind
    mode: str
    """File mode as git writes it: 100644 for a plain file, 000000 for a deleted one."""


PLAIN, GONE = "100644", "000000"
MODES = {"100755": "an executable file", "120000": "a link", "160000": "a git repository inside this one"}


def changed_files(root: Path, commit: str) -> dict[str, Change]:
    """Path -> how the file there differs between `commit` and the working tree. Files that git ignores are left out."""
    options = ("--raw", "--no-renames", "--no-ext-diff", "--ignore-submodules=none", "-z")
    fields = _text(git(root, "diff", *options, commit, "--")).split("\0")[:-1]
    kinds: dict[str, ChangeKind] = {"A": "added", "D": "deleted"}
    changes = {}
    for line, path in zip(fields[::2], fields[1::2], strict=True):
        _, mode, *_, letter = line.split(" ")
        changes[path] = Change(kinds.get(letter, "changed"), mode)
    for path in _text(git(root, "ls-files", "--others", "--exclude-standard", "-z")).split("\0")[:-1]:
        kind: ChangeKind = (
            "changed" if path in changes else "added"
        )  # deleted from the index, but still in the working tree
        changes[path] = Change(kind, _mode(root / path))
    return dict(sorted(changes.items()))


def _mode(path: Path) -> str:
    """The file mode (`Change.mode`) that git would give to the file at `path`, which git does not track."""
    if path.is_symlink():
        return "120000"
    if path.is_dir():  # git lists an untracked folder's files; it lists a folder itself only if that is a repository
        return "160000"
    return "100755" if os.access(path, os.X_OK) else PLAIN


def read_at(root: Path, commit: str, path: str) -> bytes | None:
    """The bytes of the file `path` in `commit`; None if the commit has no such file."""
    if not git(root, "ls-tree", commit, "--", path):
        return None
    return git(root, "cat-file", "blob", f"{commit}:{path}")


def read_all_at(root: Path, commit: str, folder: str, name: str) -> dict[str, bytes]:
    """Reads the files FOLDER/*/NAME as they are in `commit`. Returns path -> bytes.

    Starts only two git processes, however many files there are. Raises LlmbenchError if git lacks the files' content,
    as in a partial clone that cannot reach its origin.
    """
    depth = folder.count("/") + 2
    paths = [p for p in files_at(root, commit, folder) if p.count("/") == depth and p.endswith(f"/{name}")]
    if not paths:
        return {}
    archive = git(root, "archive", "--format=tar", commit, "--", *paths)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        found = {member.name: files.extractfile(member) for member in files if member.isfile()}
        return {path: file.read() for path, file in found.items() if file is not None}


def files_at(root: Path, commit: str, folder: str) -> list[str]:
    """Paths of all files under `folder` in `commit`; an empty list if the commit has no such folder."""
    return _text(git(root, "ls-tree", "-r", "--name-only", "-z", commit, "--", f"{folder}/")).split("\0")[:-1]


def _text(output: bytes) -> str:
    return output.decode(errors="backslashreplace")
