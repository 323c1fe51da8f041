"""The number of a run: what is found, and what must not pass for one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness.compare.metric import NoNumberError, read_run


def value(tmp_path: Path, metric: str, printed: str, content: str | None = None) -> float:
    log, file = tmp_path / "log", tmp_path / "file.json"
    log.write_text(printed)
    if content is not None:
        file.write_text(content)
    return read_run(metric, None if content is None else file, {}, None, log, since=time.time()).value


@pytest.mark.parametrize(
    ("metric", "printed", "expected"),
    [
        (r"val loss ([0-9.]+)", "val loss 3.5\nval loss 3.25\n", 3.25),
        (r"val loss (\S+)", "val loss 3.5\rval loss 1e-3\r\n", 1e-3),
        (r"^(?:val|dev) loss[=: ]+(?P<number>-?[0-9.]+)$", "x\nval loss: -2.5\n", -2.5),
        (r"\(([0-9.]+)[)]", "loss (2.5)", 2.5),
        (r"[(]]?([0-9.]+)", "loss (2.5", 2.5),
        ("final", "METRIC final=1.5\nMETRIC other=9\nMETRIC final = 1.25", 1.25),
    ],
)
def test_the_last_match_is_the_number(tmp_path: Path, metric: str, printed: str, expected: float) -> None:
    assert value(tmp_path, metric, printed) == expected


@pytest.mark.parametrize("lost", ["nan", "NaN", "-nan", "inf", "Infinity"])
@pytest.mark.parametrize("metric", [r"val loss ([0-9.]+)", r"val loss (\S+)", r"loss (?:is )?([0-9]+[.][0-9]+)"])
def test_a_number_before_a_nan_is_no_number(tmp_path: Path, metric: str, lost: str) -> None:
    """A run that diverged at its end would otherwise keep its last good number."""
    with pytest.raises(NoNumberError, match="the last value of"):
        value(tmp_path, metric, f"step 1 val loss 3.5\nstep 2 val loss {lost}\n")
    assert value(tmp_path, metric, f"step 1 val loss {lost}\nstep 2 val loss 3.5\n") == 3.5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps({"eval": {"loss": 2}}), 2.0),
        ('{"eval": {"loss": 3}}\n{"train": 1}\n{"eval": {"loss": 2.5}}\n\n', 2.5),
    ],
)
def test_a_key_of_a_file_is_the_number(tmp_path: Path, content: str, expected: float) -> None:
    assert value(tmp_path, "eval.loss", "", content) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"eval": {"loss": NaN}}', "is nan"),
        ('{"eval": {"loss": "2.5"}}', "is '2.5'"),
        ('{"eval": {"loss": true}}', "is True"),
        ('{"eval": {"other": 1}}', "is not in"),
        ("[1, 2", "neither JSON nor JSON lines"),
        ("\n", "is not in"),
    ],
)
def test_what_is_no_number_in_a_file_says_so(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(NoNumberError, match=words):
        value(tmp_path, "eval.loss", "", content)


def test_what_matches_and_is_no_number_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoNumberError, match=r"matched '3\.5\.1', which is not one"):
        value(tmp_path, "loss ([0-9.]+)", "loss 3.5.1")


def test_two_seeds_with_the_same_last_number_but_other_numbers_before_are_two_runs(tmp_path: Path) -> None:
    logs = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    for log, text in zip(logs, ("loss 3.1\nloss 2.5", "loss 3.2\nloss 2.5", "loss 3.1\nloss 2.5\n"), strict=True):
        log.write_text(text)
    one, two, three = (read_run("loss ([0-9.]+)", None, {}, None, log, since=0).trace for log in logs)
    assert one != two
    assert one == three
