"""From a submission's folder to a pull request: branch, commit, push, and GitHub's own tool for the last step."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass

from harness.errors import LlmbenchError
from harness.project import Project, write_atomic
from harness.report import submission_title
from harness.repository import git
from harness.submission import Submission

# git@github.com:owner/name.git, ssh://git@github.com/owner/name, https://github.com/owner/name.git
_GITHUB = re.compile(r"^(?:https://|ssh://git@|git@)github\.com[:/](?P<name>[^/]+/[^/]+?)(?:\.git)?/?$")


@dataclass(frozen=True)
class Steps:
    """What opens a pull request, each a command line for the checkout's root."""

    branch: str
    commands: tuple[tuple[str, ...], ...]
    page: str | None
    """Where GitHub opens the pull request by hand; None where the remote is elsewhere."""

    def shell(self, since: int = 0) -> tuple[str, ...]:
        """The commands as one types them, from number `since` on."""
        return tuple(shlex.join(command) for command in self.commands[since:])


@dataclass(frozen=True)
class Opened:
    """What came of it."""

    branch: str
    address: str | None
    """Of the pull request; None where there is no `gh` to open it."""
    commands: tuple[str, ...]
    """What is left to do by hand."""
    page: str | None


def find_remote(project: Project) -> str:
    """The remote that branches are pushed to. Raises LlmbenchError outside a repository, or where none is known."""
    remotes = git(project.root, "remote").decode().split()
    if not remotes:
        raise LlmbenchError(
            "this clone has no remote to push to; add your fork: `git remote add origin https://github.com/YOU/llmbench`"
        )
    return "origin" if "origin" in remotes else remotes[0]


def plan_steps(project: Project, submission: Submission, markdown: str) -> Steps:
    """The steps for one submission; writes the pull request's text under runs/, which git ignores.

    The picture and the sources of the text are named with their address on GitHub, for a pull request shows no
    relative ones. Raises LlmbenchError as `find_remote`.
    """
    remote = find_remote(project)
    branch, folder = f"submission/{submission.folder_name}", f"submissions/{submission.folder_name}"
    address = git(project.root, "remote", "get-url", remote).decode().strip()
    github = _GITHUB.match(address)
    text = markdown.partition("\n")[2].lstrip()  # the title says the same
    if github:
        text = re.sub(
            r"\]\((curves\.png|sources/[^)]+)\)",
            rf"](https://github.com/{github['name']}/blob/{branch}/{folder}/\1?raw=true)",
            text,
        )
    body = f"{project.runs.name}/pull-request-{submission.number:04d}.md"
    write_atomic(project.root / body, text)
    title, paths = submission_title(submission), _paths(project, submission, folder)
    return Steps(
        branch,
        (
            ("git", "switch", "--create", branch),
            ("git", "add", "--", *paths),
            ("git", "commit", "--message", title, "--", *paths),
            ("git", "push", "--set-upstream", remote, branch),
            ("gh", "pr", "create", "--title", title, "--body-file", body, "--head", branch),
        ),
        f"https://github.com/{github['name']}/compare/{branch}?expand=1" if github else None,
    )


def _paths(project: Project, submission: Submission, folder: str) -> list[str]:
    """What the submission brings: its folder, the board, and those of its variants that git does not know yet."""
    variants = [f"models/variants/{name}.py" for name in submission.candidate.sources]
    known = git(project.root, "ls-files", "-z", "--", *variants).decode().split("\0") if variants else []
    board = [path for path in ("leaderboard.csv", "README.md") if (project.root / path).exists()]
    return [folder, *board, *(path for path in variants if path not in known)]


def open_pull_request(project: Project, submission: Submission, markdown: str) -> Opened:
    """Open it with `gh` where that is installed; else nothing is touched and the commands are returned.

    Raises LlmbenchError where a step fails, with the commands that are left.
    """
    steps = plan_steps(project, submission, markdown)
    if shutil.which("gh") is None:
        return Opened(steps.branch, None, steps.shell(), steps.page)
    answer = ""
    for number, command in enumerate(steps.commands):
        try:
            done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = str(getattr(error, "stderr", None) or error).strip().replace("\n", " ")
            raise LlmbenchError(
                f"`{shlex.join(command[:2])}` failed: {said[:300]}; the submission is filed, mend that and go on with: "
                f"{' && '.join(steps.shell(number))}"
            ) from error
        answer = done.stdout
    return Opened(steps.branch, answer.strip().splitlines()[-1] if answer.strip() else None, (), steps.page)
