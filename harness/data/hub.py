"""Access to the Hugging Face hub. An error of the hub is raised as a LlmbenchError that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.dataspec import Revision, is_commit
from harness.core.errors import LlmbenchError

TIMEOUT_S = 20.0  # of the first request; later ones are retried for minutes if the hub does not answer


@contextmanager
def hub_errors(state: Revision) -> Iterator[None]:
    """Context manager: raises a LlmbenchError for an exception of the hub's client. Other exceptions pass unchanged."""
    from huggingface_hub import errors

    kind, repository, revision = state
    what = f"the {kind} {repository}"
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    http_error = errors.HTTPError  # type: ignore[attr-defined]  # base of its HTTP library's
    try:
        yield
    except (http_error, errors.EntryNotFoundError, OSError) as error:
        reason, absent = reason_of(error), isinstance(error, errors.EntryNotFoundError | FileNotFoundError)
        if isinstance(error, errors.GatedRepoError):
            problem = f"{what} is gated; ask for access on {page}, then run `hf auth login`"
        elif isinstance(error, errors.RepositoryNotFoundError):
            problem = f"the hub has no {kind} {repository}; check the name, or run `hf auth login` if it is private"
        elif isinstance(error, errors.RevisionNotFoundError):
            problem = f"{what} has no revision {revision}; {page}/commits/main lists its commits"
        elif isinstance(error, errors.OfflineModeIsEnabled):
            problem = f"{what} cannot be read while HF_HUB_OFFLINE is set; unset it"
        elif absent and not isinstance(error, errors.LocalEntryNotFoundError):
            problem = f"{what} lacks a requested file ({reason}); {page}/tree/{revision} lists what it has"
        elif isinstance(error, errors.HfHubHTTPError):
            problem = f"the hub refused access to {what}: {reason}; try again later"
        elif absent or isinstance(error, http_error | ConnectionError | TimeoutError):
            problem = (
                f"the Hugging Face hub did not answer for {what} ({reason}); check the network and run the same "
                f"command again, which continues where it stopped"
            )
        else:
            raise
        raise LlmbenchError(problem) from error


def reason_of(error: BaseException) -> str:
    """The message of a library's exception, without line breaks and cut to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def resolve_commit(state: Revision) -> str:
    """The id of the commit that a revision names now. Raises LlmbenchError if the hub has no such revision."""
    from huggingface_hub import HfApi

    with hub_errors(state):
        found = HfApi().repo_info(state.repository, revision=state.name, repo_type=state.kind, timeout=TIMEOUT_S)
    if found.sha is None:
        raise LlmbenchError(
            f"the Hugging Face hub does not say which commit the revision {state.name} of {state.repository} is; "
            f"write the id of a commit as the revision in the track's file"
        )
    return found.sha


def fetch_tokenizer(state: Revision) -> bytes:
    """The file `tokenizer.json` of a model repository, downloaded once.

    Raises LlmbenchError if there is no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    commit = state.name if is_commit(state.name) else resolve_commit(state)
    try:
        path = hf_hub_download(state.repository, "tokenizer.json", revision=commit, local_files_only=True)
    except LocalEntryNotFoundError:
        resolve_commit(state)  # one request; a download would retry for half a minute
        with hub_errors(state):
            path = hf_hub_download(state.repository, "tokenizer.json", revision=commit)
    return Path(path).read_bytes()


def cache_folders() -> list[Path]:
    """Folders on this machine in which the hub's client and the library `datasets` store downloaded files."""
    from huggingface_hub.constants import HF_HOME

    own = [os.environ.get(f"HF_{name}_CACHE") for name in ("HUB", "DATASETS", "XET")]
    return [Path(path).expanduser() for path in (HF_HOME, *own) if path]
