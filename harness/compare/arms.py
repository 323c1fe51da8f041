"""The two sides of a comparison (arms): commands in this folder, or git revisions, each in its own worktree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import filelock
import platformdirs

from harness.compare.metric import tail_of
from harness.compare.settings import Settings
from harness.core.errors import LlmbenchError
from harness.core.git import find_commit, git, read_at
from harness.core.project import derive_seed, make_folder, read_text, sha256, write_atomic
from harness.core.schema import Sha256, Strict
from harness.variants.cost import count_statements_of

ArmName = Literal["record", "candidate"]
HERE = "."
"""As a revision, this stands for the checkout's present files, committed or not."""
SKIPPED = frozenset({"node_modules", "site-packages", "__pycache__"})
MOST_UNTRACKED = 64 << 20
"""Largest total size, in bytes, of untracked files in the revision `.`, because git would keep a copy of each file."""
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
MOST_SOURCES = 5000
"""Largest number of Python files that are read for the digest of a folder outside git."""


class Arm(Strict):
    """One side of a comparison: a command, and the sources that it uses."""

    name: str
    """The revision as given, or the command."""
    command: str
    """The command, with `{seed}` and `{out}` not yet replaced."""
    revision: str | None = None
    """The full id of the revision's commit; None for a command, and for `.` if some of its files are not committed."""
    sources: Sha256
    """Digest of a revision's tree or, without a revision, of a folder's tracked files and Python files."""
    folder: str = "."
    """Folder in which the command runs, relative to the repository."""
    dirty: bool = False
    """Whether some of its files are not committed."""


class Arms(NamedTuple):
    """Both arms, their folders, and the number of statements that the candidate adds."""

    record: Arm
    candidate: Arm
    folders: Mapping[ArmName, Path]
    added_statements: int | None
    """None if the arms are commands, or if this Python cannot parse a file that differs between them."""


def top_of(folder: Path) -> Path | None:
    """The root of the git repository that a folder belongs to; None if it belongs to none."""
    with suppress(LlmbenchError):
        return Path(os.fsdecode(git(folder, "rev-parse", "--show-toplevel")).strip())
    return None


def forget_hook() -> None:
    """Unset git's environment variables for hooks. With them, `git worktree add` would overwrite the hook's index."""
    for name in OF_A_HOOK:
        os.environ.pop(name, None)


def arms_of_commands(settings: Settings, folder: Path) -> Arms:
    """The arms of a comparison of two commands in one folder."""
    digest, dirty = digest_of_folder(folder)
    inside = _inside(top_of(folder), folder)
    record, candidate = (
        Arm(name=command, command=command, sources=digest, dirty=dirty, folder=inside)
        for command in (settings.record or "", settings.candidate or "")
    )
    if record == candidate:
        raise LlmbenchError("both commands are the same, so there is nothing to compare; change one of them")
    return Arms(record, candidate, {"record": folder, "candidate": folder}, None)


def _inside(top: Path | None, folder: Path) -> str:
    """The path of `folder` relative to `top`, the repository's root; `.` without a repository."""
    return "." if top is None else folder.resolve().relative_to(top.resolve()).as_posix()


def arms_of_revisions(
    settings: Settings,
    top: Path,
    here: Path,
    revisions: tuple[str, str],
    tell: Callable[[str], None],
    home: Path | None = None,
) -> Arms:
    """The arms of a comparison of two revisions of the repository at `top`.

    Each revision gets a worktree under `home` (default: the cache folder). Commands run in the worktree's folder that
    corresponds to `here`. Raises LlmbenchError if a revision does not exist, or if its setup fails.
    """
    commits = [_commit_of(top, revision) for revision in revisions]
    trees = [_line(git(top, "rev-parse", f"{commit}^{{tree}}")) for commit in commits]
    if trees[0] == trees[1]:
        raise LlmbenchError(f"'{revisions[0]}' and '{revisions[1]}' contain the same files; name revisions that differ")
    home = (home or Path(platformdirs.user_cache_dir("llmbench", appauthor=False)) / "worktrees") / (
        sha256(str(top).encode())[:12]
    )
    arms, folders = list[Arm](), list[Path]()
    for revision, commit, tree in zip(revisions, commits, trees, strict=True):
        dirty = revision == HERE and tree != _tree_of_head(top)
        arms.append(
            Arm(
                name=f"{HERE} ({tree[:12]})" if dirty else revision,
                command=settings.run or "",
                revision=None if dirty else commit,
                sources=sha256(tree.encode()),
                folder=_inside(top, here),
                dirty=dirty,
            )
        )
        folders.append(_worktree(settings, top, commit, tree, home, tell) / arms[-1].folder)
        if not folders[-1].is_dir():
            raise LlmbenchError(f"'{revision}' has no folder {arms[-1].folder}; cd to a folder of both revisions")
    added = added_statements(top, *commits)
    return Arms(arms[0], arms[1], {"record": folders[0], "candidate": folders[1]}, added)


def _line(output: bytes) -> str:
    return os.fsdecode(output).strip()


def _tree_of_head(top: Path) -> str:
    return _line(git(top, "rev-parse", "HEAD^{tree}"))


def _commit_of(top: Path, revision: str) -> str:
    """The commit that a revision names; for `.`, a new commit of the checkout's files that is on no branch."""
    if revision != HERE:
        return find_commit(top, revision)
    tree = _tree_of(top, everything=True)
    if tree == _tree_of_head(top):
        return find_commit(top, "HEAD")
    who = ("-c", "user.name=llmbench", "-c", "user.email=llmbench@localhost")
    return _line(git(top, *who, "commit-tree", tree, "-p", "HEAD", "-m", "files that llmbench compares"))


def _tree_of(top: Path, *, everything: bool) -> str:
    """Make a git tree of the checkout's files, and return its id. The checkout's index does not change.

    With `everything` the tree has all files that git does not ignore, else tracked files and untracked Python files.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        with suppress(OSError):  # a fresh repository has no index
            shutil.copy(_line(git(top, "rev-parse", "--path-format=absolute", "--git-path", "index")), index)
        environment = {**os.environ, "GIT_INDEX_FILE": str(index)}

        def ask(*arguments: str) -> bytes:
            done = subprocess.run(["git", *arguments], cwd=top, env=environment, capture_output=True, check=False)
            if done.returncode:
                raise LlmbenchError(f"git {arguments[0]} failed: {_line(done.stderr)[:500]}")
            return done.stdout

        if everything:
            _refuse_what_git_should_not_copy(top, ask("ls-files", "--others", "--exclude-standard", "-z"))
        ask("add", "--all" if everything else "--update", ".")
        untracked = ask("ls-files", "--others", "--exclude-standard", "-z", "*.py").split(b"\0")[:-1]
        if untracked:
            ask("add", "--", *map(os.fsdecode, untracked))
        return _line(ask("write-tree"))


def _refuse_what_git_should_not_copy(top: Path, untracked: bytes) -> None:
    """Raises LlmbenchError if an untracked path is a git repository of its own, or if untracked files are too large."""
    sizes = {}
    for path in map(os.fsdecode, untracked.split(b"\0")[:-1]):
        if path.endswith("/"):
            raise LlmbenchError(
                f"'{path}' is a git repository of its own, so it cannot be part of the revision '{HERE}'; add it to "
                f".gitignore, and give --link {path} if the trainer needs it"
            )
        with suppress(OSError):
            sizes[path] = (top / path).lstat().st_size
    if sum(sizes.values()) > MOST_UNTRACKED:
        largest = max(sizes, key=lambda path: sizes[path])
        raise LlmbenchError(
            f"'{HERE}' has {sum(sizes.values()) >> 20} MiB of untracked files (the largest: {largest}); the limit is "
            f"{MOST_UNTRACKED >> 20} MiB; add data folders to .gitignore; name those that the trainer reads with --link"
        )


def digest_of_folder(folder: Path) -> tuple[str, bool]:
    """Digest of the files that commands in the folder may use, and whether some of them are not committed."""
    top = top_of(folder)
    if top is not None:
        tree = _tree_of(top, everything=False)
        with suppress(LlmbenchError):  # the repository has no commit yet
            return sha256(tree.encode()), tree != _tree_of_head(top)
        return sha256(tree.encode()), True
    found = []
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in SKIPPED)
        found += [Path(place, name) for name in sorted(files) if name.endswith(".py") and not name.startswith(".")]
        if len(found) > MOST_SOURCES:
            raise LlmbenchError(
                f"{folder} contains more than {MOST_SOURCES} Python files and is in no git repository; run this in "
                f"the trainer's own folder, or make the folder a repository with `git init`"
            )
    texts = [f"{path.relative_to(folder)} {sha256(path.read_bytes())}" for path in found if path.is_file()]
    return sha256("\n".join(texts).encode()), True


def added_statements(top: Path, record: str, candidate: str) -> int | None:
    """The candidate's Python statements minus the record's, in changed files; None if such a file cannot be parsed."""
    options = ("--name-only", "--no-renames", "--no-ext-diff", "-z")
    paths = os.fsdecode(git(top, "diff", *options, record, candidate, "--", "*.py")).split("\0")[:-1]
    total = 0
    for path in paths:
        for commit, sign in ((candidate, 1), (record, -1)):
            text = read_at(top, commit, path)
            try:
                total += sign * (0 if text is None else count_statements_of(text.decode("utf-8")))
            except (LlmbenchError, UnicodeDecodeError):
                return None
    return total


def _worktree(settings: Settings, top: Path, commit: str, tree: str, home: Path, tell: Callable[[str], None]) -> Path:
    """The worktree of a commit, after its setup. Commits with the same files, setup and links share one worktree."""
    key = sha256("\0".join([tree, settings.setup or "", *settings.link]).encode())[:12]
    folder, ready = home / f"{tree[:12]}-{key}", home / f"{tree[:12]}-{key}.ready"
    make_folder(home)
    with filelock.FileLock(home / f"{folder.name}.lock"):
        if ready.exists() and folder.is_dir():
            if _state(folder) != read_text(ready):
                raise LlmbenchError(
                    f"Python files or the commit of {folder} changed after llmbench had set it up; remove this folder "
                    f"and run the same command again, which makes it new"
                )
            return folder
        if folder.exists():  # an earlier setup was interrupted
            shutil.rmtree(folder)
        git(top, "worktree", "prune")
        git(
            top,
            "-c",
            f"core.hooksPath={os.devnull}",
            "worktree",
            "add",
            "--quiet",
            "--detach",
            "--force",
            str(folder),
            commit,
        )
        for path in settings.link:
            _link(top, folder, path)
        if settings.setup:
            tell(f"setting up {folder}: {settings.setup}")
            _set_up(settings.setup, folder)
        write_atomic(ready, _state(folder))
    return folder


def _state(folder: Path) -> str:
    """A worktree's state as text: its commit, and a digest of how its Python files differ from this commit."""
    difference = git(folder, "diff", "--no-ext-diff", "HEAD", "--", "*.py")
    return f"{_line(git(folder, 'rev-parse', 'HEAD'))} {sha256(difference)}"


def _link(top: Path, folder: Path, path: str) -> None:
    """Link an untracked path of the checkout into a worktree. If the worktree already has this folder, link only the
    entries that it lacks."""
    source, target = top / path, folder / path
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise LlmbenchError(f"link '{path}' must be a path inside the repository, written relative to its root")
    if not source.exists():
        raise LlmbenchError(f"link '{path}': there is no {source}; create it, or leave this link out")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=source.is_dir())
    elif source.is_dir():
        for child in sorted(source.iterdir()):
            if child.is_dir() or not (target / child.name).exists():
                _link(top, folder, f"{path}/{child.name}")


def _set_up(command: str, folder: Path) -> None:
    """Run the setup command in a worktree. Raises LlmbenchError with the end of its log if it fails."""
    log = folder.with_name(f"{folder.name}.setup.log")
    with log.open("wb") as file:
        done = subprocess.run(
            command, shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
        )
    if done.returncode:
        end = " | ".join(tail_of(log.read_bytes(), 4)) or "it printed nothing"
        raise LlmbenchError(f"setup '{command}' ended with code {done.returncode} in {folder}: {end} (log: {log})")


def seeds_of(settings: Settings, record: Arm, candidate: Arm) -> dict[ArmName, tuple[int, ...]]:
    """The seeds of each arm, in order; both runs of a pair have the same seed.

    If the settings name no seeds, the seeds are computed from both arms; only the seeds of the record's stored runs are
    computed from the record alone. Seeds have at most 31 bits.
    """
    ours, theirs = ((arm.command, arm.sources) for arm in (candidate, record))
    if settings.seeds is not None:
        return {"record": settings.seeds, "candidate": settings.seeds}
    if settings.design == "stored":
        return {
            "record": _draw(settings.stored_runs, "stored", *theirs),
            "candidate": _draw(settings.looks[-1], "candidate", *theirs, *ours),
        }
    both = _draw(settings.looks[-1], "pairs", *theirs, *ours)
    return {"record": both, "candidate": both}


def _draw(count: int, *key: str) -> tuple[int, ...]:
    found: dict[int, None] = {}
    place = 0
    while len(found) < count:
        found[derive_seed("compare", *key, place) % 2**31] = None
        place += 1
    return tuple(found)
