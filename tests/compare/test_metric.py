"""The number of a run: what is found, and what must not pass for one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness.compare.metric import NoNumberError, check_patterns, read_run
from harness.core.errors import LlmbenchError


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
        ("final", "METRIC final=1.5\rMETRIC final=1.25\r\n", 1.25),
        (r"loss ([0-9.]+)$", "loss 2.5\r\n", 2.5),
        (r"loss(?: ([0-9.]+))?", "loss 2.5\nno loss\n", 2.5),
        (r"loss ([0-9.]+)|done", "loss 2.5\ndone", 2.5),
        (r"loss ([0-9.]+)", "loss 2.5\nloss information\nloss nanoGPT", 2.5),
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
        ('{"eval": {"loss": ' + "9" * 400 + "}}", "is inf"),
        ("[" * 100_000, "has too many levels"),
        ('{"eval": {"other": 1}}', "is not in"),
        ("[1, 2", "neither JSON nor JSON lines"),
        ("\n", "is not in"),
    ],
)
def test_what_is_no_number_in_a_file_says_so(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(NoNumberError, match=words):
        value(tmp_path, "eval.loss", "", content)


def test_what_matches_and_is_no_number_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoNumberError, match=r"matched '3\.5\.1', which is not a number"):
        value(tmp_path, "loss ([0-9.]+)", "loss 3.5.1")


@pytest.mark.parametrize(
    ("printed", "words"), [("loss 1e308", r"is 1e\+308, which is beyond 1e\+100"), ("loss -1e400", "is -inf")]
)
def test_a_number_that_no_statistic_takes_is_none(tmp_path: Path, printed: str, words: str) -> None:
    with pytest.raises(NoNumberError, match=words):
        value(tmp_path, r"loss ([-+0-9.e]+)", printed)


def test_the_not_a_number_of_a_unit_is_found(tmp_path: Path) -> None:
    with pytest.raises(NoNumberError, match="is nan"):
        value(tmp_path, "took ([0-9.]+)s", "took 2s\ntook nans")


def test_a_further_number_that_is_none_is_left_out(tmp_path: Path) -> None:
    """It is shown and not judged, so it fails no run."""
    log = tmp_path / "log"
    log.write_text("loss 2.5 of 1e200 in x")
    also = {"word": "in (x)", "huge": "of ([0-9e]+)", "maybe": "in x(y)?", "there": "loss ([0-9.]+)"}
    found = read_run("loss ([0-9.]+)", None, also, r"(loss) ([0-9.]+)", log, since=0)
    assert found.also == {"there": 2.5}
    assert found.curve == ()


@pytest.mark.parametrize("pattern", ["(a{99999999999})", "(?:" * 3000 + "(a)" + ")" * 3000, "(a"])
def test_an_expression_that_cannot_be_used_says_so(pattern: str) -> None:
    with pytest.raises(LlmbenchError, match="is not a valid regular expression"):
        check_patterns(pattern, None, {}, None)


def test_two_seeds_with_the_same_last_number_but_other_numbers_before_are_two_runs(tmp_path: Path) -> None:
    logs = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    for log, text in zip(logs, ("loss 3.1\nloss 2.5", "loss 3.2\nloss 2.5", "loss 3.1\nloss 2.5\n"), strict=True):
        log.write_text(text)
    one, two, three = (read_run("loss ([0-9.]+)", None, {}, None, log, since=0).trace for log in logs)
    assert one != two
    assert one == three
