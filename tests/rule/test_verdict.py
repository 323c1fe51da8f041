"""The rule: properties that no set of pairs may break, and one contest for every reason code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError
from harness.core.runs import FailedRun, FinishedRun, Machine, Pair
from harness.core.track import Rule
from harness.rule.comparable import comparability_problems
from harness.rule.criteria import LEAST_CPU_S, Lane
from harness.rule.reasons import REASONS, WORDS, explain
from harness.rule.verdict import Verdict, decide, decide_arms, failed_verdict, screen
from tests.make import RULE, STORED, TOKENS, contests, make_pairs, make_run, steps

lanes = st.sampled_from(["loss", "loss", "speed", "simplicity"])
hows = st.fixed_dictionaries({"rule": st.just(RULE), "lane": lanes, "added_statements": st.integers(-40, 40)})
How = dict[str, Any]


def moved(pairs: Sequence[Pair], change: Callable[[FinishedRun], float], arms: str = "both") -> list[Pair]:
    """The pairs with new val losses: `change(run)` of both arms, or of the candidate alone."""

    def new(run: FinishedRun) -> FinishedRun:
        evaluation = run.evaluation.model_copy(update={"nats": change(run) * TOKENS})
        return run.model_copy(update={"evaluation": evaluation})

    return [Pair(new(pair.record) if arms == "both" else pair.record, new(pair.candidate)) for pair in pairs]


def numbers(verdict: Verdict) -> tuple[Any, ...]:
    return (verdict.decision, verdict.reasons, verdict.look, verdict.p_value, verdict.gain, verdict.ci_low)


@given(pairs=contests(), how=hows, shift=steps)
def test_shifting_both_arms_changes_nothing(pairs: list[Pair], how: How, shift: float) -> None:
    before = decide(pairs, **how)
    after = decide(moved(pairs, lambda run: run.evaluation.val_loss + shift), **how)
    assert (after.decision, after.reasons, after.look) == (before.decision, before.reasons, before.look)
    assert after.p_value == (None if before.p_value is None else pytest.approx(before.p_value, abs=1e-12))


@given(pairs=contests(), how=hows, scale=st.sampled_from([0.25, 2.0, 64.0]))
def test_scaling_losses_and_their_margins_changes_nothing(pairs: list[Pair], how: How, scale: float) -> None:
    rule = how["rule"]
    in_units = {"loss_per_statement": rule.loss_per_statement * scale, "loss_tolerance": rule.loss_tolerance * scale}
    scaled = moved(pairs, lambda run: run.evaluation.val_loss * scale)
    before, after = decide(pairs, **how), decide(scaled, **how | {"rule": rule.model_copy(update=in_units)})
    assert numbers(after)[:4] == numbers(before)[:4]


@given(pairs=contests(), how=hows, random=st.randoms(use_true_random=False))
def test_permuting_pairs_within_the_look_changes_nothing(pairs: list[Pair], how: How, random: Any) -> None:
    if len(pairs) >= 2:
        how = how | {"rule": how["rule"].model_copy(update={"looks": (len(pairs),), "levels": (0.01,)})}
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    before, after = decide(pairs, **how), decide(shuffled, **how)
    assert (after.decision, after.reasons) == (before.decision, before.reasons)
    assert after.p_value == (None if before.p_value is None else pytest.approx(before.p_value, rel=1e-9, abs=1e-12))


@settings(max_examples=200)
@given(pairs=contests(gains=[0.0625, 0.125]), how=hows, more=steps)
def test_a_larger_gain_never_turns_accept_into_reject(pairs: list[Pair], how: How, more: float) -> None:
    better = moved(pairs, lambda run: run.evaluation.val_loss - more, arms="candidate")
    before, after = decide(pairs, **how), decide(better, **how)
    order = ["rejected", "undecided", "accepted"]
    assert after.decision == "accepted" or before.decision != "accepted"
    if before.look == after.look:
        assert order.index(after.decision) >= order.index(before.decision)


@given(pairs=contests(), how=hows)
def test_swapping_the_arms_never_accepts_both(pairs: list[Pair], how: How) -> None:
    swapped = [Pair(pair.candidate, pair.record) for pair in pairs]
    there, back = decide(pairs, **how), decide(swapped, **how | {"added_statements": -how["added_statements"]})
    assert not (there.decision == back.decision == "accepted")


@given(pairs=contests(largest=8), more=contests(largest=9), how=hows)
def test_a_verdict_is_final(pairs: list[Pair], more: list[Pair], how: How) -> None:
    first = decide(pairs, **how)
    assume(first.look > 0 and first.next_look is None)
    later = decide(pairs + more[len(pairs) :], **how)
    assert later.decision == first.decision
    assert (later.look, later.pairs, later.p_value) == (first.look, first.pairs, first.p_value)


finite = st.one_of(st.just(0.0), st.floats(0, 16), st.floats(min_value=0, allow_nan=False, allow_infinity=False))


@settings(max_examples=500)
@given(
    values=st.lists(st.tuples(finite, finite, finite, finite), max_size=9),
    lane=lanes,
    added=st.integers(-(9**9), 9**9),
)
def test_no_finite_numbers_raise(values: list[tuple[float, float, float, float]], lane: Lane, added: int) -> None:
    pairs = make_pairs([v[0] / TOKENS for v in values], [v[1] / TOKENS for v in values], [(v[2], v[3]) for v in values])
    verdict = decide(pairs, RULE, added_statements=added, lane=lane)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert all(code in REASONS for code in verdict.reasons)


@given(pairs=contests(gains=[0.0, 0.0625, -0.0625]), added=st.integers(-40, 40), shift=steps, more=steps)
def test_a_screen_never_accepts_and_a_larger_gain_never_drops_what_passed(
    pairs: list[Pair], added: int, shift: float, more: float
) -> None:
    found = screen(pairs, RULE, added_statements=added)
    assert found.decision != "accepted"
    assert found.p_value is None
    shifted = screen(moved(pairs, lambda run: run.evaluation.val_loss + shift), RULE, added_statements=added)
    assert (shifted.decision, shifted.reasons, shifted.look) == (found.decision, found.reasons, found.look)
    better = moved(pairs, lambda run: run.evaluation.val_loss - more, arms="candidate")
    if "screen_passed" in found.reasons:
        assert screen(better, RULE, added_statements=added).reasons == ("screen_passed",)


# --- one contest for every reason code -------------------------------------------------------------

RECORD = [3.5, 3.516, 3.492, 3.51, 3.504, 3.526, 3.497, 3.48]
NOISE = [0.0, 0.002, -0.001, 0.001, 0.003, -0.002, 0.0, 0.001]


def contest(gain: float, num: int = 8, scatter: float = 1.0, times: tuple[float, float] = (10.0, 10.0)) -> list[Pair]:
    """`num` pairs with a mean gain close to `gain` nats."""
    candidate = [r - gain + scatter * noise for r, noise in zip(RECORD, NOISE, strict=True)]
    jitter = [(times[0], times[1] * (1 + noise / 10)) for noise in NOISE]
    return make_pairs(RECORD[:num], candidate[:num], jitter[:num])


def changed(num: int = 3, arms: str = "candidate", **changes: Any) -> list[Pair]:
    """A clear winner whose last pair is made differently: `arms` is `candidate` or `both`."""
    pairs = contest(0.05, num)
    last = num - 1
    usual = {"recipe": "base", "seed": last, "val_loss": 3.5}
    record = make_run(**(usual | (changes if arms == "both" else {})))
    candidate = make_run(**(usual | {"recipe": "base+idea"} | changes))
    return [*pairs[:last], Pair(record, candidate)]


def scored(pairs: Sequence[Pair], *candidate_s: float | None, wall_s: float = 1.0) -> list[Pair]:
    """The pairs with the processor time that scoring val took: 1 s in the record, `candidate_s` in turn."""

    def new(run: FinishedRun, cpu_s: float | None) -> FinishedRun:
        times = {"eval_cpu_s": cpu_s, "eval_s": wall_s if run.recipe != "base" else 1.0}
        return run.model_copy(update={"evaluation": run.evaluation.model_copy(update=times)})

    return [
        Pair(new(pair.record, 1.0), new(pair.candidate, candidate_s[place % len(candidate_s)]))
        for place, pair in enumerate(pairs)
    ]


def resumed(pairs: Sequence[Pair], *places: int) -> list[Pair]:
    """The pairs at `places` with a candidate that went on from a checkpoint, a thousand times slower."""

    def new(run: FinishedRun) -> FinishedRun:
        changes = {"resumed": True, "train_s": 1000 * run.training.train_s}
        return run.model_copy(update={"training": run.training.model_copy(update=changes)})

    return [Pair(p.record, new(p.candidate)) if place in places else p for place, p in enumerate(pairs)]


def arm_after_arm(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with all runs of the candidate trained after those of the record."""

    def later(run: FinishedRun, hour: int) -> FinishedRun:
        ended = f"2026-11-22T{hour}:00:{run.seed:02d}Z"
        return run.model_copy(update={"training": run.training.model_copy(update={"ended": ended})})

    return [Pair(later(pair.record, 10), later(pair.candidate, 11)) for pair in pairs]


Case = tuple[str, str, list[Pair], dict[str, Any]]
TWO_LOST = [r - gain for r, gain in zip(RECORD, [-0.002, -0.002, 0.05, 0.051, 0.05, 0.049, 0.05, 0.05], strict=True)]
FLAT_GAIN = [r - gain for r, gain in zip(RECORD, [0.05, 0.051, 0.05, 0.049, 0.05, 0.05, 0.05, 0.05], strict=True)]
FLAT = [r - 0.0625 for r in (3.5, 3.75, 3.25, 3.0, 3.125, 3.375, 3.625, 3.875)]
UNSURE_TIME = [(10.0, 10.0), (10.0, 14.0), (10.0, 8.0)]
"""Of a limit of 10 %: on average under it, and not clearly so."""
OTHER_MACHINE = Machine(cpu="y", cores=4, memory_gib=8, os="Linux", python="3.11")
APART = arm_after_arm(contest(0.05))
CASES: list[Case] = [
    ("gain_shown", "accepted", contest(0.05), {}),
    ("pairs_left_over", "accepted", contest(0.05), {}),
    ("fewer_statements", "accepted", contest(0.05), {"added_statements": -5}),
    ("fewer_statements", "rejected", contest(-0.001), {"added_statements": -5}),
    ("simpler_and_no_worse", "accepted", contest(-0.001), {"added_statements": -5, "lane": "simplicity"}),
    ("gain_shown", "accepted", contest(-0.001, times=(10, 9)), {"added_statements": 5, "lane": "speed"}),
    ("hopeless", "rejected", contest(-0.05), {}),
    ("identical", "rejected", make_pairs(RECORD, RECORD), {}),
    ("hopeless", "rejected", contest(0.05), {"added_statements": 1000}),
    ("not_shown", "rejected", contest(0.01, scatter=10), {}),
    ("loss_worse", "rejected", contest(-0.05, times=(10, 9)), {"lane": "speed"}),
    ("loss_worse", "rejected", contest(-0.015, scatter=3), {"added_statements": -5, "lane": "simplicity"}),
    ("too_slow", "rejected", contest(0.05, times=(10, 12)), {}),
    ("time_unclear", "undecided", make_pairs(RECORD[:3], FLAT_GAIN[:3], UNSURE_TIME), {}),
    ("evaluation_time_unclear", "undecided", scored(contest(0.05, 3), 1.0, 1.4, 0.8), {}),
    ("too_slow", "rejected", contest(0.0, times=(10, 12)), {"added_statements": -5, "lane": "simplicity"}),
    ("slow_evaluation", "rejected", scored(contest(0.05), 1.2), {}),
    ("slow_evaluation", "rejected", scored(contest(-0.001, times=(10, 9)), 3.0), {"lane": "speed"}),
    ("slow_evaluation", "rejected", scored(contest(0.0), 1.2), {"added_statements": -5, "lane": "simplicity"}),
    ("resumed_runs", "undecided", resumed(contest(0.05), 0, 1, 2, 3, 4, 5), {}),
    ("resumed_runs", "undecided", resumed(contest(0.0, times=(10, 9)), 0, 1, 2, 3, 4, 5), {"lane": "speed"}),
    ("mixed_clocks", "undecided", [*scored(contest(0.05, 2), None), *scored(contest(0.05, 3), 1.0)[2:]], {}),
    ("not_simpler", "rejected", contest(0.05), {"lane": "simplicity"}),
    ("too_few_pairs", "undecided", contest(0.05, 2), {}),
    ("too_few_pairs", "undecided", [], {}),
    ("needs_more_pairs", "undecided", contest(0.01, 3, scatter=5), {}),
    ("zero_variance", "undecided", make_pairs([f + 0.0625 for f in FLAT], FLAT), {}),
    ("zero_variance", "rejected", make_pairs(FLAT, [f + 0.0625 for f in FLAT]), {}),
    ("mixed_tracks", "undecided", changed(training_digest="f" * 64), {}),
    ("mixed_tracks", "undecided", changed(arms="both", training_digest="f" * 64), {}),
    ("mixed_code", "undecided", changed(code_digest="f" * 64), {}),
    ("mixed_machines", "undecided", changed(arms="both", machine=OTHER_MACHINE), {}),
    ("mixed_threads", "undecided", changed(threads=2), {}),
    ("mixed_packages", "undecided", changed(packages={"torch": "2.12.0"}), {}),
    ("mixed_recipes", "undecided", changed(recipe="base+other"), {}),
    ("mixed_recipes", "undecided", changed(sources={"idea": "f" * 64}), {}),
    ("mixed_seeds", "undecided", changed(seed=7), {}),
    ("repeated_seeds", "undecided", changed(arms="both", seed=0), {}),
    ("mixed_load", "undecided", changed(jobs=2), {}),
    ("shared_machine", "undecided", changed(arms="both", jobs=2), {"lane": "speed"}),
    ("not_interleaved", "undecided", APART, {"lane": "speed"}),
    ("not_interleaved", "undecided", APART, {"added_statements": -1, "lane": "simplicity"}),
    ("gain_shown", "accepted", APART, {}),  # order in time matters only where time is judged
    ("no_time", "undecided", changed(train_s=0.0), {}),
    ("not_finite", "undecided", changed(val_loss=1e101), {}),
    ("sign_flip_disagrees", "accepted", make_pairs(RECORD, TWO_LOST), {}),
]


@pytest.mark.parametrize(("seconds", "parted"), [("0112", False), ("0000", False), ("0011", False), ("0213", True)])
def test_runs_that_ended_in_one_second_may_be_in_either_order(seconds: str, parted: bool) -> None:
    """Seed 5's two runs, then seed 3's: sorted by seed, those of the second in the middle would be parted."""
    ended = [f"2026-11-22T10:00:0{second}Z" for second in seconds]
    records = [make_run("base", 5, 3.5, ended=ended[0]), make_run("base", 3, 3.6, ended=ended[2])]
    candidates = [make_run("base+idea", 5, 3.4, ended=ended[1]), make_run("base+idea", 3, 3.5, ended=ended[3])]
    found = comparability_problems(records, candidates, timed=True)
    assert ("not_interleaved" in found) is parted
    again = [run.model_copy(update={"seed": 5}) for run in (*records, *candidates)]
    assert "repeated_seeds" in comparability_problems(again[:2], again[2:], timed=True)


@pytest.mark.parametrize(("code", "decision", "pairs", "how"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_each_reason_code_has_its_contest(code: str, decision: str, pairs: list[Pair], how: dict[str, Any]) -> None:
    verdict = decide(pairs, RULE, **({"added_statements": 0} | how))
    assert code in verdict.reasons
    assert verdict.decision == decision
    if code.startswith(("mixed", "repeated", "shared")):
        assert verdict.details
        assert verdict.gain is None


FROM_THE_SCREEN = {"screened_out", "screen_passed", "needs_more_runs"}
FROM_STORED_RUNS = {"equal_spread_assumed"}
FROM_FAILED_RUNS = {"candidate_failed", "hopeless_start", "record_failed", "run_interrupted"}
FROM_THE_BOARD = {"stale_record"}  # tests/board/test_pull_request.py
FROM_NUMBERS = {"too_few_values", "unequal_lengths", "bad_sigma", "bad_alpha"}  # `judge FILE` alone gives them

FROM_A_TRAINER = {"seed_ignored"}  # `compare` alone: tests/compare


def test_every_reason_code_is_tested_and_explained() -> None:
    elsewhere = FROM_THE_SCREEN | FROM_STORED_RUNS | FROM_FAILED_RUNS | FROM_THE_BOARD | FROM_NUMBERS | FROM_A_TRAINER
    assert {case[0] for case in CASES} | elsewhere == set(REASONS)
    for judged, own in WORDS.items():
        sentences = [explain(code, judged) for code in REASONS]
        assert all(sentence.endswith(".") and "{" not in sentence for sentence in sentences)
        assert all(any(word in sentence for sentence in sentences) for word in own.values()), "a word that is not used"
    with pytest.raises(LlmbenchError, match="did you mean 'hopeless'"):
        explain("hopless")


@pytest.mark.parametrize(
    ("gains", "code", "look", "next_look"),
    [
        ([], "needs_more_runs", 0, 1),
        ([0.06], "screen_passed", 1, None),  # 3.8 of the unit, 1/64
        ([-0.02], "screened_out", 1, None),
        ([0.01], "needs_more_runs", 1, 2),
        ([0.03, 0.03], "screen_passed", 2, None),
        ([0.01, -0.01], "screened_out", 2, None),
        ([0.01, 0.01], "needs_more_runs", 2, 4),
        ([0.01, 0.01, 0.02, 0.02], "screen_passed", 3, None),
        ([0.01, 0.01, 0.0, 0.0], "screened_out", 3, None),
        ([-0.02, 0.5, 0.5, 0.5], "screened_out", 1, None),  # a look's word is final
    ],
)
def test_a_screen_drops_passes_or_goes_on(gains: list[float], code: str, look: int, next_look: int | None) -> None:
    pairs = make_pairs([3.5] * len(gains), [3.5 - gain for gain in gains])
    verdict = screen(pairs, RULE, added_statements=0)
    assert (verdict.reasons, verdict.look, verdict.next_look) == ((code,), look, next_look)
    assert (verdict.stage, verdict.decision) == ("screen", "rejected" if code == "screened_out" else "undecided")
    if look:
        assert verdict.units == pytest.approx(verdict.gain / RULE.noise_nats)


def test_the_price_of_code_counts_in_a_screen() -> None:
    pairs = make_pairs([3.5], [3.45])
    cheap, dear = (screen(pairs, RULE, added_statements=added) for added in (0, 400))
    assert (cheap.reasons, dear.reasons) == (("screen_passed",), ("needs_more_runs",))


def test_a_screen_compares_runs_of_any_load() -> None:
    pairs = [Pair(pair.record, make_run("base+idea", pair.record.seed, 3.4, jobs=2)) for pair in contest(0.05, 1)]
    assert screen(pairs, RULE, added_statements=0).reasons == ("screen_passed",)
    assert "mixed_load" in decide(pairs, RULE, added_statements=0).reasons


@pytest.mark.parametrize("stage", ["screen", "confirmation"])
def test_a_candidate_that_changes_nothing_is_told_so_after_one_run(stage: Any) -> None:
    records, candidates = (
        [getattr(p, arm) for p in make_pairs(RECORD[:1], RECORD[:1])] for arm in ("record", "candidate")
    )
    verdict = decide_arms(records, candidates, RULE, added_statements=3, lane="loss", stage=stage).verdict
    assert (verdict.decision, verdict.reasons, verdict.pairs) == ("rejected", ("identical",), 1)
    for lane in ("speed", "simplicity"):  # there equal losses are no fault
        other = decide_arms(records, candidates, RULE, added_statements=-3, lane=lane, stage="confirmation").verdict
        assert "identical" not in other.reasons


def stored(gain: float, num: int, scatter: float = 1.0) -> Verdict:
    """A confirmation against eight stored runs of the record."""
    records = [make_run("base", seed, value) for seed, value in enumerate(RECORD)]
    values = [r - gain + scatter * noise for r, noise in zip(RECORD, NOISE, strict=True)]
    candidates = [make_run("base+idea", 100 + place, values[place]) for place in range(num)]
    return decide_arms(records, candidates, STORED, added_statements=0, lane="loss", stage="confirmation").verdict


def test_candidate_runs_are_compared_with_stored_runs_where_a_track_says_so() -> None:
    clear, none = stored(0.1, 3), stored(-0.02, 3)
    assert (clear.decision, clear.design, clear.pairs) == ("accepted", "stored", 3)
    assert "equal_spread_assumed" in clear.reasons
    assert (none.decision, none.reasons[0]) == ("rejected", "hopeless")
    assert stored(0.1, 2).reasons == ("too_few_pairs",)
    waits = stored(0.02, 3)
    assert (waits.decision, waits.next_look) == ("undecided", 4)


def test_a_failed_run_ends_the_row_of_candidates_that_meet_stored_runs() -> None:
    records = [make_run("base", seed, value) for seed, value in enumerate(RECORD)]
    ran = [make_run("base+idea", 100 + place, RECORD[place] - 0.1) for place in range(4)]
    fields = {name: getattr(ran[0], name) for name in FailedRun.model_fields if name not in ("status", "reason")}
    failed = FailedRun(**fields, status="diverged", reason="loss is NaN at step 7")
    how = {"added_statements": 0, "lane": "loss", "stage": "confirmation"}
    decided = decide_arms(records, [failed, *ran[1:]], STORED, **how)
    assert (decided.verdict.decision, decided.verdict.reasons) == ("rejected", ("candidate_failed",))
    assert decided.candidates == ()


def test_resumed_runs_are_compared_in_no_time_with_stored_runs_either() -> None:
    records = [make_run("base", seed, value) for seed, value in enumerate(RECORD)]
    slow = [make_run("base+idea", 100 + place, RECORD[place] - 0.1, train_s=1000.0) for place in range(4)]
    ran = [run.model_copy(update={"training": run.training.model_copy(update={"resumed": True})}) for run in slow]
    how = {"added_statements": 0, "lane": "loss", "stage": "confirmation"}
    assert decide_arms(records, slow, STORED, **how).verdict.reasons[0] == "too_slow"
    assert decide_arms(records, ran, STORED, **how).verdict.reasons[0] == "resumed_runs"


def test_a_track_without_a_screen_screens_nothing() -> None:
    for change in ({"noise_nats": None}, {"screen_looks": (), "screen_pass": (), "screen_drop": ()}):
        with pytest.raises(LlmbenchError, match="has no screen"):
            screen(contest(0.05, 1), RULE.model_copy(update=change), added_statements=0)


def test_a_track_whose_levels_do_not_spend_its_alpha_decides_nothing() -> None:
    loose = RULE.model_copy(update={"levels": (0.002, 0.003, 0.004, 0.006)})
    with pytest.raises(LlmbenchError, match=r"multiply each of rule.levels by about 0\.82"):
        decide(contest(0.05), loose, added_statements=0)


def test_a_busy_machine_costs_more_pairs_and_no_early_rejection() -> None:
    times = [(10.0, 10.1), (10.0, 13.0), (10.0, 10.0), (10.0, 9.9), (10.0, 10.1), (10, 10), (10, 10), (10, 10)]
    winner = contest(0.05)
    busy = make_pairs(
        [p.record.evaluation.val_loss for p in winner], [p.candidate.evaluation.val_loss for p in winner], times
    )
    early = decide(busy[:3], RULE, added_statements=0)
    assert (early.decision, early.reasons, early.next_look) == ("undecided", ("time_unclear",), 4)
    assert decide(busy, RULE, added_statements=0).decision == "accepted"


def test_at_the_last_look_the_mean_time_decides() -> None:
    winner = contest(0.05)
    arms = [[getattr(p, arm).evaluation.val_loss for p in winner] for arm in ("record", "candidate")]
    for mean, decision in ((1.09, "accepted"), (1.11, "rejected")):
        scattered = [(10.0, 10.0 * mean * factor) for factor in (1.3, 1 / 1.3) * 4]
        verdict = decide(make_pairs(*arms, scattered), RULE, added_statements=0)
        assert (verdict.decision, verdict.look) == (decision, 4)
        assert (verdict.reasons[0] == "too_slow") == (decision == "rejected")


def test_on_a_cpu_processor_time_is_judged_and_on_a_gpu_wall_time() -> None:
    gpu = Machine(cpu="x", cores=2, memory_gib=8, os="Linux", python="3.11", gpu="NVIDIA H100, bfloat16")

    def waiting(run: FinishedRun) -> FinishedRun:
        training = run.training.model_copy(update={"train_s": run.training.train_s * 2})
        return run.model_copy(update={"training": training})

    pairs = [Pair(pair.record, waiting(pair.candidate)) for pair in contest(0.05)]
    on_gpu = [
        Pair(*(r.model_copy(update={"provenance": r.provenance.model_copy(update={"machine": gpu})}) for r in pair))
        for pair in pairs
    ]
    assert decide(pairs, RULE, added_statements=0).decision == "accepted"
    assert decide(on_gpu, RULE, added_statements=0).reasons[0] == "too_slow"


def test_time_at_the_exam_is_judged_like_training_time() -> None:
    slow, equal = (decide(scored(contest(0.05), *times), RULE, added_statements=0) for times in ((3.0,), (1.0, 1.01)))
    assert (slow.decision, slow.reasons[0]) == ("rejected", "slow_evaluation")
    assert "val" in explain(slow.reasons[0])
    assert (equal.decision, equal.reasons[0]) == ("accepted", "gain_shown")
    assert [guard.quantity for guard in equal.guards] == ["time", "evaluation_time"]


def test_equal_candidates_pass_whatever_load_the_machine_has_while_val_is_scored() -> None:
    """Processor time of evaluations of a tenth of a second scatters by seven per cent, wall time by any factor."""
    busy = scored(contest(0.05), 1.07, 0.93, 1.1, 0.96, 1.0, wall_s=5.0)
    assert decide(busy, RULE, added_statements=0).decision == "accepted"
    below_a_tick = scored(contest(0.05), 0.0)  # a kernel counts in hundredths of a second
    ratio = [guard for guard in decide(below_a_tick, RULE, added_statements=0).guards if guard.quantity != "time"]
    assert ratio[0].gain == pytest.approx(math.log(1.0 / LEAST_CPU_S))


def test_on_a_gpu_the_wall_clock_tells_how_long_val_takes() -> None:
    gpu = Machine(cpu="x", cores=2, memory_gib=8, os="Linux", python="3.11", gpu="NVIDIA H100, bfloat16")
    pairs = scored(contest(0.05), 1.0, wall_s=3.0)
    on_gpu = [
        Pair(*(r.model_copy(update={"provenance": r.provenance.model_copy(update={"machine": gpu})}) for r in pair))
        for pair in pairs
    ]
    assert decide(pairs, RULE, added_statements=0).decision == "accepted"
    assert decide(on_gpu, RULE, added_statements=0).reasons[0] == "slow_evaluation"


@pytest.mark.parametrize("lane", ["loss", "speed"])
def test_a_resumed_pair_is_compared_in_no_time_and_its_losses_count(lane: Lane) -> None:
    pairs = contest(0.05, times=(10, 9))
    plain, mixed = (decide(p, RULE, added_statements=0, lane=lane) for p in (pairs, resumed(pairs, 1)))
    assert mixed.decision == plain.decision == "accepted"
    assert (mixed.look, mixed.pairs) == (2, 4)  # at the first look two pairs are too few to compare times
    assert mixed.time_ratio == pytest.approx(0.9, rel=1e-2)
    first = decide(resumed(pairs[:3], 1), RULE, added_statements=0, lane=lane)
    assert (first.decision, first.reasons, first.next_look) == ("undecided", ("resumed_runs",), 4)
    assert first.time_ratio is None


@pytest.mark.parametrize(
    ("code", "decision"),
    [
        ("candidate_failed", "rejected"),
        ("hopeless_start", "rejected"),
        ("record_failed", "undecided"),
        ("run_interrupted", "undecided"),
    ],
)
def test_a_failed_run_gives_a_verdict_without_numbers(code: Any, decision: str) -> None:
    verdict = failed_verdict(code, "loss is NaN at step 7", RULE, added_statements=4, stage="screen")
    assert (verdict.decision, verdict.reasons) == (decision, (code,))
    assert verdict.details == ("loss is NaN at step 7",)
    assert verdict.gain is None


def test_looks_escalate_and_pairs_between_them_are_not_used() -> None:
    unsure = contest(0.01, scatter=5)
    four, five, six = (decide(unsure[:num], RULE, added_statements=0) for num in (4, 5, 6))
    assert (four.look, four.pairs, four.next_look) == (2, 4, 6)
    assert four == five
    assert (six.look, six.pairs, six.next_look) == (3, 6, 8)
    assert decide(unsure[:2], RULE, added_statements=0).next_look == 3


def test_interval_and_p_exclude_the_margin_exactly_where_the_candidate_is_accepted() -> None:
    decisions = set()
    for gain in (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.02):
        verdict = decide(contest(gain), RULE, added_statements=8)
        assert verdict.ci_low is not None
        assert verdict.p_value is not None
        decisions.add(verdict.decision)
        assert (verdict.ci_low > verdict.margin) == (verdict.decision == "accepted")
        assert (verdict.p_value <= RULE.alpha * 1.001) == (verdict.decision == "accepted")
    assert len(decisions) > 1


def test_added_statements_raise_the_margin_and_removed_ones_earn_nothing() -> None:
    margins = [decide(contest(0.05), RULE, added_statements=added).margin for added in (-50, 0, 8)]
    assert margins == [0.0, 0.0, 8 * RULE.loss_per_statement]


def test_time_ratio_is_candidate_over_record() -> None:
    verdict = decide(contest(0.05, times=(10, 9)), RULE, added_statements=0)
    assert verdict.time_ratio == pytest.approx(0.9, rel=1e-3)


def test_a_rule_under_which_both_directions_could_win_is_refused() -> None:
    with pytest.raises(ValueError, match="futility_alpha"):
        Rule(**(RULE.model_dump() | {"futility_alpha": 0.001}))
