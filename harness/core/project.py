"""The folders of one checkout, and functions that read, write and hash files."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import LlmbenchError

DEFAULT_TRACK = "pocket"

CHECKOUT = Path(__file__).resolve().parents[2]
"""Root folder of the checkout (clone of llmbench) whose code is running."""


@dataclass(frozen=True)
class Project:
    """One checkout (clone) of llmbench: a folder that contains `tracks/` and `models/variants/`."""

    root: Path

    @property
    def tracks(self) -> Path:
        return self.root / "tracks"

    @property
    def variants(self) -> Path:
        return self.root / "models" / "variants"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def leaderboard(self) -> Path:
        return self.root / "leaderboard.csv"

    @property
    def readme(self) -> Path:
        return self.root / "README.md"

    @property
    def runs(self) -> Path:
        """Folder of the runs trained on this machine.

        Git ignores it; `submit` copies the runs of a submission out of it.
        """
        return self.root / "runs"

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """The checkout that contains `start` (default: the working directory).

        Raises LlmbenchError if `start` is in no checkout. Also raises it if the running code belongs to another
        checkout, because the results in a checkout must come from its own code.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "tracks").is_dir() and (folder / "models" / "variants").is_dir():
                if folder != CHECKOUT:
                    raise LlmbenchError(
                        f"this `llmbench` is installed from {CHECKOUT}, but you are in the checkout {folder}; "
                        f"run `pip install -e .` in {folder}, or use the `llmbench` in its .venv"
                    )
                return cls(folder)
        raise LlmbenchError(f"{here} is not inside a clone of llmbench; change to the folder of your clone")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def file_stamp(path: Path) -> str:
    """A file's size and the time of its last change, as text.

    A file with the same stamp as before is taken to be unchanged.
    """
    status = path.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"


def exists(path: Path) -> bool:
    """Whether there is a file or folder at `path`.

    Raises OSError if the permissions of a folder above it hide the answer. `Path.exists` is not used, because in Python
    3.14 it returns False in this case.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """The file's bytes.

    Raises LlmbenchError if the file cannot be read, or if `path` is a folder, a pipe or a device.
    """
    try:
        if path.exists() and not path.is_file():
            raise LlmbenchError(f"{path} is not a file but should be one; move it away")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LlmbenchError(
            f"the file {path} is missing; check the path, or restore the file from git or a backup"
        ) from error
    except OSError as error:
        raise LlmbenchError(
            f"{path} cannot be read: {error.strerror}; fix its permissions, or restore it from git or a backup"
        ) from error


def read_text(path: Path) -> str:
    """The file's text, with its line ends unchanged. Raises LlmbenchError if it cannot be read or is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LlmbenchError(f"{path} is not UTF-8 text: {error}; restore it from git or a backup") from error


def submission_folders(project: Project) -> list[Path]:
    """The folders under `submissions/`, sorted by the number in their names.

    Raises LlmbenchError if a name has no number.
    """
    if exists(project.submissions) and not project.submissions.is_dir():
        raise LlmbenchError(f"{project.submissions} is not a folder but should be one; move it away")
    paths = (
        project.submissions.iterdir() if exists(project.submissions) else ()
    )  # a glob would silently skip unreadable folders
    folders = [path for path in paths if path.is_dir() and not path.name.startswith(".")]
    folders.sort(key=lambda folder: (folder_number(folder) or 0, folder.name))
    for folder in folders:
        if folder_number(folder) is None:
            raise LlmbenchError(
                f"{folder} is not named NNNN-name, such as 0002-pocket-token_smear; rename or remove the folder"
            )
    return folders


def folder_number(folder: Path) -> int | None:
    """The number in the name of a submission's folder, `NNNN-name`; None if the name has another form."""
    match = re.match(r"^(\d{4,})-[a-z0-9][a-z0-9_+-]*$", folder.name)
    return int(match[1]) if match else None


def make_folder(path: Path) -> None:
    """Make the folder `path` and the missing folders above it. Raises LlmbenchError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LlmbenchError(f"cannot make the folder {path}: {error.strerror}; fix the permissions") from error


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file and flush it to disk. Raises LlmbenchError if that fails, and leaves the old file as it was."""
    payload = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LlmbenchError(f"cannot write {path}: {error.strerror}; free space or fix the permissions") from error


def write_changed(path: Path, text: str) -> None:
    """Write `text` to a file with `write_atomic`, unless the file already contains this text."""
    with suppress(LlmbenchError):  # an unreadable file is replaced
        if read_bytes(path) == text.encode():
            return
    write_atomic(path, text)


def derive_seed(*key: object) -> int:
    """A 63-bit seed computed from the values in `key`.

    Each use of random numbers has a different key, so that its random numbers are independent of the others.
    """
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
