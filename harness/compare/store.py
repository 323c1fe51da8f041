"""Makes each run of a comparison once, in its own folder, and keeps it for later comparisons."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import filelock
from pydantic import ValidationError

from harness.compare.arms import ArmName, Arms, digest_of_folder
from harness.compare.metric import NoNumberError, read_log, read_run, tail_of
from harness.compare.places import Places
from harness.compare.settings import OUT, SEED, Settings
from harness.compare.trial import FULL, NOT_FOUND, TRIAL, Ended, FailedTrial, FinishedTrial, Request, TrialFacts, now
from harness.core.errors import InterruptedRunError, LlmbenchError
from harness.core.project import make_folder, read_text, sha256, write_atomic
from harness.rule.verdict import Verdict

STORE = ".llmbench"
"""Name of the folder, beside the trainer, that holds runs and comparisons. Git ignores this folder."""
LOG, RESULT = "output.log", "run.json"
ENOUGH_DISK = 1 << 20


_FACTS = set(TrialFacts.model_fields) - {"reading"}


class Step(NamedTuple):
    """An event of one run."""

    arm: ArmName
    seed: int
    what: Literal["started", "waiting", "finished", "failed", "kept"]
    trial: FinishedTrial | FailedTrial | None = None
    log: Path | None = None


Tell = Callable[["Step | Verdict"], None]


def fill(command: str, seed: int, out: Path) -> str:
    """The command of one run: `command` with `{seed}` and `{out}` replaced.

    The path `out` is escaped, so that it stays one word for the shell, whether it is in quotes or not.
    """
    done, quote, place = "", "", 0
    command = command.replace(SEED, str(seed))
    while place < len(command):
        sign = command[place]
        if command.startswith(OUT, place):
            done += _QUOTED[quote](str(out))
            place += len(OUT)
            continue
        if sign == "\\" and quote != "'":
            sign = command[place : place + 2]
        elif sign == quote:
            quote = ""
        elif sign in "'\"" and not quote:
            quote = sign
        done += sign
        place += len(sign)
    return done


_QUOTED: dict[str, Callable[[str], str]] = {
    "": shlex.quote,
    "'": lambda text: text.replace("'", "'\\''"),
    '"': lambda text: re.sub(r'([\\"$`])', r"\\\1", text),
}


def _ending(code: int) -> str:
    """An exit code in words. A negative code is minus the number of the signal that ended the process."""
    if code > 0:
        return f"code {code}"
    with suppress(ValueError):  # a real-time signal has no name
        return signal.Signals(-code).name
    return f"signal {-code}"


class TrialStore:
    """Makes and keeps the runs of two arms. Its methods are called from one thread for each run."""

    def __init__(self, settings: Settings, arms: Arms, places: Places, folder: Path, tell: Tell) -> None:
        self.settings, self.arms, self.places, self.folder, self._tell = settings, arms, places, folder, tell
        self._session = secrets.token_hex(8)
        self.reading = settings.reading
        make_folder(folder)
        if not (folder / ".gitignore").exists():
            write_atomic(folder / ".gitignore", "*\n")

    def obtain(self, arm: ArmName, seed: int) -> FinishedTrial | FailedTrial:
        """The kept result of a run; if there is none, make the run, or wait for another process that is making it."""
        folder = self.place_of(arm, seed)
        make_folder(folder)
        lock = filelock.FileLock(folder / "lock", timeout=0)
        told = False
        while True:
            try:
                with lock:
                    return self._made(arm, seed, folder)
            except filelock.Timeout:
                if not told:
                    self._tell(Step(arm, seed, "waiting"))
                told = True
                if self.places.stopping.wait(0.2):
                    raise InterruptedRunError("interrupted") from None

    def _made(self, arm: ArmName, seed: int, folder: Path) -> FinishedTrial | FailedTrial:
        before = self.kept(arm, seed)
        if isinstance(before, FinishedTrial):
            self._tell(Step(arm, seed, "kept", before))
            return before
        trial = self._run(arm, seed, folder, 1 if before is None else before.tries + 1)
        write_atomic(folder / RESULT, TRIAL.dump_json(trial, indent=1))
        self._tell(Step(arm, seed, trial.status, trial))
        return trial

    def _run(self, arm: ArmName, seed: int, folder: Path, tries: int) -> FinishedTrial | FailedTrial:
        settings, out, log, cwd = self.settings, folder / "out", folder / LOG, self.arms.folders[arm]
        shutil.rmtree(out, ignore_errors=True)
        make_folder(out)

        environment = {"LLMBENCH_OUT": str(out)}
        if settings.seed_variable is not None:
            environment[settings.seed_variable] = str(seed)
        command = fill((self.arms.record if arm == "record" else self.arms.candidate).command, seed, out)
        began, since = now(), time.time()
        self._tell(Step(arm, seed, "started", log=log))
        ended = self.places.run(Request(command, cwd, environment, log, (), settings.timeout_s))
        if not log.exists():
            raise LlmbenchError(f"{folder} was removed while `{command}` ran; the trainer must not change {STORE}")
        tail = tail_of(read_log(log, 1 << 16))
        if settings.run is None and digest_of_folder(cwd)[0] != self.arms.record.sources:
            raise LlmbenchError(
                f"tracked files or Python files in {cwd} changed during a run, so it is not known which version of "
                f"the code ran; let the trainer write only into {OUT}; if you want to edit files while llmbench runs, "
                f"compare two git revisions"
            )
        self._refuse_what_is_no_result(command, ended, tail, folder)
        facts: dict[str, Any] = {
            "arm": arm,
            "seed": seed,
            "began": began,
            "wall_s": ended.wall_s,
            "cpu_s": ended.cpu_s,
            "tries": tries,
            "session": self._session,
            "machine": self.places.machine,
        }
        if ended.timed_out:
            reason = f"it took longer than the timeout, {settings.timeout}"
            return FailedTrial(status="failed", **facts, reading=self.reading, kind="timeout", reason=reason, tail=tail)
        if ended.code:
            reason = f"it ended with {_ending(ended.code)}{f': {tail[-1]}' if tail else ''}"
            return FailedTrial(status="failed", **facts, reading=self.reading, kind="crashed", reason=reason, tail=tail)
        return self._read(facts, folder, since)

    def _read(self, facts: dict[str, Any], folder: Path, since: float) -> FinishedTrial | FailedTrial:
        """The result of a run that exited with 0. Its numbers are read from its log and files as the settings say.

        A metric file that is older than `since`, the run's start in seconds since 1970, is ignored.
        """
        settings, log = self.settings, folder / LOG
        file = None
        if settings.metric_file is not None:
            named = settings.metric_file.replace(SEED, str(facts["seed"])).replace(OUT, str(folder / "out"))
            file = self.arms.folders[facts["arm"]] / named
        try:
            read = read_run(settings.metric, file, settings.also, settings.curve, log, since=since)
        except NoNumberError as error:
            reason = str(error).replace(str(file), settings.metric_file or "")
            tail = tail_of(read_log(log, 1 << 16))
            return FailedTrial(
                status="failed", **facts, reading=self.reading, kind="no_number", reason=reason, tail=tail
            )
        return FinishedTrial(status="finished", **facts, reading=self.reading, **read._asdict())

    def _refuse_what_is_no_result(self, command: str, ended: Ended, tail: tuple[str, ...], folder: Path) -> None:
        """Raises LlmbenchError if a run failed for a reason outside the trainer: an unknown command, a full disk, or a
        kill from outside."""
        if ended.timed_out or ended.code == 0:
            return
        end = tail[-1] if tail else "it printed nothing"
        if ended.code in NOT_FOUND and len(tail) <= 1:
            raise LlmbenchError(f"`{command}` cannot be started: {end}; try the command in a shell")
        if FULL in "\n".join(tail) or shutil.disk_usage(folder).free < ENOUGH_DISK:
            raise LlmbenchError(
                f"the disk is full, so `{command}` failed; free space and run the same command again (finished runs "
                f"are kept)"
            )
        if ended.code in (-signal.SIGKILL, 128 + signal.SIGKILL):  # the shell was killed, or a process that it started
            raise LlmbenchError(
                f"`{command}` was killed by signal 9 from outside, perhaps because memory ran out; try a smaller --jobs"
            )

    def kept(self, arm: ArmName, seed: int) -> FinishedTrial | FailedTrial | None:
        """The kept result of a run; None if there is none, or if its numbers must be read again from a metric file that
        a later run may have overwritten.

        If the settings that say how to read numbers have changed since the result was kept, its numbers are read again.
        """
        path = self.place_of(arm, seed) / RESULT
        if not path.is_file():
            return None
        try:
            found = TRIAL.validate_json(read_text(path))
        except ValidationError:  # the file is incomplete or from another version, so the run is made again
            return None
        found = found.model_copy(update={"arm": arm})
        if found.reading == self.reading or (isinstance(found, FailedTrial) and found.kind != "no_number"):
            return found
        if OUT not in (self.settings.metric_file or OUT):  # a later run may have overwritten the metric file
            return None
        again = self._read(found.model_dump(include=_FACTS), path.parent, 0.0)
        write_atomic(path, TRIAL.dump_json(again, indent=1))
        return again

    def place_of(self, arm: ArmName, seed: int) -> Path:
        """The folder of a run."""
        own = self.arms.record if arm == "record" else self.arms.candidate
        return self.folder / "runs" / self.key(own.command, own.sources, own.folder)[:12] / str(seed)

    def key(self, *words: str) -> str:
        """Digest of `words`, and of the machine and the settings that affect a run's number. The seed is left out."""
        settings = self.settings
        own = settings.model_dump_json(include={"seed_variable", "setup", "link"})
        machine = self.places.machine.model_dump_json() if self.places.executor == "local" else "ray"
        return sha256("\0".join([own, machine, *words]).encode())
