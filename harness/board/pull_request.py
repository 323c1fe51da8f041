"""Opens a submission as a pull request (`submit --open`) and checks it before it is merged (`verify --base`)."""

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
    """A pull request, and the commands that must still be run to open it."""

    branch: str
    commands: tuple[str, ...]
    """Commands that the user must still run in the checkout's root; empty if the pull request is open."""
    page: str | None
    """Address where the pull request can be opened in a browser; None if the remote is not on GitHub."""
    address: str | None = None
    """Address of the opened pull request; None if it is not open yet."""


def find_remote(project: Project) -> str:
    """Name of the git remote to push to. Raises LlmbenchError outside a git repository, or if the repository has no
    remote."""
    remotes = git(project.root, "remote").decode().split()
    if not remotes:
        raise LlmbenchError(
            "this clone has no remote to push to; add your fork: `git remote add origin https://github.com/YOU/llmbench`"
        )
    return "origin" if "origin" in remotes else remotes[0]


def plan_steps(project: Project, submission: Submission, markdown: str) -> PullRequest:
    """The commands that open a pull request with one submission, its new variants and the board.

    Writes the text of the pull request to a file under runs/. The text links to the picture and the sources by full
    addresses, because relative links do not work in a pull request. Raises LlmbenchError if there is no git remote to
    push to.
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
    """Open a pull request with GitHub's program `gh`. Without `gh`, nothing is run, and the result names all commands.

    Raises LlmbenchError with the remaining commands if a command fails.
    """
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
                f"`{shlex.join(words[:2])}` failed: {said[:300]}; the submission itself is written, so fix this "
                f"problem and then run: "
                f"{' && '.join(plan.commands[place:])}"
            ) from error
    return replace(plan, commands=(), address=next(reversed(answer.split()), None))


@dataclass(frozen=True)
class Review:
    """The new submissions of a pull request, and the problems that were found in it."""

    base: str
    """The commit that the working tree was compared with."""
    new: tuple[str, ...]
    """New folders under submissions/."""
    summary: str
    problems: dict[str, list[str]]
    """Folder or file -> its problems. Problems of the pull request as a whole are under the key `changes`."""
    stale: tuple[str, ...]
    """The problems that exist only because the board has changed since the submission was measured."""
    flags: dict[str, list[Flag]]
    """Submission -> unusual facts that a reviewer should look at. Only submissions without problems have such flags."""

    @property
    def exit_code(self) -> int:
        """0 without problems; 4 if all problems exist only because the board has changed; 3 for any other problem."""
        found = {problem for problems in self.problems.values() for problem in problems}
        if found - set(self.stale):
            return EXIT_REJECTED
        return EXIT_UNDECIDED if found else EXIT_OK


def review_changes(project: Project, revision: str) -> Review:
    """Compare `revision` with the working tree, including untracked files, and check the new submission.

    Raises LlmbenchError for an unknown revision or outside a repository. Raises UndecidedError if HEAD does not contain
    the revision.
    """
    commit = find_commit(project.root, revision)
    if not is_ancestor(project.root, commit):
        raise UndecidedError(
            f"this branch does not contain {revision} ({commit[:12]}); merge {revision} into it or rebase it onto "
            f"{revision} (in a shallow clone, first fetch more history), then verify again"
        )
    try:
        texts = read_all_at(project.root, commit, "submissions", "submission.json")
        board = make_board(load_submission(Path(p).parent, t.decode(errors="replace")) for p, t in texts.items())
    except LlmbenchError as error:
        raise LlmbenchError(f"the submissions in the revision {revision} cannot be read: {error}") from error
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
    checked = {} if stale else check_board(project)  # if the board has changed, this check would repeat the problem
    for name, one in checked.items():
        problems.setdefault(name, one.problems)
    flags = {name: one.flags for name, one in checked.items() if one.row and not problems[name]}
    return Review(commit, tuple(new), _summary(changes, new, revision), problems, tuple(stale), flags)


def _review_new(project: Project, claim: Claim, board: Board) -> tuple[list[str], list[str]]:
    """Two lists for a new submission: the problems that exist only because the board has changed, and all problems.

    `board` holds the submissions of the revision into which the pull request will be merged.
    """
    submission, name = claim.submission, claim.folder.name
    renumber = f"the next free number is {board.next_number}; delete the folder and run `llmbench submit` again"
    moved_on, own = [], []
    if taken := board.find(submission.number):
        moved_on.append(f"{name}: its number already belongs to another submission, {taken.folder_name}; {renumber}")
    if stale := stale_problem(submission, board):
        moved_on.append(stale)
    if submission.number > board.next_number:
        own.append(f"{name}: its number is too high; {renumber}")
    own += collect(_source_problems(project, claim)) + collect(_merged_problems(project, submission, board))
    found = [*moved_on, *own, *check_folder(project, claim.folder, board).problems]
    return moved_on, list(dict.fromkeys(found))


def mode_problems(changes: Mapping[str, Change], new: Sequence[str]) -> Iterator[str]:
    """Yields one sentence for each changed path that is not a plain file.

    If the pull request has no new submission, a file may also be executable.
    """
    for path, change in changes.items():
        if change.mode not in (PLAIN, GONE) and (new or change.mode != "100755"):
            what = MODES.get(change.mode, "not a plain file")
            yield f"{path} is {what} (mode {change.mode}); replace it with a plain file of mode {PLAIN}"


def change_problems(changes: Mapping[str, ChangeKind], new: Sequence[str], used: Set[str]) -> Iterator[str]:
    """Yields one sentence for each change that is not allowed. `used` holds the variants of the new submissions.

    Only a pull request without a new submission may change other parts of the repository.
    """
    if len(new) > 1:
        yield (
            f"{' and '.join(new)} are {len(new)} new submissions, but a pull request may have only one; move each of "
            f"the others to a separate pull request"
        )
    for path, kind in changes.items():
        match path.split("/"):
            case ["submissions", folder, _, *_] if folder in new:
                pass
            case ["submissions", *_]:
                yield f"{path} was {kind}: a submission must not change after it was merged; undo this change"
            case ["models", "variants", file] if file.endswith(".py"):
                if kind != "added":
                    yield (
                        f"{path} was {kind}: a variant with which a record was trained must not change; "
                        f"restore the file, and put your change into a new variant"
                    )
                elif file.removesuffix(".py") not in used:
                    yield (
                        f"{path} is new, but no new submission uses it; submit a result of this variant, or remove "
                        f"the file"
                    )
            case ["leaderboard.csv"] | ["README.md"]:
                pass  # another check compares the board with the submissions, byte for byte
            case _ if new:
                yield _stray(path, kind)


def _stray(path: str, kind: str) -> str:
    return (
        f"{path} was {kind}: a pull request with a new submission may change only the files of that submission; move "
        f"this change to another pull request"
    )


def _outside_the_board(project: Project, commit: str) -> bool:
    """Whether README.md differs from the one at `commit` in anything other than its board."""
    old = read_at(project.root, commit, "README.md")
    new = project.readme.read_bytes() if project.readme.is_file() else None
    if old is None or new is None:
        return old != new
    return with_board(old.decode(errors="replace"), ()) != with_board(new.decode(errors="replace"), ())


def _source_problems(project: Project, claim: Claim) -> Iterator[str]:
    """Checks that the runs were trained with this checkout's variants and code, and that no measurement is missing."""
    name = claim.folder.name
    for variant, digest in claim.submission.candidate.sources.items():
        if read_variant(project, variant).digest != digest:
            yield (
                f"models/variants/{variant}.py is not the file with which {name} was trained; "
                f"restore it from {name}/sources/{variant}.py"
            )
    present, runs = code_digest(project), [*chain(*claim.runs.values())]
    if other := [run for run in runs if run.code_digest != present]:
        yield (
            f"{name}: {len(other)} of {len(runs)} runs were trained by another version of llmbench's base model, "
            f"training loop or evaluator, as their code digest shows; train these runs again"
        )
    measured = [(run.evaluation.eval_cpu_s, run.training.weights_bytes) for run in finished(runs)]
    if unmeasured := [each for each in measured if None in each]:
        yield (
            f"{name}: {len(unmeasured)} of {len(runs)} runs lack eval_cpu_s or weights_bytes, because an older "
            f"version of llmbench trained them; train these runs again"
        )
    if claim.submission.kind == "record" and claim.submission.audit is None:
        yield (
            f"{name}: there is no audit, the test that the trained model sees no later tokens; delete the folder and "
            f"run `llmbench submit` again"
        )


def _merged_problems(project: Project, submission: Submission, board: Board) -> Iterator[str]:
    """Checks that a challenge states the commit that merged its record. Raises LlmbenchError if git cannot find this
    commit."""
    yield from filter(None, [merged_problem(project, submission, board)])


def _summary(changes: Mapping[str, Change], new: Sequence[str], revision: str) -> str:
    if new:
        return f"new since {revision}: {', '.join(new)}"
    if not changes:
        return f"nothing differs from {revision}"
    paths = list(changes)
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return one_line(f"no new submission since {revision}; changed: {', '.join(paths[:5])}{more}")
