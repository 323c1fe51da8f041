"""`judge` on what people have: arms, columns, rows, folders; the examples of docs/judge.md; files that are wrong."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.core.errors import LlmbenchError
from harness.rule.external import Judgement
from harness.rule.files import folders, read
from harness.rule.files.read import judge_file
from harness.rule.files.rows import Names
from tests.make import ROOT
from tests.sandbox import HERE

BASE, NEW = [3.20, 3.25, 3.22, 3.21], [3.10, 3.13, 3.14, 3.16]
ROWS = [(arm, seed, value) for seed in range(4) for arm, value in (("base", BASE[seed]), ("new", NEW[seed]))]
TABLE = "arm,seed,value\n" + "".join(f"{arm},{seed},{value}\n" for arm, seed, value in ROWS)
PAIRED = float(scipy_stats.ttest_rel(BASE, NEW, alternative="greater").pvalue)
WELCH = float(scipy_stats.ttest_ind(BASE, NEW, equal_var=False, alternative="greater").pvalue)
DOC = (ROOT / "docs" / "judge.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```\n\$ llmbench (judge [^\n]+)\n(.*?)```", DOC, re.DOTALL)


def write(folder: Path, content: str | bytes, name: str = "runs.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def judged(
    folder: Path, content: str, name: str = "runs.csv", names: dict[str, str] | None = None, **given: Any
) -> Judgement:
    return judge_file(
        write(folder, content, name), given, Names(**({"record_arm": "base"} if names is None else names))
    )


def lines(rows: Sequence[tuple[str, int, float]] = ROWS, **more: Any) -> str:
    return "\n".join(json.dumps({"arm": arm, "seed": seed, "value": value, **more}) for arm, seed, value in rows)


WIDE = "step; val loss ;seed;note;arm\n" + "".join(f"{9 if s else 'x'};{v}; {s} ;ab;{a}\n" for a, s, v in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("runs.csv", TABLE),
        ("runs.csv", TABLE.replace(",", " , ").replace("\n", "\r\n") + "\r\n , , \r\n,,\r\n"),
        ("runs.csv", TABLE.replace(",", ";")),
        ("runs.tsv", TABLE.replace(",", "\t")),
        ("runs.txt", "\ufeff" + TABLE.replace("value", "loss")),
        ("runs.csv", WIDE),
        ("runs.csv", re.sub(r",(\d),", r",\1.0,", TABLE)),  # seeds as pandas writes them
        ("runs.jsonl", lines()),
        ("runs.json", lines(step=100) + "\n\n"),
        ("runs", lines(step=100)),
    ],
)  # fmt: skip
def test_every_form_of_rows_gives_the_same_numbers(tmp_path: Path, name: str, content: str) -> None:
    found = judged(tmp_path, content, name)
    assert (found.test, found.paired, found.n) == ("paired_t", True, 4)
    assert found.p_value == pytest.approx(PAIRED, abs=1e-12)
    assert {"paired by seed: 4 seeds in both arms", "candidate 'new', record 'base'"} <= set(found.notes)
    assert ("values from the column 'val loss'" in found.notes) is ("val loss" in content)
    unpaired = judged(tmp_path, content, name, paired=False)
    assert unpaired.p_value == pytest.approx(WELCH, abs=1e-12)
    assert "not paired, as you asked" in unpaired.notes


def test_standard_input_is_read_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (TABLE, lines(), json.dumps({"candidate": NEW, "record": BASE, "paired": True})):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        names = Names() if "candidate" in text else Names(record_arm="base")
        assert judge_file(Path("-"), {}, names).p_value == pytest.approx(PAIRED, abs=1e-12)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(LlmbenchError, match="standard input is empty"):
        judge_file(Path("-"))


def test_which_arm_is_the_record_is_said_or_asked_for(tmp_path: Path) -> None:
    assert judged(tmp_path, TABLE, names={"candidate_arm": "new"}) == judged(tmp_path, TABLE)
    turned = judged(tmp_path, TABLE, names={"record_arm": "new"})
    assert turned.gain == pytest.approx(np.mean(NEW) - np.mean(BASE))
    three = TABLE + "third,1,9\n"
    found = judged(tmp_path, three, names={"record_arm": "base", "candidate_arm": "new"})
    assert found.p_value == pytest.approx(PAIRED)
    assert "arms left out: 'third'" in found.notes
    alone = judged(tmp_path, TABLE, names={"candidate_arm": "new"}, target=3.2)
    assert (alone.test, alone.n) == ("one_sample_t", 4)
    both = {"record_arm": "base", "arm_column": "what", "seed_column": "r", "value_column": "v"}
    assert judged(tmp_path, TABLE.replace("arm,seed,value", "what,r,v"), names=both).p_value == pytest.approx(PAIRED)


def test_seeds_in_no_arm_but_one_leave_the_arms_unpaired(tmp_path: Path) -> None:
    apart = re.sub(r"new,(\d)", r"new,1\1", TABLE)
    found = judged(tmp_path, apart)
    assert (found.test, found.p_value) == ("welch_t", pytest.approx(WELCH))
    assert "not paired, because no seed is in both arms" in found.notes
    assert judged(tmp_path, TABLE, sigma=0.02).test == "two_sample_z"
    with pytest.raises(LlmbenchError, match="seeds 10, 11, 12, 13 are missing from arm 'base'"):
        judged(tmp_path, apart, paired=True)


def test_a_repeated_seed_is_named_with_its_lines(tmp_path: Path) -> None:
    for more in ({}, {"paired": True}, {"looks": [2, 4]}):
        found = judged(tmp_path, TABLE.replace("base,2", "base,0"), **more)
        assert (found.decision, found.reasons[0], found.p_value) == ("undecided", "repeated_seeds", None)
        assert any("seed 0 occurs twice in arm 'base', in line 2 and line 6" in note for note in found.notes)


BAD: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    ("a.csv", TABLE, {}, "the arms are 'base', 'new'; say which one is the record, for example --record-arm base"),
    ("a.csv", TABLE + "x,1,1\n", {}, "there are 3 arms, 'base', 'new', 'x'; choose two"),
    ("a.csv", TABLE, {"record_arm": "bas"}, "--record-arm bas: there is no such arm (did you mean 'base'?)"),
    ("a.csv", TABLE, {"record_arm": "new", "candidate_arm": "new"}, "are both 'new'; name two arms"),
    ("a.csv", TABLE.replace("new,2,3.14\n", ""), {"record_arm": "base"}, "seed 2 is missing from arm 'new', but"),
    ("a.csv", TABLE.replace(",", "|"), {}, "line 1: the first line must be 'arm,seed,value'; these three names"),
    ("a.csv", TABLE.replace("arm,", "who,"), {}, "no column is named 'arm' (found 'who', 'seed', 'value')"),
    ("a.csv", WIDE.replace("x", "9"), {}, "'step', 'val loss' contain numbers; choose one of these with --value"),
    ("a.csv", TABLE, {"value_column": "valu"}, "--value-column valu: there is no such column (did you mean 'value'?)"),
    ("a.csv", TABLE.replace("seed", "value"), {}, "two columns are named 'value'"),
    ("a.csv", TABLE.replace("3.25", "3.2.5"), {}, "line 4: '3.2.5' is not a number"),
    ("a.csv", TABLE.replace(",", ";").replace("3.25", "3,25"), {}, "line 4: '3,25' is not a number; write 3.25"),
    ("a.csv", TABLE.replace("3.25", ""), {}, "line 4: there is no value; fill it in, or delete the line"),
    ("a.csv", TABLE.replace("base,1", "base,-1"), {}, "line 4: '-1' is not a seed"),
    ("a.csv", "arm,seed,value\n", {}, "no runs below the first line"),
    ("a.csv", " \n\n", {}, "a.csv is empty; the first line must be"),
    ("a.csv", TABLE, {"tag": "loss"}, "--tag does not apply to a table"),
    ("a.csv", b"PK\x03\x04\0\0", {}, "is not UTF-8 text: it contains a zero byte; save it as CSV or JSON"),
    ("a.csv", TABLE.encode("utf-16"), {}, "is not UTF-8 text"),
    ("a.csv", b"x" * (read.LARGEST_BYTES + 1), {}, "is larger than 32 MiB; give one line for each run"),
    ("a.csv", "x" * 200_000 + ",y\n", {}, "field larger than field limit"),
    ("a.jsonl", lines() + "\n[1]", {}, "line 9: must be one JSON object"),
    ("a.jsonl", lines() + '\n{"arm', {}, "line 9: not valid JSON"),
    ("a.jsonl", lines().replace('"base"', "[1]"), {}, "line 1: '[1]' cannot be the name of an arm"),
    ("a.jsonl", lines().replace("3.25", "true"), {}, "line 3: 'True' is not a number"),
    ("a.jsonl", lines().replace("3.25", "null"), {}, "line 3: there is no value"),
    ("a.json", "[" * 100_000, {}, "nested too deep"),
    ("a.json", '{"candidate": [1], "target": 2}', {"record_arm": "x"}, "--record-arm does not apply to a JSON file"),
    ("trainer_state.json", "{}", {}, "belongs to a single run; name a folder"),
    ("a.json", '{"log_history": []}', {}, "belongs to a single run; name a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "names", "sentence"), BAD, ids=[case[3][:60] for case in BAD])
def test_each_wrong_file_gets_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, names: dict[str, str], sentence: str
) -> None:
    with pytest.raises(LlmbenchError) as error:
        judge_file(write(tmp_path, content, name), {}, Names(**names))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e308", "-1e999", "1" + "0" * 400])
def test_a_number_that_is_none_gets_a_verdict(tmp_path: Path, value: str) -> None:
    for name, text in (("a.csv", TABLE), ("a.jsonl", lines())):
        found = judged(tmp_path, text.replace("3.25", value), name)
        assert (found.decision, found.reasons, found.seeds_needed) == ("undecided", ("not_finite",), None)


def states(folder: Path, arm: str, seed: int, *losses: object) -> Path:
    """A run's checkpoints, each with the history up to it."""
    for count in range(1, len(losses) + 1):
        history = [{"eval_loss": value, "step": 10 * place} for place, value in enumerate(losses[:count], start=1)]
        text = json.dumps({"global_step": 10 * count, "log_history": [*history, {"loss": 9.0, "step": 10 * count}]})
        path = write(folder / arm / f"seed{seed}" / f"checkpoint-{10 * count}", text, "trainer_state.json")
    return path


def test_the_furthest_checkpoint_of_each_run_counts(tmp_path: Path) -> None:
    for place, (base, new) in enumerate(zip(BASE, NEW, strict=True)):
        states(tmp_path, "base", place, 9.0, 8.0, base)
        last = states(tmp_path, "new", place, 9.0, 8.0, new)
    found = judge_file(tmp_path, {}, Names(record_arm="base"))
    assert (found.paired, found.p_value) == (True, pytest.approx(PAIRED, abs=1e-12))
    whole = json.loads(last.read_text())
    whole["log_history"].append({"eval_loss": 9.0})  # scored once more after the last checkpoint
    at_end = write(last.parent.parent / "final", json.dumps(whole), "trainer_state.json")
    assert judge_file(tmp_path, {}, Names(record_arm="base")).p_value != found.p_value
    at_end.unlink()
    shutil.rmtree(last.parent)
    assert any("from 20 (new/seed3) to 30" in note for note in judge_file(tmp_path, {}, Names(record_arm="base")).notes)
    for text, words in (
        ('{"log_history": [{"eval_loss": "x"}], "global_step": 99}', "'x', which is not a number"),
        ('{"log_history": [{"evalloss": 1}], "global_step": 99}', "there is no tag 'eval_loss' (did you mean"),
        ('{"log_history": 3}', "has no list 'log_history'"),
        ('{"log_history": [', "is not valid JSON"),
    ):
        write(last.parent, text, "trainer_state.json")
        with pytest.raises(LlmbenchError, match=re.escape(words)):
            judge_file(tmp_path, {}, Names(record_arm="base"))
    shutil.rmtree(tmp_path / "new" / "seed3")
    with pytest.raises(LlmbenchError, match="seed 3 is missing from arm 'new'"):
        judge_file(tmp_path, {}, Names(record_arm="base"))
    (tmp_path / "new" / "seed2").rename(tmp_path / "new" / "third")
    with pytest.raises(LlmbenchError, match="new/third has no seed in its name; name it like seed1, or use --unpaired"):
        judge_file(tmp_path, {}, Names(record_arm="base"))
    assert judge_file(tmp_path, {"paired": False}, Names(record_arm="base")).test == "welch_t"


def test_event_files_are_read_by_their_tag_and_a_folder_without_any_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = shutil.copytree(ROOT / "docs" / "examples" / "tensorboard", tmp_path / "runs")
    found = judge_file(runs, {}, Names(record_arm="base", tag="val/loss"))
    same = judge_file(ROOT / "docs" / "examples" / "trainer", {}, Names(record_arm="base"))
    assert found.p_value == pytest.approx(same.p_value or 0.0, rel=1e-4)  # event files hold 32 bits
    alone = judge_file(runs, {"target": 3.28}, Names(candidate_arm="squared", tag="val/loss"))
    assert alone.gain == pytest.approx(3.28 - (3.276 + 3.272 + 3.279) / 3, abs=1e-6)
    events = runs / "base" / "seed1" / "events.out.tfevents.1"
    with pytest.raises(LlmbenchError, match=r"its event files contain several tags.*'train/loss', 'val/loss'"):
        judge_file(runs, {}, Names(record_arm="base"))
    with pytest.raises(LlmbenchError, match=r"there is no tag 'val_loss' \(did you mean 'val/loss'"):
        judge_file(runs, {}, Names(record_arm="base", tag="val_loss"))
    write(events.parent / "again", events.read_bytes(), events.name)
    with pytest.raises(LlmbenchError, match=r"'again', '\.' all contain 'val/loss'; keep one of them"):
        judge_file(runs, {}, Names(record_arm="base", tag="val/loss"))
    shutil.rmtree(events.parent / "again")
    for content in (b"", bytes(range(256)) * 9):
        events.write_bytes(content)
        with pytest.raises(LlmbenchError, match="base/seed1: its event files contain no scalars"):
            judge_file(runs, {}, Names(record_arm="base", tag="val/loss"))
    events.unlink()
    with pytest.raises(LlmbenchError, match="base/seed1 contains neither"):
        judge_file(runs)
    with pytest.raises(LlmbenchError, match="contains no runs; it must contain one folder for the record's runs"):
        judge_file(events.parent)
    monkeypatch.setattr(folders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LlmbenchError, match="run `pip install tensorboard`"):
        judge_file(ROOT / "docs" / "examples" / "tensorboard", {}, Names(record_arm="base"))


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_the_page_shows_is_what_the_program_prints(command: str, shown: str) -> None:
    done = HERE(*command.split(), environment={"COLUMNS": "110"})
    assert [line.rstrip() for line in done.stdout.splitlines()] == shown.splitlines(), done.stderr


def test_the_page_has_an_example_of_every_form() -> None:
    named = {Path(command.split()[1]).name for command, _ in SHOWN}
    assert named == {path.name for path in (ROOT / "docs" / "examples").iterdir()}
