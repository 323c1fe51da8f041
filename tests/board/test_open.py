"""`submit --open`: a real repository, a real remote on disk, and a `gh` that writes down what it was asked."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.board.leaderboard import rebuild
from harness.board.pull_request import plan_steps
from harness.board.submission import load_submission
from harness.core.project import Project
from tests.make import ROOT
from tests.sandbox import GIT, FiledContest, Sandbox, git, run

FOLDER, VARIANT = "submissions/0002-smoke-token_smear", "models/variants/token_smear.py"
ADDRESS = "https://github.com/someone/llmbench/pull/7"


@dataclass(frozen=True)
class Clone:
    """A contributor's clone with a trained candidate, a remote, and programs of its own."""

    sandbox: Sandbox
    remote: Path
    programs: Path

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        return git(cwd or self.sandbox.root, *arguments)

    @property
    def environment(self) -> dict[str, str]:
        return {**GIT, "PATH": str(self.programs)}

    def install_gh(self) -> Path:
        """A `gh` that keeps its arguments and answers as the real one does."""
        asked = self.programs.parent / "asked.json"
        program = self.programs / "gh"
        program.write_text(
            f"#!{sys.executable}\nimport json, pathlib, sys\n"
            f"pathlib.Path({str(asked)!r}).write_text(json.dumps(sys.argv[1:]))\n"
            f"print('Creating pull request', file=sys.stderr)\nprint({ADDRESS!r})\n"
        )
        program.chmod(0o755)
        return asked


@pytest.fixture
def clone(filed: FiledContest, tmp_path: Path) -> Clone:
    sandbox = filed.without_the_record(tmp_path / "llmbench")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "git").symlink_to(shutil.which("git") or "git")
    for name in (".gitignore", "README.md"):
        shutil.copy(ROOT / name, sandbox.root / name)
    rebuild(Project(sandbox.root))
    made = Clone(sandbox, tmp_path / "remote.git", tmp_path / "programs")
    source = (sandbox.root / VARIANT).read_text()
    (sandbox.root / VARIANT).unlink()
    made.git("init", "--quiet", "--bare", str(made.remote))
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "clone")
    made.git("remote", "add", "origin", str(made.remote))
    (sandbox.root / VARIANT).write_text(source)  # as a contributor has it: new, and not added yet
    (sandbox.root / "notes.txt").write_text("mine")  # and other things lie around
    return made


def test_open_pushes_a_branch_that_verifies_and_asks_for_a_pull_request(clone: Clone) -> None:
    asked = clone.install_gh()
    document = clone.sandbox.json("submit", "--track", "smoke", "--open", environment=clone.environment)
    branch = "submission/0002-smoke-token_smear"
    assert (document["branch"], document["pull_request"], document["commands"]) == (branch, ADDRESS, [])
    changed = clone.git("diff", "--name-only", "main", branch).split()
    assert {path for path in changed if not path.startswith(f"{FOLDER}/")} == {"README.md", "leaderboard.csv", VARIANT}
    assert clone.git("rev-parse", branch, cwd=clone.remote) == clone.git("rev-parse", "HEAD")
    (clone.sandbox.root / "notes.txt").unlink()
    assert clone.sandbox("verify", "--base", "main", environment=clone.environment).returncode == 0
    words = json.loads(asked.read_text())
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["pr", "create"]
    assert re.fullmatch(r"smoke: base\+token_smear beats the record, gain \+\d\.\d{4}", options["--title"])
    assert options["--head"] == branch
    body = (clone.sandbox.root / options["--body-file"]).read_text()
    assert document["markdown"].endswith(body)
    assert body.startswith("**ACCEPTED")


def test_without_gh_nothing_is_touched_and_the_commands_are_printed(clone: Clone) -> None:
    done = clone.sandbox("submit", "--track", "smoke", "--open", environment=clone.environment)
    assert done.returncode == 0, done.stderr
    assert clone.git("branch", "--format=%(refname:short)").split() == ["main"]
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert [command.split()[:2] for command in commands][-1] == ["gh", "pr"]
    script = " && ".join(commands[:-1])
    assert run("bash", "-c", script, cwd=clone.sandbox.root, **GIT).returncode == 0
    assert "submission/0002" in clone.git("branch", "--list", cwd=clone.remote)


def test_a_step_that_fails_leaves_the_submission_and_says_how_to_go_on(clone: Clone) -> None:
    clone.install_gh()
    shutil.rmtree(clone.remote)
    refusal = clone.sandbox.refuses("submit", "--track", "smoke", "--open", environment=clone.environment)
    assert "`git push` failed" in refusal
    assert "then run: git push --set-upstream origin submission/0002-smoke-token_smear && gh pr create" in refusal
    assert (clone.sandbox.root / FOLDER / "submission.json").exists()


def test_without_a_remote_nothing_is_filed(clone: Clone) -> None:
    clone.git("remote", "remove", "origin")
    refusal = clone.sandbox.refuses("submit", "--track", "smoke", "--open", environment=clone.environment)
    assert "no remote to push to" in refusal
    assert not (clone.sandbox.root / FOLDER).exists()


@pytest.mark.parametrize(
    "remote",
    ["https://github.com/some-one/llm.bench.git", "git@github.com:some-one/llm.bench.git"],
)
def test_on_github_the_picture_has_its_full_address(clone: Clone, filed: FiledContest, remote: str) -> None:
    """A pull request's text shows no relative picture."""
    clone.git("remote", "set-url", "origin", remote)
    project, submission = Project(clone.sandbox.root), load_submission(filed.sandbox.root / FOLDER)
    steps = plan_steps(project, submission, (filed.sandbox.root / FOLDER / "README.md").read_text())
    body = (project.root / "runs" / "pull-request-0002.md").read_text()
    page = f"https://github.com/some-one/llm.bench/blob/{steps.branch}/{FOLDER}"
    assert f"]({page}/curves.png?raw=true)" in body
    assert not re.findall(r"\]\((?!https://)", body)
    assert steps.page == f"https://github.com/some-one/llm.bench/compare/{steps.branch}?expand=1"
