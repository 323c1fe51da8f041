"""The judge of pull requests, run as CI runs it, on real repositories: a good one, and bad ones of every kind."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.board.leaderboard import rebuild
from harness.board.readme import submission_markdown
from harness.board.rows import BOARD_START
from harness.board.submission import Claim, load_submission
from harness.core.errors import LlmbenchError
from harness.core.git import find_commit
from harness.core.project import Project
from harness.core.runs import dump_json
from tests.make import ROOT
from tests.sandbox import GIT, Done, FiledContest, Sandbox, git, run, valid_document

CLAIM, VARIANT = "submissions/0002-smoke-token_smear", "models/variants/token_smear.py"


@dataclass(frozen=True)
class Repository:
    """A clone with a branch `main`, the base, and a pull request that is checked out."""

    root: Path

    def git(self, *arguments: str) -> str:
        return git(self.root, *arguments)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")

    def copy(self, target: Path) -> Repository:
        self.git("clone", "--quiet", "--no-checkout", str(self.root), str(target))
        clone = Repository(target)
        clone.git("branch", "main", "origin/main")
        clone.git("checkout", "--quiet", "-b", "mine", "origin/good")
        return clone

    def judge(self, base: str = "main", **environment: str) -> Done:
        """What CI says of the checked out commit."""
        script = self.root.parent / "verify-pull-request"
        script.write_text(self.git("show", f"{base}:.ci/verify-pull-request"))
        return run("bash", str(script), base, "--python", sys.executable, cwd=self.root, **GIT, **environment)

    def said(self, code: int, *, by_script: bool = True) -> str:
        """What the judge says, or the command that it calls where nothing else was changed; it must end with `code`."""
        judged = self.judge() if by_script else self.verify("--base", "main", "--markdown")
        assert judged.returncode == code, judged.stdout + judged.stderr
        assert "Traceback" not in judged.stderr
        return judged.stdout

    def verify(self, *arguments: str) -> Done:
        return Sandbox(self.root)("verify", *arguments, environment=GIT)

    def edit(self, file: str, old: str = "", new: str = "") -> None:
        """Replace the first `old` by `new`; without them add a line at the end."""
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1) if old else f"{text}# a remark\n")

    def refile(self, name: str, *, move: bool = False) -> None:
        """The claim once more under another number and name, everything in it consistent."""
        folder = self.root / "submissions" / name
        shutil.copytree(self.root / CLAIM, folder)
        number, _, rest = name.partition("-")
        submission = load_submission(folder).model_copy(update={"number": int(number), "name": rest})
        (folder / "submission.json").write_text(dump_json(submission))
        runs = Claim(folder, submission).finished.values()
        (folder / "README.md").write_text(submission_markdown(submission, *runs))
        if move:
            shutil.rmtree(self.root / CLAIM)

    def becomes_main(self) -> None:
        """Let `main` be what is checked out, and start a new pull request from there."""
        self.git("checkout", "--quiet", "-B", "main")
        self.git("checkout", "--quiet", "-b", "next")

    def rebuild(self) -> None:
        rebuild(Project(self.root))


@pytest.fixture(scope="session")
def template(filed: FiledContest, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """`main` has an open track; the branch `good` adds a variant and the record that it made."""
    root = tmp_path_factory.mktemp("pull-request") / "llmbench"
    shutil.copytree(filed.sandbox.root, root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(root / "runs")
    for name in (".ci", ".github"):
        shutil.copytree(ROOT / name, root / name)
    for name in (".gitignore", "README.md"):
        shutil.copy(ROOT / name, root / name)
    repository = Repository(root)
    later = root.parent / "later"
    for path in (CLAIM, VARIANT):
        (later / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / path, later / path)
    repository.rebuild()
    repository.git("init", "--quiet")
    repository.commit()
    repository.git("checkout", "--quiet", "-b", "good")
    shutil.copytree(later, root, dirs_exist_ok=True)
    repository.rebuild()
    repository.commit()
    return repository


@pytest.fixture
def pull_request(template: Repository, tmp_path: Path) -> Repository:
    """The good pull request, for a test to spoil."""
    return template.copy(tmp_path / "llmbench")


def test_a_good_pull_request_passes_and_its_verdict_is_in_the_summary(pull_request: Repository, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    judged = pull_request.judge(GITHUB_STEP_SUMMARY=str(summary))
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "| 0002-smoke-token_smear | ok |" in judged.stdout
    assert "| val loss (nats/token) |" in judged.stdout
    assert "**ACCEPTED: " in judged.stdout
    assert summary.read_text() == judged.stdout
    assert not pull_request.git("status", "--porcelain")
    assert len(pull_request.git("worktree", "list").splitlines()) == 1
    # A flag is shown and counted, and refuses nothing: the sandbox that trained these runs was no repository.
    assert "For review, 0002-smoke-token_smear: no_revision (4 of 4 runs)" in judged.stdout
    assert re.search(r" 0 failed, [1-9]\d* flags for review", judged.stdout)


Spoil = Callable[[Repository], None]


def a_second_submission(it: Repository) -> None:
    it.refile("0003-smoke-again")
    it.rebuild()


def a_gap(it: Repository) -> None:
    it.refile("0003-smoke-token_smear", move=True)
    it.rebuild()


def strays(it: Repository) -> None:
    for file in OTHERS:
        it.edit(file)


def board_cell(it: Repository) -> None:
    text = (it.root / "README.md").read_text()
    row = re.search(r"\| 2 \| \[`\+token_smear`\][^|]+\| (\d\.\d+)", text[text.index(BOARD_START) :])
    assert row
    it.edit("README.md", row[0], row[0].replace(row[1], "0.0001"))


def a_gitlink(it: Repository) -> None:
    """A commit of somewhere else, inside the submission's own folder."""
    (it.root / CLAIM / "vendored").mkdir()
    it.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},{CLAIM}/vendored")


def a_link(it: Repository) -> None:
    (it.root / VARIANT).unlink()
    (it.root / VARIANT).symlink_to("placebo.py")


def no_audit(it: Repository) -> None:
    path = it.root / CLAIM / "submission.json"
    content = json.loads(path.read_text())
    del content["audit"]
    path.write_text(json.dumps(content, indent=1) + "\n")


def candidate_run(it: Repository) -> str:
    path = next((it.root / CLAIM / "runs").glob("candidate-*"))
    return str(path.relative_to(it.root))


OTHERS = (".github/workflows/verify.yml", "harness/rule/verdict.py", "models/gpt.py", "tracks/smoke.toml")
STRAY = "a pull request with a new submission may change only the files of that submission"
SPOILED: dict[str, tuple[Spoil, str]] = {
    "others": (
        strays,
        "\n".join(f"- `{file}` differs: {STRAY}; move this change to another pull request" for file in OTHERS),
    ),
    "judge": (lambda it: (it.root / ".ci/verify-pull-request").write_text("exit 0\n"), "`.ci/verify-pull-request`"),
    "readme": (lambda it: it.edit("README.md"), f"README.md was changed outside its board: {STRAY}"),
    "readme's board": (board_cell, "the board in README.md does not match the submissions"),
    "old submission": (
        lambda it: it.edit("submissions/0001-smoke-baseline/README.md"),
        "submissions/0001-smoke-baseline/README.md was changed: a submission must not change after it was merged",
    ),
    "new submission's run": (
        lambda it: it.edit(candidate_run(it), '"correct": ', '"correct": 9'),
        "does not have the digest that the submission states",
    ),
    "variant": (
        lambda it: it.edit(VARIANT, "zeros_", "ones_"),
        f"{VARIANT} is not the file with which 0002-smoke-token_smear was trained",
    ),
    "variant gone": (lambda it: (it.root / VARIANT).unlink(), "there is no variant 'token_smear'"),
    "other variant": (
        lambda it: it.edit("models/variants/placebo.py"),
        "models/variants/placebo.py was changed: a variant with which a record was trained must not change",
    ),
    "unused variant": (
        lambda it: (it.root / "models/variants/idle.py").write_text('"""Nothing (nobody, 2026)."""\n'),
        "models/variants/idle.py is new, but no new submission uses it",
    ),
    "second submission": (a_second_submission, "0002-smoke-token_smear and 0003-smoke-again are 2 new submissions"),
    "gitlink": (
        a_gitlink,
        f"{CLAIM}/vendored is a git repository inside this one (mode 160000); replace it with a plain file",
    ),
    "link": (a_link, f"{VARIANT} is a link (mode 120000)"),
    "executable variant": (
        lambda it: (it.root / VARIANT).chmod(0o755),
        f"{VARIANT} is an executable file (mode 100755)",
    ),
    "executable README": (
        lambda it: (it.root / CLAIM / "README.md").chmod(0o755),
        f"{CLAIM}/README.md is an executable file (mode 100755)",
    ),
    "executable board": (lambda it: (it.root / "leaderboard.csv").chmod(0o755), "leaderboard.csv is an executable"),
    "no audit": (
        no_audit,
        "0002-smoke-token_smear: there is no audit, the test that the trained model sees no later tokens",
    ),
    "gap": (a_gap, "its number is too high; the next free number is 2"),
}
BY_SCRIPT = ("others", "judge", "new submission's run")
"""What the script itself refuses, and one case whose exit code it passes on."""


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_bad_pull_request_is_refused_with_its_reason(pull_request: Repository, spoil: str) -> None:
    change, words = SPOILED[spoil]
    change(pull_request)
    pull_request.commit()
    assert words in pull_request.said(3, by_script=spoil in BY_SCRIPT)


def test_a_record_that_moved_on_makes_the_claim_stale(pull_request: Repository) -> None:
    pull_request.becomes_main()
    pull_request.refile("0003-smoke-again")
    pull_request.rebuild()
    pull_request.commit()
    assert "0003-smoke-again: stale_record: The record has changed" in pull_request.said(4)


def test_a_number_that_was_taken_by_now_names_the_next(pull_request: Repository) -> None:
    pull_request.refile("0002-smoke-first", move=True)
    pull_request.rebuild()
    pull_request.commit()
    pull_request.becomes_main()
    pull_request.git("checkout", "origin/good", "--", CLAIM)
    pull_request.commit()
    assert (
        "its number already belongs to another submission, 0002-smoke-first; the next free number is 3"
        in pull_request.said(4)
    )


def test_runs_of_another_version_of_the_loop_are_refused(pull_request: Repository) -> None:
    pull_request.git("checkout", "--quiet", "main")
    pull_request.edit("harness/data/cache.py")
    pull_request.commit()
    pull_request.becomes_main()
    pull_request.git("checkout", "origin/good", "--", CLAIM, VARIANT, "leaderboard.csv", "README.md")
    pull_request.commit()
    assert (
        "4 of 4 runs were trained by another version of llmbench's base model, training loop or evaluator"
        in pull_request.said(3)
    )


def test_a_branch_that_lacks_its_base_is_told_to_rebase(pull_request: Repository) -> None:
    pull_request.git("checkout", "--quiet", "main")
    pull_request.edit("harness/rule/verdict.py")
    pull_request.commit()
    pull_request.git("checkout", "--quiet", "mine")
    judged, verified = pull_request.judge(), pull_request.verify("--base", "main")
    assert (judged.returncode, verified.returncode) == (4, 4)
    assert "does not contain BASE; merge it or rebase onto it" in judged.stderr
    assert "this branch does not contain main" in verified.stderr
    assert "rebase it onto main" in verified.stderr


def test_what_is_not_committed_counts_too(pull_request: Repository) -> None:
    idle, gone = pull_request.root / "models/variants/idle.py", pull_request.root / "models/variants/placebo.py"
    idle.write_text("x = 1\n")
    gone.unlink()
    pull_request.edit("harness/rule/verdict.py")
    (pull_request.root / "runs").mkdir()
    (pull_request.root / "runs" / "ignored").write_text("by .gitignore")
    found = pull_request.verify("--base", "main", "--json")
    document = valid_document(found.stdout, "verify")
    assert found.returncode == 3
    assert document["new"] == ["0002-smoke-token_smear"]
    assert len(document["problems"]["changes"]) == 3
    (pull_request.root / CLAIM / "runs" / "more").symlink_to("/etc")
    git(pull_request.root, "init", "--quiet", f"{CLAIM}/own")
    (pull_request.root / CLAIM / "own" / "x").touch()
    problems = json.loads(pull_request.verify("--base", "main", "--json").stdout)["problems"]["changes"]
    assert any(f"{CLAIM}/runs/more is a link" in problem for problem in problems), problems
    assert any(f"{CLAIM}/own/ is a git repository inside this one" in problem for problem in problems), problems
    for words in ("idle.py is new", "placebo.py was deleted", "harness/rule/verdict.py was changed"):
        assert any(words in problem for problem in document["problems"]["changes"]), words


def test_without_a_submission_other_work_is_nobodys_claim(pull_request: Repository) -> None:
    pull_request.git("checkout", "--quiet", "main")
    same = pull_request.verify("--base", "main")
    assert (same.returncode, same.stdout.splitlines()[0]) == (0, "nothing differs from main")
    pull_request.edit("harness/rule/verdict.py")
    (pull_request.root / "harness/rule/verdict.py").chmod(0o755)
    other = pull_request.verify("--base", "main")
    assert other.returncode == 0
    assert other.stdout.splitlines()[0] == "no new submission since main; changed: harness/rule/verdict.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--base", "nosuch"), "there is no revision 'nosuch'"),
        (("--base=--all",), "there is no revision '--all'"),
        ((CLAIM, "--base", "main"), "leave the folder out"),
    ],
)
def test_a_wrong_question_is_exit_code_two(template: Repository, arguments: tuple[str, ...], words: str) -> None:
    assert words in Sandbox(template.root).refuses("verify", *arguments)


def test_a_folder_that_is_no_repository_is_told_to_use_a_clone(sandbox: Sandbox) -> None:
    assert "work in a clone made by `git clone`" in sandbox.refuses("verify", "--base", "main")


def test_a_folder_inside_another_repository_is_not_compared_with_it(template: Repository) -> None:
    with pytest.raises(LlmbenchError, match="inside the git repository"):
        find_commit(template.root / "harness", "main")


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_cannot_be_turned_against_the_project(path: Path) -> None:
    """It reads only, holds no secret, pins actions by their commits, and ends; what publishes runs nothing of ours."""
    text = path.read_text()
    workflow: dict[Any, Any] = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in text
    assert "pull_request_target" not in text
    assert "${{ github.head_ref" not in text
    for job in workflow["jobs"].values():
        if "permissions" in job:
            assert job["permissions"] == {"pages": "write", "id-token": "write"}
            assert [step["uses"].partition("@")[0] for step in job["steps"]] == ["actions/deploy-pages"]
            assert {*workflow[True]} <= {"push", "workflow_dispatch"}, "no stranger starts it"  # YAML 1.1: on is true
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
            if "uses" in step:
                assert re.fullmatch(
                    r"actions/(checkout|setup-python|upload-pages-artifact|deploy-pages)@[0-9a-f]{40}", step["uses"]
                )
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_the_workflows_own_step_judges_the_merge_of_a_pull_request(pull_request: Repository, tmp_path: Path) -> None:
    """The very text of the step, on the merge commit that GitHub makes; only the training is left out."""
    steps = yaml.safe_load((ROOT / ".github/workflows/verify.yml").read_text())["jobs"]["verify"]["steps"]
    assert steps[-1]["run"].count(" --rerun") == 1
    step = steps[-1]["run"].replace(" --rerun", f" --python {sys.executable}")
    pull_request.git("checkout", "--quiet", "--detach", "main")
    pull_request.git("merge", "--quiet", "--no-ff", "--message", "merge", "mine")
    judged = run("bash", "-e", "-c", step, cwd=pull_request.root, RUNNER_TEMP=str(tmp_path), **GIT)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "| 0002-smoke-token_smear | ok |" in judged.stdout
