"""`llmbench compare` on a trainer of forty lines, in a folder without a checkout of llmbench around it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.cli import main
from tests.make import ROOT
from tests.sandbox import GIT, git, mounted, python, refusal, valid_document

METRIC = ("--metric", r"val loss ([0-9.]+)")
RUN = "python train.py --seed {seed}"


@dataclass(frozen=True)
class Folder:
    """A folder with a trainer; commands run in this process."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """`llmbench ARGUMENTS` here: its exit code and what it printed."""
        self.monkeypatch.chdir(self.root)
        self.monkeypatch.setattr(sys, "argv", ["llmbench", *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self.capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), said.out, said.err

    def commands(self, more: str = "", *options: str, record: str = "") -> tuple[int, str, str]:
        """The trainer against the trainer with further options."""
        arms = ("--record", f"{RUN} {record}".strip(), "--candidate", f"{RUN} --arm new {more}".strip())
        return self("compare", *arms, *(() if "--metric" in options else METRIC), *options)

    def result(self, more: str = "", *options: str, record: str = "") -> Any:
        """What --json prints; proved to keep its schema."""
        _, out, err = self.commands(more, *options, "--json", record=record)
        assert out, err
        return valid_document(out, "compare")

    @property
    def started(self) -> list[str]:
        path = self.root / "started"
        return path.read_text().splitlines() if path.exists() else []

    def kept(self) -> list[Path]:
        return sorted(self.root.glob(".llmbench/comparisons/*/comparison.json"))

    def process(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.cli", *arguments],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Folder:
    root = tmp_path / "mine"
    root.mkdir()
    shutil.copy(ROOT / "tests" / "trainer.py", root / "train.py")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in GIT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    return Folder(root, capsys, monkeypatch)


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_a_gain_is_accepted_and_its_numbers_are_those_of_the_commands_by_hand(folder: Folder) -> None:
    code, out, err = folder.commands("--gain 0.05", "--curve", r"step (\d+) val loss ([0-9.]+)")
    assert code == 0, out + err
    assert "ACCEPTED: The gain is shown to exceed its margin." in out
    assert "The trainer reported all numbers" in out
    found = json.loads(folder.kept()[0].read_text())
    assert found["numbers"] == "reported by the trainer"
    for run in found["runs"]:
        more = ["--arm", "new", "--gain", "0.05"] if run["arm"] == "candidate" else []
        by_hand = subprocess.run(
            [sys.executable, "train.py", "--seed", str(run["seed"]), *more],
            cwd=folder.root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"step 4 val loss {run['value']:.6f} " in by_hand
        assert len(run["curve"]) == 5
    assert "<svg" in folder.kept()[0].with_suffix(".svg").read_text()


def test_a_loss_is_rejected_after_the_first_look(folder: Folder) -> None:
    code, out, _ = folder.commands("--gain -0.05")
    assert code == 3
    assert "REJECTED: The mean gain is not above its margin" in out
    assert len(folder.started) == 6


def test_higher_is_better_turns_the_gain(folder: Folder) -> None:
    found = folder.result("--gain 0.05", "--metric", "accuracy ([0-9.]+)", "--higher-is-better")
    assert found["verdict"]["decision"] == "accepted"
    assert found["verdict"]["gain"] == pytest.approx(0.05, abs=0.01)


def test_a_margin_is_asked_of_the_gain_and_a_slowdown_blocks(folder: Folder) -> None:
    assert folder.commands("--gain 0.05", "--margin", "0.2")[0] == 3
    code, out, _ = folder.commands("--gain 0.05 --seconds 0.4", "--max-slowdown", "0.1")
    assert code == 3
    assert "takes longer than max_slowdown allows" in out


def test_stored_runs_of_the_record_serve_two_candidates(folder: Folder) -> None:
    options = ("--design", "stored", "--stored-runs", "4", "--looks", "3")
    first = folder.result("--gain 0.5", *options)
    assert first["verdict"]["decision"] == "accepted"
    assert first["verdict"]["design"] == "stored"
    folder.result("--gain 0.6", *options)
    assert sum(line.endswith(" new") for line in folder.started) == 6
    assert len(folder.started) == 4 + 6


def test_looks_and_level_are_as_declared(folder: Folder) -> None:
    found = folder.result("--gain 0.05", "--looks", "2,5", "--alpha", "0.05")
    assert found["declared"]["looks"] == [2, 5]
    assert found["verdict"]["alpha"] == 0.05
    assert found["verdict"]["pairs"] in (2, 5)


# --- runs without a number ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "options", "words"),
    [
        ("crash", (), "it ended with code 1: cannot go on: the widget is loose"),
        ("silent", (), "no number: 'val loss ([0-9.]+)' is not in the output of the command"),
        ("nan", (), "no number: the last value of 'val loss ([0-9.]+)' is nan"),
        ("nan", ("--metric", "final_loss"), "no number: the last value of 'final_loss' is nan"),
        ("hang", ("--timeout", "1s"), "it took longer than the timeout, 1s"),
    ],
)
def test_a_candidate_without_a_number_is_rejected_and_says_why(
    folder: Folder, breaks: str, options: tuple[str, ...], words: str
) -> None:
    code, out, err = folder.commands(f"--breaks {breaks}", *options)
    assert code == 3, err
    assert "REJECTED: A run of the candidate failed, so it has no number." in out
    assert words in out.replace("\n", " ")
    failed = [run for run in json.loads(folder.kept()[0].read_text())["runs"] if run["status"] == "failed"]
    assert all("value" not in run for run in failed)
    assert "log of the candidate's failed run with seed" in err


def test_a_record_without_a_number_leaves_it_undecided(folder: Folder) -> None:
    code, out, _ = folder.commands(record="--breaks crash")
    assert code == 4
    assert "UNDECIDED: A run of the record failed" in out


def test_a_run_without_a_number_is_made_again_and_says_how_often(folder: Folder) -> None:
    folder.commands("--breaks crash")
    found = folder.result("--breaks crash")
    assert {run["tries"] for run in found["runs"] if run["status"] == "failed"} == {2}
    assert {run["tries"] for run in found["runs"] if run["arm"] == "record"} == {1}


def test_a_seed_that_is_ignored_ends_the_comparison(folder: Folder) -> None:
    code, out, _ = folder.commands(record="--breaks deaf")
    assert code == 4
    assert "two seeds gave the same numbers" in out
    assert "the record gave" in out
    assert len(folder.started) <= 4


def test_a_change_that_does_nothing_is_identical(folder: Folder) -> None:
    code, out, _ = folder("compare", "--record", RUN, "--candidate", f"{RUN} --seconds 0", *METRIC)
    assert code == 3
    assert "the change does nothing" in out
    assert len(folder.started) == 2


# --- where the number comes from ------------------------------------------------------------------------------------


def test_a_number_comes_from_a_line_a_file_or_an_environment_variable(folder: Folder) -> None:
    printed = folder.result("--gain 0.05")["runs"]
    line = folder.result("--gain 0.05", "--metric", "final_loss")["runs"]
    filed = folder.result(
        "--gain 0.05 --out {out}", "--metric", "eval.loss", "--metric-file", "{out}/log.jsonl", record="--out {out}"
    )
    assert [run["value"] for run in printed] == [run["value"] for run in line]
    assert filed["verdict"]["decision"] == "accepted"
    found = folder(
        "compare", "--record", "python train.py", "--candidate", "python train.py --gain 0.05", "--seed-variable",
        "TRAINER_SEED", *METRIC, "--json",
    )  # fmt: skip
    assert json.loads(found[1])["verdict"]["decision"] == "accepted", found


def test_two_runs_at_a_time_do_not_share_one_file(folder: Folder) -> None:
    code, _, err = folder.commands("", "--metric", "eval.loss", "--metric-file", "log.jsonl")
    assert code == 2
    assert "two runs at a time would both write 'log.jsonl'; put {out}" in err


def test_a_file_of_an_earlier_run_is_no_result(folder: Folder) -> None:
    old = folder.root / "log.json"
    old.write_text('{"loss": 1.0}')
    os.utime(old, (1, 1))
    code, out, _ = folder.commands("", "--metric", "loss", "--metric-file", "log.json", "--jobs", "1")
    assert code == 4
    assert "did not write log.json; the file with this name is older than the run" in out


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_finished_runs_are_kept_and_edits_make_new_ones(folder: Folder) -> None:
    first = folder.commands("--gain 0.05")
    count = len(folder.started)
    second = folder.commands("--gain 0.05")
    assert len(folder.started) == count
    assert first[1] == second[1]
    assert "(kept)" in second[2]
    edited = (folder.root / "train.py").read_text() + "# another comment\n"
    (folder.root / "train.py").write_text(edited)
    folder.commands("--gain 0.05")
    assert len(folder.started) > count


def test_another_expression_reads_the_kept_runs_again(folder: Folder) -> None:
    code, out, _ = folder.commands("--gain 0.05", "--metric", r"loss: ([0-9.]+)")
    assert code == 4, out
    assert len(folder.started) == 2
    assert folder.commands("--gain 0.05")[0] == 0
    count = len(folder.started)
    found = folder.result("--gain 0.05", "--curve", r"step (\d+) val loss ([0-9.]+)")
    assert all(len(run["curve"]) == 5 for run in found["runs"])
    assert len(folder.started) == count == len(found["runs"])


def test_a_comparison_is_replayed_from_its_file_and_a_changed_number_is_found(folder: Folder) -> None:
    folder.commands("--gain 0.05")
    path = folder.kept()[0]
    assert folder("verify", str(path))[0] == 0
    for change in (
        lambda found: found["runs"][0].update(value=found["runs"][0]["value"] + 0.01),
        lambda found: found["runs"].pop(0),
        lambda found: found["declared"].update(levels=[0.01, 0.01, 0.01, 0.01]),
        lambda found: found["candidate_seeds"].reverse(),
        lambda found: found["verdict"].update(gain=0.5),
    ):
        found = json.loads(path.read_text())
        change(found)
        other = path.with_name("other.json")
        other.write_text(json.dumps(found))
        code, out, _ = folder("verify", str(other))
        assert code == 3, out
        assert "FAILED" in out


def test_history_lists_the_comparisons_of_the_folder(folder: Folder) -> None:
    folder.commands("--gain 0.05")
    folder.commands("--gain -0.05")
    code, out, _ = folder("history", "--json")
    assert code == 0
    listed = valid_document(out, "history")["comparisons"]
    assert [one["decision"] for one in listed] in (["rejected", "accepted"], ["accepted", "rejected"])
    assert "accepted (gain_shown)" in folder("history")[1]


def test_markdown_has_the_table_and_every_failure(folder: Folder) -> None:
    _, out, _ = folder.commands("--breaks crash", "--markdown")
    assert out.startswith("**REJECTED: A run of the candidate failed, so it has no number.")
    assert "- candidate seed" in out
    assert "| seed | record | candidate |" in out


# --- revisions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(folder: Folder) -> Folder:
    """The folder as a repository whose branch `better` gains 0.05, with untracked data."""
    git(folder.root, "init")
    (folder.root / ".gitignore").write_text("data/\n")
    (folder.root / "data").mkdir()
    (folder.root / "data" / "text").write_text("in the beginning")
    git(folder.root, "add", "--all")
    git(folder.root, "commit", "--message", "start")
    git(folder.root, "checkout", "-b", "better")
    text = (folder.root / "train.py").read_text()
    (folder.root / "train.py").write_text(
        text.replace("- asked.gain", "- asked.gain - 0.05\n    loss += own.gauss(0, 1e-3)")
    )
    git(folder.root, "commit", "--all", "--message", "better")
    git(folder.root, "checkout", "main")
    return folder


def test_two_revisions_are_compared_in_worktrees_of_their_own(repository: Folder) -> None:
    options = ("--setup", "echo set up >> was_set_up; test -f data/text", "--link", "data", *METRIC)
    code, out, err = repository("compare", "main", "better", "--run", RUN, *options)
    assert code == 0, out + err
    assert "added code" in out
    assert "1 statement" in out
    assert git(repository.root, "status", "--porcelain") == ""
    assert not repository.started  # nothing ran in the checkout
    repository("compare", "main", "better", "--run", RUN, *options)
    trees = [Path(line.split()[0]) for line in git(repository.root, "worktree", "list").splitlines()[1:]]
    assert len(trees) == 2
    assert not any(tree.is_relative_to(repository.root) for tree in trees)
    assert all((tree / "was_set_up").read_text() == "set up\n" for tree in trees)


def test_uncommitted_files_are_a_revision_and_the_checkout_stays_as_it_is(repository: Folder) -> None:
    text = (repository.root / "train.py").read_text()
    (repository.root / "train.py").write_text(
        text.replace("- asked.gain", "- asked.gain - 0.06\n    loss += own.gauss(0, 1e-3)")
    )
    (repository.root / "new.py").write_text("x = 1\n")
    before = git(repository.root, "status", "--porcelain")
    code, out, err = repository("compare", "main", ".", "--run", RUN, *METRIC)
    assert code == 0, out + err
    assert "not committed" in out
    assert "2 statements" in out  # one in the file that git does not know yet
    assert git(repository.root, "status", "--porcelain") == before


def test_the_settings_file_is_enough(repository: Folder) -> None:
    code, out, _ = repository("init", "--metric", "val loss ([0-9.]+)", "--json")
    assert code == 0
    assert [Path(path).name for path in valid_document(out, "init")["files"]] == ["llmbench.toml", "llmbench.yml"]
    assert repository("init")[0] == 2
    code, out, err = repository("compare", "main", "better")
    assert code == 0, out + err
    workflow = repository.root / ".github/workflows/llmbench.yml"
    assert "GITHUB_STEP_SUMMARY" in workflow.read_text()
    here = Path(sys.executable).parent
    for linter in (("check-jsonschema", "--builtin-schema", "vendor.github-workflows"), ("zizmor", "--offline")):
        checked = subprocess.run([here / linter[0], *linter[1:], workflow], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("main", "nowhere", "--run", RUN), "there is no revision 'nowhere' in the git repository"),
        (("main", "--run", RUN), "you named 1 git revision, but two are compared"),
        (("main", "main", "--run", RUN), "contain the same files; name revisions that differ"),
        (("main", "better", "--run", "python train.py"), "'python train.py' has no place for the seed"),
        (("main", "better", "--record", RUN, "--candidate", RUN), "to compare two revisions, give one command"),
        (("main", "better", "--run", RUN, "--setup", "echo no; exit 3"), "ended with code 3"),
        (("main", "better", "--run", RUN, "--link", "gone"), "link 'gone': there is no"),
        (("main", "better", "--run", RUN, "--link", "../x"), "must be a path inside the repository"),
        (("main", "better", "--run", RUN, "--looks", "3,2"), "looks ([3, 2]) must be increasing"),
        (("main", "better", "--run", RUN, "--looks", "a"), "--looks 'a' is not a list of whole numbers"),
        (("main", "better", "--run", RUN, "--metric", "(a"), "is not a valid regular expression"),
        (("main", "better", "--run", RUN, "--metric", "(a)(b)"), "must have one group"),
        (
            ("main", "better", "--run", RUN, "--metric", "val loss"),
            "is neither a name nor a regular expression with a group",
        ),
        (("main", "better", "--run", RUN, "--also", "x"), "--also 'x' is not NAME=REGEX"),
        (("main", "better", "--run", RUN, "--timeout", "2"), "'2' is not a duration"),
        (("main", "better", "--run", RUN, "--executor", "there"), "there is no executor 'there'"),
        (("--record", "nonsense {seed}", "--candidate", f"{RUN} --gain 1"), "cannot be started"),
        (("--record", RUN, "--candidate", RUN), "both commands are the same"),
        (("--record", RUN), "both 'record' and 'candidate'"),
    ],
)
def test_wrong_input_is_one_sentence(repository: Folder, arguments: tuple[str, ...], words: str) -> None:
    metric = () if "--metric" in arguments else METRIC
    code, _, err = repository("compare", *arguments, *metric)
    assert code == 2, err
    assert words in err.replace("\n", " ")
    assert sum(line.startswith("llmbench: ") for line in err.splitlines()) == 1


def test_a_wrong_key_in_the_file_names_the_key(folder: Folder) -> None:
    (folder.root / "llmbench.toml").write_text(f'record = "{RUN}"\nmetrik = "x"\n')
    code, _, err = folder("compare", "--candidate", f"{RUN} --gain 1")
    assert code == 2
    assert "unknown key 'metrik' (did you mean 'metric'?)" in err


# --- crashes and company --------------------------------------------------------------------------------------------

SLOW = ("--record", f"{RUN} --seconds 0.6", "--candidate", f"{RUN} --gain 0.05 --seconds 0.6", *METRIC)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(folder: Folder) -> list[Path]:
    return list(folder.root.glob(".llmbench/runs/*/*/run.json"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_and_no_trainer_is_left(folder: Folder, how: signal.Signals) -> None:
    process = folder.process("compare", *SLOW)
    wait_for(lambda: len(finished(folder)) >= 2 and len(folder.started) >= 4, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    _, err = process.communicate()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "finished runs are kept, unfinished runs are lost; run the same command again" in err
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    before, kept = len(folder.started), len(finished(folder))
    code, out, err = folder("compare", *SLOW)
    assert code == 0, out + err
    total = len(json.loads(folder.kept()[0].read_text())["runs"])
    assert len(folder.started) - before == total - kept


def test_two_at_once_make_each_run_once(folder: Folder) -> None:
    both = [folder.process("compare", *SLOW, "--json") for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = [json.loads(out)["runs"] for out, _ in said]
    assert runs[0] == runs[1]
    assert len(folder.started) == len(runs[0])


def test_a_full_disk_ends_in_a_sentence_and_is_no_result(folder: Folder) -> None:
    (folder.root / ".llmbench").mkdir()
    command = (sys.executable, "-m", "harness.cli", "compare", *SLOW)
    said = refusal(mounted(".llmbench", "size=8k", *command, cwd=folder.root))
    assert "free space" in said
    assert not finished(folder)


# --- places --------------------------------------------------------------------------------------------------------


def test_each_run_at_a_time_has_a_gpu_of_its_own(folder: Folder) -> None:
    folder.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    gpu = ("--also", r"gpu=gpu (\d+)")
    found = folder(
        "compare", "--record", f"echo gpu $CUDA_VISIBLE_DEVICES; {RUN} --seconds 0.5", "--candidate",
        f"echo gpu $CUDA_VISIBLE_DEVICES; {RUN} --gain 0.05 --seconds 0.5", *METRIC, *gpu, "--json",
    )  # fmt: skip
    runs = json.loads(found[1])["runs"]
    by_seed = {seed: {run["also"]["gpu"] for run in runs if run["seed"] == seed} for seed in {r["seed"] for r in runs}}
    assert all(gpus == {3.0, 5.0} for gpus in by_seed.values())


def test_commands_run_where_the_user_is(repository: Folder) -> None:
    inside = Folder(repository.root / "deep", repository.capsys, repository.monkeypatch)
    inside.root.mkdir()
    git(repository.root, "checkout", "better")
    git(repository.root, "mv", "train.py", "deep/train.py")
    git(repository.root, "commit", "--all", "--message", "moved")
    git(repository.root, "checkout", "-b", "worse")
    text = (inside.root / "train.py").read_text()
    (inside.root / "train.py").write_text(text.replace("- 0.05", "+ 0.05"))
    git(repository.root, "commit", "--all", "--message", "worse")
    code, out, err = inside("compare", "better", "worse", "--run", RUN, *METRIC)
    assert code == 3, out + err


def test_comparing_loads_no_torch(folder: Folder) -> None:
    """Nobody needs it to compare a trainer that may use another version of it."""
    arguments = ["compare", "--record", RUN, "--candidate", f"{RUN} --gain -0.5", *METRIC]
    code = (
        f"import sys; sys.argv = ['llmbench', *{arguments!r}]\n"
        "from harness.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 3, stop.code\n"
        "print('torch' in sys.modules)"
    )
    done = python("-c", code, cwd=folder.root)
    assert done.stdout.endswith("False\n"), done.stdout + done.stderr
