"""A submission as a pull request: `submit --open` opens it, `verify --base` reviews it before it is merged."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from harness.board.challenge import merged_problem
from harness.board.check_board import check_board, check_folder, collect, stale_problem
from harness.board.flags import Flag
from harness.board.leaderboard import Board, make_board
from harness.board.readme import submission_title
from harness.board.rows import with_board
from harness.board.submission import Claim, Submission, load_submission
from harness.core.errors import EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED, LlmbenchError, UndecidedError, one_line
from harness.core.git import (
    GONE,
    MODES,
    PLAIN,
    Change,
    ChangeKind,
    changed_files,
    files_at,
    find_commit,
    git,
    is_ancestor,
    read_all_at,
    read_at,
)
from harness.core.project import Project, write_atomic
from harness.core.runs import finished
from harness.player import code_digest
from harness.variants.source import read_variant

# git@github.com:owner/name.git, ssh://git@github.com/owner/name, https://github.com/owner/name.git
_GITHUB = re.compile(r"^(?:https://|ssh://git@|git@)github\.com[:/](?P<name>[^/]+/[^/]+?)(?:\.git)?/?$")


@dataclass(frozen=True)
class PullRequest:
    """How far a pull request has come."""

    branch: str
    commands: tuple[str, ...]
    """What is left to do in the checkout's root, as one types it."""
    page: str | None
    """Where GitHub opens the pull request in a browser; None where the remote is elsewhere."""
    address: str | None = None
    """Of the open pull request."""


def find_remote(project: Project) -> str:
    """The remote that branches are pushed to. Raises LlmbenchError outside a repository, or where none is known."""
    remotes = git(project.root, "remote").decode().split()
    if not remotes:
        raise LlmbenchError(
            "this clone has no remote to push to; add your fork: `git remote add origin https://github.com/YOU/llmbench`"
        )
    return "origin" if "origin" in remotes else remotes[0]


def plan_steps(project: Project, submission: Submission, markdown: str) -> PullRequest:
    """The commands for one submission, its board and its new variants; writes its text under runs/, ignored by git.

    Its picture and sources get their full address on GitHub, because a pull request shows no relative ones.
    Raises LlmbenchError as `find_remote`.
    """
    remote = find_remote(project)
    branch, folder = f"submission/{submission.folder_name}", f"submissions/{submission.folder_name}"
    address = git(project.root, "remote", "get-url", remote).decode().strip()
    text, page = markdown.partition("\n")[2].lstrip(), None  # without the title
    if github := _GITHUB.match(address):
        site = f"https://github.com/{github['name']}"
        page = f"{site}/compare/{branch}?expand=1"
        text = re.sub(r"\]\((curves\.png|sources/[^)]+)\)", rf"]({site}/blob/{branch}/{folder}/\1?raw=true)", text)
    body = f"{project.runs.name}/pull-request-{submission.number:04d}.md"
    write_atomic(project.root / body, text)
    variants = [f"models/variants/{name}.py" for name in submission.candidate.sources]
    known = git(project.root, "ls-files", "-z", "--", *variants).decode().split("\0") if variants else []
    board = [path for path in ("leaderboard.csv", "README.md") if (project.root / path).exists()]
    paths = [folder, *board, *(path for path in variants if path not in known)]
    title = submission_title(submission)
    commands = (
        ("git", "switch", "--create", branch),
        ("git", "add", "--", *paths),
        ("git", "commit", "--message", title, "--", *paths),
        ("git", "push", "--set-upstream", remote, branch),
        ("gh", "pr", "create", "--title", title, "--body-file", body, "--head", branch),
    )
    return PullRequest(branch, tuple(map(shlex.join, commands)), page)


def open_pull_request(project: Project, submission: Submission, markdown: str) -> PullRequest:
    """Open it with `gh`, if that is installed. Raises LlmbenchError where a command fails, with those that are left."""
    plan, answer = plan_steps(project, submission, markdown), ""
    if shutil.which("gh") is None:
        return plan
    for place, command in enumerate(plan.commands):
        words = shlex.split(command)
        try:
            answer = subprocess.run(words, cwd=project.root, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            said = str(getattr(error, "stderr", None) or error).strip().replace("\n", " ")
            raise LlmbenchError(
                f"`{shlex.join(words[:2])}` failed: {said[:300]}; the submission is filed, mend that and go on with: "
                f"{' && '.join(plan.commands[place:])}"
            ) from error
    return replace(plan, commands=(), address=next(reversed(answer.split()), None))


@dataclass(frozen=True)
class Review:
    """What a pull request changes, and what is wrong with it."""

    base: str
    """The commit that the working tree was compared with."""
    new: tuple[str, ...]
    """The folders under submissions/ that it brings."""
    summary: str
    problems: dict[str, list[str]]
    """`changes`, or the name of a folder or file -> what is wrong with it."""
    stale: tuple[str, ...]
    """Those of the problems that say that the board has moved on since."""
    flags: dict[str, list[Flag]]
    """Submission without problems -> what a reviewer should look at."""

    @property
    def exit_code(self) -> int:
        """4 where nothing is wrong but that the board has moved on, 3 for any other problem."""
        found = {problem for problems in self.problems.values() for problem in problems}
        if found - set(self.stale):
            return EXIT_REJECTED
        return EXIT_UNDECIDED if found else EXIT_OK


def review_changes(project: Project, revision: str) -> Review:
    """Compare the working tree, untracked files included, with `revision`, and check the submission that is new.

    Raises LlmbenchError for an unknown revision or outside a repository, UndecidedError where HEAD does not
    contain the revision.
    """
    commit = find_commit(project.root, revision)
    if not is_ancestor(project.root, commit):
        raise UndecidedError(
            f"this branch does not contain {revision} ({commit[:12]}); merge it or rebase onto it (in a shallow "
            f"clone, fetch more history), then verify again"
        )
    try:
        texts = read_all_at(project.root, commit, "submissions", "submission.json")
        board = make_board(load_submission(Path(p).parent, t.decode(errors="replace")) for p, t in texts.items())
    except LlmbenchError as error:
        raise LlmbenchError(f"the board of {revision} cannot be read: {error}") from error
    changes = changed_files(project.root, commit)
    filed = {path.split("/")[1] for path in files_at(project.root, commit, "submissions")}
    added = [path.split("/") for path, change in changes.items() if change.kind == "added"]
    new = sorted({parts[1] for parts in added if parts[0] == "submissions" and len(parts) > 2} - filed)
    problems, claims, stale = {"changes": list(mode_problems(changes, new))}, list[Claim](), list[str]()
    for folder in (project.submissions / name for name in new):
        try:
            claims.append(Claim(folder, load_submission(folder)))
        except LlmbenchError as error:
            problems[folder.name] = [str(error)]
    used = {variant for claim in claims for variant in claim.submission.candidate.sources}
    kinds = {path: change.kind for path, change in changes.items()}
    problems["changes"] += change_problems(kinds, new, used)
    if new and "README.md" in changes and _outside_the_board(project, commit):
        problems["changes"].append(_stray("README.md", "changed outside its board"))
    for claim in claims:
        moved_on, problems[claim.folder.name] = _review_new(project, claim, board)
        stale += moved_on
    checked = {} if stale else check_board(project)  # against a board that has moved on it would repeat that
    for name, one in checked.items():
        problems.setdefault(name, one.problems)
    flags = {name: one.flags for name, one in checked.items() if one.row and not problems[name]}
    return Review(commit, tuple(new), _summary(changes, new, revision), problems, tuple(stale), flags)


def _review_new(project: Project, claim: Claim, board: Board) -> tuple[list[str], list[str]]:
    """(how the board has moved on, all problems) of a new submission; `board` is the one that it is to join."""
    submission, name = claim.submission, claim.folder.name
    renumber = f"the next free number is {board.next_number}: delete the folder and `llmbench submit` again"
    moved_on, own = [], []
    if taken := board.find(submission.number):
        moved_on.append(f"{name}: its number is that of {taken.folder_name} by now; {renumber}")
    if stale := stale_problem(submission, board):
        moved_on.append(stale)
    if submission.number > board.next_number:
        own.append(f"{name}: its number leaves a gap; {renumber}")
    own += collect(_source_problems(project, claim)) + collect(_merged_problems(project, submission, board))
    found = [*moved_on, *own, *check_folder(project, claim.folder, board).problems]
    return moved_on, list(dict.fromkeys(found))


def mode_problems(changes: Mapping[str, Change], new: Sequence[str]) -> Iterator[str]:
    """What is no plain file: a submission brings nothing else; what brings none may bring executable files."""
    for path, change in changes.items():
        if change.mode not in (PLAIN, GONE) and (new or change.mode != "100755"):
            what = MODES.get(change.mode, "no plain file")
            yield f"{path} is {what} (mode {change.mode}); bring the file itself, with mode {PLAIN}"


def change_problems(changes: Mapping[str, ChangeKind], new: Sequence[str], used: Set[str]) -> Iterator[str]:
    """What the pull request must not change; `used` are the variants that its submissions' candidates use.

    One that brings no submission may change other parts of the repository.
    """
    if len(new) > 1:
        yield f"{' and '.join(new)} are {len(new)} new submissions; a pull request brings one, take the others out"
    for path, kind in changes.items():
        match path.split("/"):
            case ["submissions", folder, _, *_] if folder in new:
                pass
            case ["submissions", *_]:
                yield f"{path} was {kind}: what is filed stays as it is; undo that"
            case ["models", "variants", file] if file.endswith(".py"):
                if kind != "added":
                    yield (
                        f"{path} was {kind}: a file that a record was trained from must not change; "
                        f"restore it, and put your change into a variant of its own"
                    )
                elif file.removesuffix(".py") not in used:
                    yield f"{path} is new, but no new submission uses it; file its result too, or take it out"
            case ["leaderboard.csv"] | ["README.md"]:
                pass  # compared with the submissions, byte for byte
            case _ if new:
                yield _stray(path, kind)


def _stray(path: str, kind: str) -> str:
    return f"{path} was {kind}: a submission changes only its own files; put this into a pull request of its own"


def _outside_the_board(project: Project, commit: str) -> bool:
    """Whether README.md differs from that of `commit` in more than its board."""
    old = read_at(project.root, commit, "README.md")
    new = project.readme.read_bytes() if project.readme.is_file() else None
    if old is None or new is None:
        return old != new
    return with_board(old.decode(errors="replace"), ()) != with_board(new.decode(errors="replace"), ())


def _source_problems(project: Project, claim: Claim) -> Iterator[str]:
    """The runs come from the sources and the code that are here, and say all that such runs measure."""
    name = claim.folder.name
    for variant, digest in claim.submission.candidate.sources.items():
        if read_variant(project, variant).digest != digest:
            yield (
                f"models/variants/{variant}.py is not the file that {name} was trained with; "
                f"restore it from {name}/sources/{variant}.py"
            )
    present, runs = code_digest(project), [*chain(*claim.runs.values())]
    if other := [run for run in runs if run.code_digest != present]:
        yield (
            f"{name}: {len(other)} of {len(runs)} runs were trained by another version of the base model or the loop: "
            f"the code digest covers the base model, the training loop and the evaluator, and runs made before a "
            f"change of any of these must be trained again"
        )
    measured = [(run.evaluation.eval_cpu_s, run.training.weights_bytes) for run in finished(runs)]
    if unmeasured := [each for each in measured if None in each]:
        yield f"{name}: {len(unmeasured)} of {len(runs)} runs lack eval_cpu_s or weights_bytes; train them again"
    if claim.submission.kind == "record" and claim.submission.audit is None:
        yield f"{name}: the record's model was not audited; file it again with `llmbench submit`"


def _merged_problems(project: Project, submission: Submission, board: Board) -> Iterator[str]:
    """What is wrong with a challenge's commit; raises where it cannot be looked up, which elsewhere is a flag."""
    yield from filter(None, [merged_problem(project, submission, board)])


def _summary(changes: Mapping[str, Change], new: Sequence[str], revision: str) -> str:
    if new:
        return f"new since {revision}: {', '.join(new)}"
    if not changes:
        return f"nothing differs from {revision}"
    paths = list(changes)
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return one_line(f"no new submission since {revision}; changed: {', '.join(paths[:5])}{more}")
