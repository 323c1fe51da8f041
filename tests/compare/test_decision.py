"""What the runs of a comparison say, whatever order they ended in, and what its file may not say beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from harness.compare.arms import Arm, ArmName, seeds_of
from harness.compare.comparison import Comparison, check_comparison, decide_trials
from harness.compare.settings import Settings, make_settings
from harness.compare.trial import FailedTrial, FinishedTrial
from harness.core.errors import LlmbenchError
from harness.core.project import sha256
from harness.lab.provenance import this_machine
from harness.rule.verdict import Verdict
from harness.show.compare import comparison_facts, comparison_sentence
from tests.make import ROOT

SETTINGS = Settings(record="a {seed}", candidate="b {seed}", metric="x", looks=(3, 5))
SEEDS: dict[ArmName, tuple[int, ...]] = {"record": (1, 2, 3, 4, 5), "candidate": (1, 2, 3, 4, 5)}
FACTS: dict[str, Any] = {
    "began": "2026-11-01T00:00:00Z",
    "wall_s": 1.0,
    "cpu_s": 1.0,
    "tries": 1,
    "session": "one",
    "machine": this_machine(),
    "reading": SETTINGS.reading,
}
Trials = list[FinishedTrial | FailedTrial]


def run(arm: ArmName, seed: int, value: float) -> FinishedTrial:
    return FinishedTrial(
        status="finished",
        arm=arm,
        seed=seed,
        value=value,
        also={},
        curve=(),
        trace=sha256(repr(value).encode()),
        **FACTS,
    )


def failed(arm: ArmName, seed: int) -> FailedTrial:
    return FailedTrial(status="failed", arm=arm, seed=seed, kind="crashed", reason="it broke", tail=(), **FACTS)


def arms(records: tuple[float, ...], candidates: tuple[float, ...]) -> Trials:
    found: Trials = [run("record", seed, value) for seed, value in enumerate(records, 1)]
    return found + [run("candidate", seed, value) for seed, value in enumerate(candidates, 1)]


def decide(trials: Trials) -> Verdict:
    return decide_trials(SETTINGS, SETTINGS.declared(), SEEDS, trials, None)


# --- which run ended first ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ([failed("record", 2), failed("candidate", 2)], ("undecided", "record_failed")),
        ([failed("candidate", 2), run("record", 2, 3.1234567)], ("rejected", "candidate_failed")),
        (
            [failed("candidate", 2), run("record", 2, 3.1234567), failed("record", 3), failed("candidate", 3)],
            ("rejected", "candidate_failed"),
        ),
        ([failed("candidate", 3), failed("record", 3)], ("undecided", "too_few_pairs")),  # its pair 2 is not known yet
        ([failed("candidate", 2)], ("undecided", "too_few_pairs")),  # the record may have failed too
    ],
)
def test_the_order_in_which_runs_end_does_not_count(last: Trials, expected: tuple[str, str]) -> None:
    """The file holds them by arm and seed, and a replay must say the same."""
    for order in permutations([*arms((3.2345678,), (3.1345678,)), *last]):
        found = decide([*order])
        assert (found.decision, found.reasons[0]) == expected


# --- equal numbers --------------------------------------------------------------------------------------------------


def test_accuracies_that_agree_by_chance_end_no_comparison() -> None:
    """Two seeds of a test set with a hundred examples often have the same accuracy."""
    assert decide(arms((0.85, 0.85), (0.85, 0.86))).reasons == ("too_few_pairs",)
    assert decide(arms((0.85, 0.85, 0.84), (0.85, 0.86, 0.87))).pairs == 3


def test_numbers_that_always_agree_end_it() -> None:
    assert decide(arms((0.85, 0.85, 0.85), (0.85, 0.86, 0.87))).reasons == ("seed_ignored",)
    assert decide(arms((0.85, 0.86, 0.84), (0.85, 0.86, 0.84))).reasons == ("identical",)


def test_two_numbers_of_many_digits_do_not_agree_by_chance() -> None:
    assert decide(arms((3.284117, 3.284117), (3.1, 3.2))).reasons == ("seed_ignored",)
    assert decide(arms((3.284117,), (3.284117,))).reasons == ("identical",)


# --- the file -------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """What verify says of a changed comparison."""
    record, candidate = (Arm(name=name, command=f"{name} {{seed}}", sources="0" * 64) for name in "ab")
    seeds = seeds_of(SETTINGS, record, candidate)
    values = {"record": (3.21, 3.24, 3.28), "candidate": (3.11, 3.14, 3.19)}
    trials = [run(arm, seed, value) for arm in seeds for seed, value in zip(seeds[arm], values[arm], strict=False)]
    declared = SETTINGS.declared()
    made = Comparison(
        llmbench="0", date="", settings=SETTINGS, declared=declared, record=record, candidate=candidate,
        added_statements=None, jobs=2, executor="local", record_seeds=seeds["record"],
        candidate_seeds=seeds["candidate"], runs=tuple(trials),
        verdict=decide_trials(SETTINGS, declared, seeds, trials, None),
    )  # fmt: skip
    content = json.loads(made.model_dump_json())
    change(content)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(content))
    return check_comparison(path)[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found["settings"].update(metric="y"), "their numbers were read with another metric"),
        (lambda found: found["record"].update(command="c {seed}"), "their commands are not those of the settings"),
        (lambda found: found["declared"].update(levels=[1.5, 0.008]), "are not those that the settings give"),
        (lambda found: found["declared"].update(futility_alpha=None), "are not those that the settings give"),
        (lambda found: found["declared"]["levels"].__setitem__(0, found["declared"]["levels"][0] * 1.005), "levels"),
    ],
)
def test_what_does_not_follow_is_found(tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    assert written(tmp_path, lambda found: None) == []
    assert any(words in problem for problem in written(tmp_path, change))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"looks": [3, 1000]}, "the last must be 50 or less"),
        ({"alpha": 1e-300}, "alpha"),
        ({"seed_variable": "A=B"}, "seed_variable"),
        ({"seeds": [1, 2, 2]}, "seeds must be 8 or more numbers, all different"),
    ],
)
def test_settings_that_no_statistic_takes_say_so(given: dict[str, object], words: str) -> None:
    with pytest.raises(LlmbenchError, match=words):
        make_settings({"record": "a {seed}", "candidate": "b {seed}", "metric": "x", **given})


def test_a_loss_that_explodes_is_shown_with_an_exponent() -> None:
    found, _ = check_comparison(ROOT / "docs" / "comparisons" / "nanogpt.json")
    wide = found.verdict.model_copy(update={"gain": -4.2e47, "ci_low": -1e49, "ci_high": 0.5})
    gain = dict(comparison_facts(found.model_copy(update={"verdict": wide})))["gain"]
    assert gain == "-4.2e+47, 98 % interval over all looks [-1e+49, +0.5]"


def test_the_worked_example_of_the_page_is_the_committed_comparison() -> None:
    found, problems = check_comparison(ROOT / "docs" / "comparisons" / "nanogpt.json")
    assert problems == []
    page = (ROOT / "docs" / "compare.md").read_text()
    arms = {name: found.arm(name) for name in found.seeds}
    for record, candidate in zip(arms["record"], arms["candidate"], strict=True):
        assert f"{record.seed:>10} {record.value:>7} {candidate.value:>10}" in page
    facts = dict(comparison_facts(found))
    for name in ("pairs", "gain", "p"):
        assert f"{name:<25} {facts[name]}" in page
    assert comparison_sentence(found.verdict) in page
    began = [datetime.fromisoformat(one.began).timestamp() for one in found.runs]
    ended = [start + one.wall_s for start, one in zip(began, found.runs, strict=True)]
    assert f"after {max(ended) - min(began):.0f} s of runs" in page
