"""Commands in processes of their own: a copy of the checkout with a board of its own, and a contest filed there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.board.leaderboard import rebuild
from harness.core.project import Project
from harness.show.documents import DOCUMENTS, json_schema
from tests.forked import PATIENCE_S, Done, Forked, fork
from tests.make import ROOT

GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
GIT |= {f"GIT_{who}_{what}": "someone@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


LOOKING = ("data", "explain", "history", "judge", "leaderboard", "plan", "schema", "tracks", "variants", "verify")
"""Commands that train nothing and start no player, but for `verify --rerun` and `variants NAME`."""
PLAYING = ("ablate", "campaign", "challenge", "doctor", "run", "submit")
"""Commands that may start players."""
READ_AT_IMPORT = ("datasets", "huggingface_hub.constants")
"""Modules that read the environment when they are imported."""
NOT_INHERITED = ("PYTHONPATH", "GITHUB_STEP_SUMMARY", "PYTHONDONTWRITEBYTECODE")  # the last makes each command slower


def inherited(**variables: str) -> dict[str, str]:
    """The environment of a command, with further variables."""
    mine = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return {**mine, "NO_COLOR": "1", "COLUMNS": "120", **variables}


def run(*command: str, cwd: Path = ROOT, **variables: str) -> Done:
    """A command in `cwd`, with further environment variables."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=inherited(**variables)
    )


def python(*arguments: str, cwd: Path = ROOT, **variables: str) -> Done:
    return run(sys.executable, *arguments, cwd=cwd, **variables)


def git(root: Path, *arguments: str) -> str:
    """What git prints. Its user is someone, and it reads no settings of whoever runs the tests."""
    done = run("git", "-c", "init.defaultBranch=main", *arguments, cwd=root, **GIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def valid_document(text: str, *arguments: str) -> Any:
    """The one JSON document that `llmbench ARGUMENTS --json` printed. Raises where it breaks the command's schema."""
    command = next(name for name in (" ".join(arguments[:2]), arguments[0]) if name in DOCUMENTS)
    document = json.loads(text)
    jsonschema.validate(document, json_schema(command), jsonschema.Draft202012Validator)
    return document


def refusal(done: Done, code: int = 2) -> str:
    """What a command said on stderr; it must have ended with `code`, in one sentence of error."""
    assert done.returncode == code, done.stdout + done.stderr
    assert sum(line.startswith("llmbench: ") for line in done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@dataclass(frozen=True)
class Sandbox:
    """A copy of the checkout with a board of its own, driven through the command line."""

    root: Path

    def __call__(self, *arguments: str, environment: dict[str, str] | None = None) -> Done:
        """The command, in a fork where that does the same."""
        environment = environment or {}
        plays = self._plays(arguments)
        differs = ("LLMBENCH_",) if plays else ()  # players read these when their server starts
        if not sys.modules.keys().isdisjoint(READ_AT_IMPORT):
            differs += ("HF_", "XDG_")
        forks = (plays or arguments[0] in LOOKING) and not any(name.startswith(differs) for name in environment)
        if sys.platform == "linux" and forks:
            return self._fork(arguments, environment).wait()
        return self.afresh(*arguments, **environment)

    def afresh(self, *arguments: str, **environment: str) -> Done:
        """The command in an interpreter of its own, as users run it."""
        return python("-m", "harness.cli", *arguments, cwd=self.root, **environment)

    def twice(self, *arguments: str) -> list[Done]:
        """The same command twice at once."""
        if sys.platform == "linux" and self._plays(arguments):
            return [one.wait() for one in [self._fork(arguments, {}) for _ in range(2)]]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda _: self.afresh(*arguments), range(2)))

    def _plays(self, arguments: tuple[str, ...]) -> bool:
        """Whether the command may start players."""
        shows_one = arguments[0] == "variants" and bool({*arguments[1:]} - {"--json"})
        return arguments[0] in PLAYING or "--rerun" in arguments or shows_one

    def _fork(self, arguments: tuple[str, ...], environment: dict[str, str]) -> Forked:
        return fork(self.root, arguments, inherited(**environment), plays=self._plays(arguments))

    def refuses(self, *arguments: str, code: int = 2, **options: Any) -> str:
        return refusal(self(*arguments, **options), code)

    def json(self, *arguments: str, **options: Any) -> Any:
        """The one JSON document that the command prints, proved to keep the command's schema."""
        return valid_document(self(*arguments, "--json", **options).stdout, *arguments)

    def copy(self, target: Path) -> Sandbox:
        shutil.copytree(self.root, target, symlinks=True)
        return Sandbox(target)


def commit_board(sandbox: Sandbox) -> str:
    """The sandbox as a repository whose newest commit brings what is filed; that commit."""
    if not (sandbox.root / ".git").exists():
        shutil.copy(ROOT / ".gitignore", sandbox.root)
        git(sandbox.root, "init")
        git(sandbox.root, "commit", "--allow-empty", "--message", "start")
    git(sandbox.root, "add", "--all")
    git(sandbox.root, "commit", "--message", "what is filed")
    return git(sandbox.root, "rev-parse", "HEAD").strip()


def mounted(folder: str, options: str, *command: str, cwd: Path = ROOT) -> Done:
    """A command for which `folder` is a small or read-only disk; it prints as its last line which files were left.

    The disk is a mount that only the command sees. Skips the test on a system that lends nobody one.
    """
    if run("unshare", "-rm", "true").returncode != 0:
        pytest.skip("this system lends no mount namespace")
    mount, left = f'mount -t tmpfs -o {options} none "{folder}"', f'find "{folder}" -type f | tr "\\n" " "'
    return run(
        "unshare", "-rm", "sh", "-c", f'{mount} && "$@"; code=$?; echo; {left}; exit $code', "sh", *command, cwd=cwd
    )


HERE = Sandbox(ROOT)
"""This checkout, for commands that leave no trace in it."""


# One run is a screen, and two pairs can decide: what is tested is the way of a claim, not the statistics. A quarter of
# the steps and a fifth of val, because most of the suite's time is that of training and scoring. With learning rates
# for few steps, token smearing gains 0.011 to 0.021 nats on six seeds (100 to 105); with the track's, nothing.
EASY: dict[str, Any] = {
    **{"alpha": 0.45, "looks": [2], "levels": [0.45], "max_slowdown": 9.0, "loss_per_statement": 0.00001},
    **{"screen_looks": [1], "screen_pass": [0.0], "screen_drop": [0.0]},
    **{"tokens": 16384, "embed_lr": 0.3, "head_lr": 0.03, "scalar_lr": 0.05},
    **{"dev_fraction": 0.002, "val_fraction": 0.004},
}
PINS = """
tokenizer_sha256 = "05c29383971137d28d8e0930aa50cea5219df7e3db16f37f07fbeeb9ca94b612"
train = { sha256 = "12e459f8ef530f170bb16ca8fd639991950d98eaccc3b7d4597d4a79530496d3", tokens = 1732591, bytes = 4114421, documents = 1182 }
dev = { sha256 = "adeadd39de5cc5db256e575da7a2032e35dee680f00a38e73e2eaff99728b5ae", tokens = 1969, bytes = 4564, documents = 2 }
val = { sha256 = "99fa59e0b75517e11107c7277d7325f574fc5946af7cddf1f71a1b6fef0fd161", tokens = 7201, bytes = 17278, documents = 5 }
"""  # noqa: E501
"""What `llmbench data pin` writes for these fractions."""


def make_sandbox(root: Path) -> Sandbox:
    for folder in ("harness", "models", "tracks"):
        shutil.copytree(ROOT / folder, root / folder)  # with its compiled files: compiling takes a fifth of a command
    track = root / "tracks" / "smoke.toml"
    text, easy = track.read_text(), {key: f"{key} = {value}" for key, value in EASY.items()}
    for key, line in {**easy, **{line.partition(" ")[0]: line for line in PINS.strip().splitlines()}}.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", line, text)
        assert count == 1, key
    track.write_text(text)
    return Sandbox(root)


@dataclass(frozen=True)
class FiledContest:
    """The whole way, once, for real: baseline, candidate, submission."""

    sandbox: Sandbox
    candidate: dict[str, Any]
    submitted: Done

    def without_the_record(self, root: Path) -> Sandbox:
        """The board as it was before token smearing was filed; its runs are trained."""
        sandbox = self.sandbox.copy(root)
        shutil.rmtree(sandbox.root / "submissions" / "0002-smoke-token_smear")
        rebuild(Project(sandbox.root))
        return sandbox


def file_contest(root: Path) -> FiledContest:
    sandbox = make_sandbox(root)
    for command in (("run", "baseline"), ("submit", "--baseline")):
        done = sandbox(*command, "--track", "smoke")
        assert done.returncode == 0, done.stderr
    candidate = sandbox.afresh("run", "candidate", "--variant", "token_smear", "--track", "smoke", "--json")
    submitted = sandbox("submit", "--track", "smoke")
    document = valid_document(candidate.stdout, "run", "candidate")
    return FiledContest(sandbox, {"code": candidate.returncode, **document}, submitted)


def problems(sandbox: Sandbox) -> dict[str, list[str]]:
    """What `llmbench verify` finds: folder or file -> its problems."""
    return {name: found for name, found in sandbox.json("verify")["problems"].items() if found}
