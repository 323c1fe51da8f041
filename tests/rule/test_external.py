"""`llmbench judge FILE`: public run tables by hand, lists that are wrong, looks, and how many seeds a gain needs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy

from harness.core.errors import LlmbenchError, UndecidedError
from harness.rule import external
from harness.rule.external import Judgement, Numbers, judge_numbers
from harness.rule.files.read import judge_file, read_numbers
from harness.rule.reasons import REASONS
from harness.show.report import judgement_facts, judgement_sentence


def judged(**fields: Any) -> Judgement:
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return judge_numbers(Numbers(**lists))


# Losses and seconds that KellerJordan/modded-nanogpt prints in the READMEs of its speed records, with the
# p-values that stand beside them there (scipy's one-sample t against 3.28, alternative "less").
FLASH_LOSS = [3.2769, 3.2782, 3.2790, 3.2791, 3.2791, 3.2780, 3.2782]
FLASH_TIME = [166.247, 166.117, 165.977, 166.135, 166.045, 166.044, 166.157]
MUON_LOSS = [3.2766, 3.2794, 3.2770, 3.2776, 3.2760, 3.2802, 3.2757]
MUON_TIME = [138.986, 138.838, 138.877, 138.905, 138.916, 138.846, 138.937]
TIME_BEFORE = [142.379, 142.156, 141.391, 142.374, 142.316]
FOUR_RUNS = [3.2796, 3.2781, 3.2798, 3.2793]


@pytest.mark.parametrize(
    ("values", "target", "printed", "decision"),
    [
        (FLASH_LOSS, 3.28, 0.0008, "accepted"),
        (FLASH_TIME, 166.25, 0.0024, "accepted"),
        (MUON_LOSS, 3.28, 0.0041, "accepted"),
        (FOUR_RUNS, 3.28, 0.0632, "rejected"),
    ],
)
def test_public_records_get_the_p_value_that_they_print(
    values: list[float], target: float, printed: float, decision: str
) -> None:
    found = judged(candidate=values, target=target)
    assert round(found.p_value or 0.0, 4) == printed
    assert (found.decision, found.test, found.n) == (decision, "one_sample_t", len(values))


def test_public_speed_record_against_its_predecessor_on_the_same_machine() -> None:
    found = judged(candidate=MUON_TIME, record=TIME_BEFORE)
    assert found.test == "welch_t"
    assert found.gain == pytest.approx(3.2225, abs=1e-4)  # "roughly a 3.22 second decrease"
    assert found.decision == "accepted"
    before, after = np.array(TIME_BEFORE), np.array(MUON_TIME)
    errors = before.var(ddof=1) / 5, after.var(ddof=1) / 7
    df = sum(errors) ** 2 / (errors[0] ** 2 / 4 + errors[1] ** 2 / 6)  # Welch and Satterthwaite, by hand
    t = (before.mean() - after.mean()) / math.sqrt(sum(errors))
    assert found.p_value == pytest.approx(scipy.stats.t.sf(t, df), rel=1e-9)


def test_higher_is_better_mirrors_the_gain() -> None:
    scores, baseline = [0.71, 0.72, 0.73], [0.60, 0.61, 0.59]
    up = judged(candidate=scores, record=baseline, lower_is_better=False)
    down = judged(candidate=[-s for s in scores], record=[-b for b in baseline])
    assert up == down
    assert up.gain == pytest.approx(0.12)


def test_margin_alpha_and_sigma_count() -> None:
    assert judged(candidate=[1.0, 1.1, 0.9], target=2.0).decision == "accepted"
    assert judged(candidate=[1.0, 1.1, 0.9], target=2.0, margin=0.95).decision == "rejected"
    assert judged(candidate=[1.0, 1.1, 0.9], target=2.0, alpha=0.001).decision == "rejected"
    assert judged(candidate=[1.0], target=2.0, sigma=0.1).test == "z"
    assert judged(candidate=[1.0], record=[2.0], sigma=0.1).test == "two_sample_z"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"candidate": [1.0], "target": 2.0}, "too_few_values"),
        ({"candidate": [1.0, 1.1], "record": [2.0, 2.1, 2.2], "paired": True}, "unequal_lengths"),
        ({"candidate": [1.0, 1.1], "target": 2.0, "candidate_seeds": [4, 4]}, "repeated_seeds"),
        (
            {"candidate": [1.0, 1.1], "record": [2.0, 2.2], "paired": True,
             "candidate_seeds": [1, 2], "record_seeds": [2, 1]},
            "mixed_seeds",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_is_undecided(fields: dict[str, Any], reason: str) -> None:
    found = judged(**fields)
    assert found.decision == "undecided"
    assert reason in found.reasons
    assert found.p_value is None
    assert set(found.reasons) <= set(REASONS)


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_csv_pairs_by_seed_whatever_the_order_of_lines(tmp_path: Path) -> None:
    lines = ["record,2,3.4", "candidate,1,3.0", "record,1,3.1", "candidate,2,3.2", "record,3,3.2", "candidate,3,3.05"]
    path = write(tmp_path, "runs.csv", "\ufeffarm,seed,value\n" + "\n".join(lines) + "\n")
    expected = scipy.stats.ttest_rel([3.1, 3.4, 3.2], [3.0, 3.2, 3.05], alternative="greater").pvalue
    found = judge_file(path, {"paired": True})
    assert (found.test, found.n) == ("paired_t", 3)
    assert found.p_value == pytest.approx(expected)
    assert judge_file(path).test == "paired_t"
    assert judge_file(path, {"paired": False}).test == "welch_t"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "arm,seed,value\ncandidate,1,1.0\ncandidate,1,1.1\nrecord,1,2.0\nrecord,2,2.1\n", "repeated_seeds"),
        ("a.csv", "arm,seed,value\ncandidate,1,nan\ncandidate,2,1.1\nrecord,1,2.0\nrecord,2,2.1\n", "not_finite"),
        ("a.json", '{"candidate": [NaN, 1.1], "target": 2.0}', "not_finite"),
        ("a.json", f'{{"candidate": [1{"0" * 400}, 1.0, 2.0], "target": 5.0}}', "not_finite"),
    ],
)
def test_a_file_whose_numbers_cannot_be_tested_is_undecided(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    assert judge_file(write(tmp_path, name, content)).reasons == (reason,)


def test_json_file_reads_every_key_and_options_override_it(tmp_path: Path) -> None:
    keys = {"candidate": [1, 1.5], "record": [2, 3.5], "paired": True, "margin": 0.1, "alpha": 0.05,
            "sigma": None, "lower_is_better": True}  # fmt: skip
    path = write(tmp_path, "runs.json", json.dumps(keys))
    assert read_numbers(path).numbers == Numbers(
        candidate=(1, 1.5), record=(2, 3.5), paired=True, margin=0.1, alpha=0.05
    )
    assert read_numbers(path, {"paired": False}).numbers.paired is False


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", '{"candidate": [1.0', "not valid JSON"),
        ("a.json", "[1.0]", "must contain either one JSON object"),
        ("a.json", '{"target": 1.0}', "key 'candidate' is missing"),
        ("a.json", '{"candidate": [1.0]}', "give either 'record'"),
        ("a.json", '{"candidate": [1.0], "record": [1.0], "target": 1.0}', "give either 'record'"),
        ("a.json", '{"candidate": [1.0], "target": 1.0, "margn": 1}', "unknown key 'margn' (did you mean 'margin'"),
        ("a.json", '{"candidate": [1.0], "target": 1.0, "paired": true}', "'paired' needs 'record'"),
        (
            "a.json",
            '{"candidate": [1.0], "record": [1.0], "paired": true, "sigma": 1.0}',
            "cannot be combined with 'paired'",
        ),
        ("a.json", '{"candidate": [1.0], "target": 1.0, "candidate_seeds": [1, 2]}', "one seed for each value"),
        ("a.json", '{"candidate": ["1.0"], "target": 1.0}', "candidate.0: "),
        ("a.json", '{"candidate": [null], "target": 1.0}', "candidate.0: "),
        ("a.json", '{"candidate": [1.0], "target": NaN}', "target: "),
        ("a.json", '{"candidate": [1.0], "target": 1.0, "alpha": 0.6}', "alpha: "),
        ("a.json", '{"candidate": [1.0], "target": 1.0, "sigma": 0}', "sigma: "),
        ("a.json", '{"candidate": [1.0], "target": 1.0, "paired": 1}', "paired: "),
        ("a.json", f'{{"candidate": [1{"0" * 5000}], "target": 5.0}}', "not valid JSON"),
        ("a.csv", "", "the first line must be 'arm,seed,value'"),
        ("a.csv", "arm,seed\ncandidate,1\n", "the first line must be 'arm,seed,value'"),
        ("a.csv", "arm,seed,value\nother,1,1.0\n", "line 2: 'other' is the only arm"),
        ("a.csv", "arm,seed,value\ncandidate,1\n", "line 2: expected 3 values"),
        ("a.csv", "arm,seed,value\ncandidate,1,2,3\n", "line 2: expected 3 values"),
        ("a.csv", "arm,seed,value\ncandidate,x,1.0\n", "line 2: 'x' is not a seed"),
        ("a.csv", "arm,seed,value\ncandidate,1,1_0\n", "line 2: '1_0' is not a number"),
        ("a.csv", 'arm,seed,value\ncandidate,1,"1.0\n', "not a valid CSV line"),
        ("a.csv", "arm,seed,value\nrecord,1,1.0\n", "key 'candidate' is missing"),
    ],
)
def test_a_wrong_file_ends_in_one_sentence(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    with pytest.raises(LlmbenchError) as error:
        judge_file(write(tmp_path, name, content))
    assert sentence in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_bytes_that_are_no_text_end_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name, words in (("none.json", "is missing"), ("binary.json", "is not UTF-8 text")):
        with pytest.raises(LlmbenchError, match=words):
            judge_file(tmp_path / name)


def test_looks_decide_as_the_first_look_that_decides_and_no_later_value_counts() -> None:
    generator = np.random.default_rng(0)
    wide = [float(value) for value in generator.normal(0, 0.01, 8)]
    record = [3.0 + value for value in wide]
    gained = [value - 0.2 + 0.001 * (-1) ** place for place, value in enumerate(record)]
    lost = [value + 0.2 + 0.001 * (-1) ** place for place, value in enumerate(record)]
    for candidate, decision, reason in ((gained, "accepted", "gain_shown"), (lost, "rejected", "hopeless")):
        for count in (3, 5, 6, 8):
            found = judged(candidate=candidate[:count], record=record[:count], paired=True, looks=[3, 5, 8])
            assert (found.decision, found.look, found.next_look, found.reasons[0]) == (decision, 1, None, reason)
            assert ("pairs_left_over" in found.reasons) is (count > 3)
            assert found.ci_low is not None
            assert (found.ci_low > 0) is (decision == "accepted")


def unclear(count: int, **more: Any) -> Numbers:
    """A small gain in much noise: no look but the last decides."""
    record = [3.0 + 0.01 * place for place in range(count)]
    candidate = [value - 0.004 + 0.01 * (-1) ** place for place, value in enumerate(record)]
    return Numbers(candidate=tuple(candidate), record=tuple(record), paired=True, looks=(3, 5, 8), **more)


def test_between_looks_the_sentence_says_how_many_pairs_are_missing() -> None:
    found = judge_numbers(unclear(5))
    assert (found.decision, found.look, found.next_look) == ("undecided", 2, 8)
    with pytest.raises(UndecidedError, match=r"looks \(tests\) at 5 and 8 pairs, and there are 6 pairs; add 2 for"):
        judge_numbers(unclear(6))
    for count in (1, 2):
        few = judge_numbers(unclear(count))
        assert (few.decision, few.reasons, few.next_look) == ("undecided", ("too_few_pairs",), 3)


def test_only_a_test_with_looks_speaks_of_the_last_look() -> None:
    last = judge_numbers(unclear(8))
    once = judge_numbers(unclear(8).model_copy(update={"looks": ()}))
    assert last.reasons[0] == once.reasons[0] == "not_shown"
    assert "last planned test" in judgement_sentence(last)
    assert "look" not in judgement_sentence(once)
    facts = dict(judgement_facts(last))
    assert "98 % interval over all looks" in facts["gain"]
    assert facts["look"] == "3 of 3, after 8 (declared: 3, 5, 8)"
    assert "look" not in str(judgement_facts(once))


def test_one_declared_look_is_the_test_itself() -> None:
    for count in (4, 6):
        numbers = unclear(count).model_copy(update={"looks": (count,)})
        one, other = judge_numbers(numbers), judge_numbers(numbers.model_copy(update={"looks": ()}))
        for key in ("p_value", "gain", "ci_low", "ci_high"):
            assert getattr(one, key) == pytest.approx(getattr(other, key), rel=1e-3), key
        assert (one.decision, one.reasons) == (other.decision, other.reasons)


@pytest.mark.parametrize(
    ("looks", "more", "words"),
    [
        ((3, 3), {}, "must increase"),
        ((1, 3), {}, "must increase"),
        ((3, 65), {}, "between 2 and 64"),
        ((3,), {"paired": False}, "need paired values"),
        ((3,), {"paired": False, "sigma": 0.1}, "cannot be combined; leave one of them out"),
        ((3,), {"alpha": 1e-7}, "'alpha' must be 1e-06 or more"),
    ],
)
def test_looks_that_cannot_be_are_refused(looks: tuple[int, ...], more: dict[str, Any], words: str) -> None:
    fields: dict[str, Any] = {"candidate": (1.0, 2.0), "record": (2.0, 3.0), "paired": True} | more
    with pytest.raises(ValueError, match=words):
        Numbers(looks=looks, **fields)


def test_looks_against_a_target_are_those_of_pairs_with_it() -> None:
    values = (3.1, 3.2, 3.15, 3.12)
    found = judge_numbers(Numbers(candidate=values, target=3.3, looks=(2, 4)))
    pairs = judge_numbers(Numbers(candidate=values, record=(3.3,) * 4, paired=True, looks=(2, 4)))
    assert found.test == "one_sample_t"
    assert (found.decision, found.look, found.p_value) == (pairs.decision, pairs.look, pairs.p_value)


def test_so_many_seeds_show_the_seen_gain_with_the_promised_chance_and_one_less_does_not() -> None:
    """Against scipy's own noncentral t."""
    for numbers in (unclear(8).model_copy(update={"looks": ()}), Numbers(candidate=(3.1, 3.3, 3.2), target=3.25)):
        found = judge_numbers(numbers)
        assert found.seeds_needed is not None
        assert found.gain is not None
        minus = np.array(numbers.record) if numbers.record is not None else np.array(numbers.target)
        deviation = float((minus - np.array(numbers.candidate)).std(ddof=1))

        def power(count: int, effect: float = found.gain / deviation) -> float:
            bar = scipy.stats.t.isf(0.01, count - 1)
            return float(scipy.stats.nct.sf(bar, count - 1, effect * math.sqrt(count)))

        if found.seeds_needed < external.NORMAL_DF:
            assert power(found.seeds_needed) >= 0.8 > power(found.seeds_needed - 1)
        assert f"about {found.seeds_needed} seeds" in dict(judgement_facts(found))["needs"]
    few, many = (2.9, 2.8, 3.0), (3.2, 3.21, 3.19, 3.2, 3.22, 3.2, 3.18, 3.2, 3.2)
    needed = [
        judge_numbers(Numbers(candidate=a, record=b, lower_is_better=lower, alpha=0.001)).seeds_needed
        for a, b, lower in ((few, many, True), (many, few, False))
    ]
    assert needed[0] == needed[1]
    assert needed[0] is not None
    assert len(few) < needed[0] < len(many)
    worse = judge_numbers(Numbers(candidate=(3.3, 3.4), target=3.25))
    assert (worse.decision, worse.seeds_needed) == ("rejected", None)
    hardly = judge_numbers(Numbers(candidate=(1.0, 2.0, 3.0), target=2.0001))
    assert hardly.seeds_needed == external.MOST_SEEDS
