"""The reason codes of verdicts, whose names never change, and a sentence for each code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from harness.core.errors import LlmbenchError, did_you_mean

Judged = Literal["variant", "trainer", "looks", "test"]
"""What a verdict is about: a variant, the user's own trainer, or numbers from a file.

Numbers from a file are judged by one `test`, or by several tests after declared numbers of pairs (`looks`).
"""

WORDS: Mapping[Judged, Mapping[str, str]] = {
    "variant": {
        "margin": "its margin (the price of the added code)",
        "guarded": ", and nothing else got worse than allowed",
        "same": "The first run gave exactly the record's losses, so this variant changes nothing on this track",
        "last": "last planned test",
        "slower": "takes longer to train than the track",
        "no_score": "crashed, diverged or failed a probe (a test of the model), so it has no val loss",
        "no_pair": "failed, so its pair is missing. A candidate with changed code gets other seeds",
    },
    "trainer": {
        "margin": "its margin",
        "guarded": "",
        "same": "Both arms gave the same numbers: the change does nothing, or both use the same installed package",
        "slower": "takes longer than max_slowdown",
        "no_score": "failed, so it has no number",
        "no_pair": "failed, so its pair is missing",
    },
    "looks": {"margin": "its margin", "guarded": ""},
    "test": {"margin": "its margin", "guarded": "", "last": "test"},
}
"""Texts for the names in braces in the sentences below. A missing text is taken from those for a variant."""

_SENTENCES = {
    # accepted
    "gain_shown": "The gain is shown to exceed {margin}{guarded}.",
    "simpler_and_no_worse": "The candidate has fewer statements, and its loss and times are within the track's limits.",
    # rejected
    "screened_out": "The gain of the first runs is too small for the confirmation. This first check can be wrong.",
    "identical": "{same}.",
    "hopeless": "The mean gain is not above {margin}, so the comparison stops here.",
    "not_shown": "The {last} does not show a gain above {margin}.",
    "loss_worse": "The test does not show that the val loss is within the track's tolerance of the record's val loss.",
    "too_slow": "The candidate {slower} allows.",
    "slow_evaluation": "The candidate takes longer to compute the val loss than the track's `max_slowdown` allows.",
    "not_simpler": "The candidate does not have fewer statements than the record, which `--lane simplicity` requires.",
    "candidate_failed": "A run of the candidate {no_score}.",
    "hopeless_start": "The candidate's first run was stopped, because its dev loss was too far above the record's.",
    # undecided: more evidence
    "screen_passed": "The first runs gain enough to go on. Only the confirmation, on new seeds, accepts a candidate.",
    "needs_more_runs": "The first runs do not yet decide whether a confirmation is worth it. Train more runs.",
    "time_unclear": "It is not clear whether the training time is within its limit. The next test needs more pairs.",
    "evaluation_time_unclear": "It is not clear whether the time to compute the val loss is within its limit. "
    "The next test needs more pairs.",
    "record_failed": "A run of the record {no_pair}.",
    "run_interrupted": "A run was killed from outside, perhaps because memory ran out. Run the candidate again.",
    "too_few_pairs": "There are fewer pairs than the first test needs.",
    "needs_more_pairs": "The test does not show the gain yet. The next test needs more pairs.",
    "too_few_values": "The test needs at least two values in each arm (one, if the standard deviation is given).",
    "zero_variance": "The values do not vary, so the test has no noise with which to compare the gain.",
    "resumed_runs": "Too many runs were interrupted and resumed, so their times do not count. Delete the folders of "
    "these runs and run the candidate again.",
    # undecided: not comparable
    "seed_ignored": "In one arm (record or candidate), two seeds gave the same numbers, so the seed has no effect.",
    "stale_record": "The record has changed since the candidate was measured; run the candidate again.",
    "mixed_tracks": "The runs were trained on different tracks, or on different versions of one track.",
    "mixed_code": "The runs used different versions of the base model, the training loop or the evaluation code.",
    "mixed_machines": "The runs come from different machines, whose times and rounding of losses differ.",
    "mixed_threads": "The runs used different numbers of processor threads.",
    "mixed_packages": "The runs used different versions of Python packages.",
    "mixed_recipes": "The runs of one arm (record or candidate) have different recipes or different code.",
    "mixed_seeds": "The two runs of a pair have different seeds.",
    "repeated_seeds": "A seed occurs twice in one arm (record or candidate). A repeated seed is no new measurement.",
    "mixed_load": "The two runs of a pair shared the machine with different numbers of runs, so their times differ.",
    "shared_machine": "Runs shared the machine, so their times do not count. Train one run at a time (`--jobs 1`).",
    "not_interleaved": "The two runs of a pair were not trained right after each other, so times cannot be compared.",
    "mixed_clocks": "An older llmbench made some of the runs and did not measure the processor time of the evaluation. "
    "Train these runs again.",
    "no_time": "A run's training time is zero.",
    "not_finite": "A value is NaN, infinite or larger than 1e100.",
    "unequal_lengths": "A paired test needs equally many values of record and candidate.",
    "bad_sigma": "The given standard deviation `sigma` must be a positive number.",
    "bad_alpha": "The significance level `alpha` must lie between 1e-12 and 0.5.",
    # remarks, which follow the deciding reason
    "equal_spread_assumed": "The record's runs were trained earlier, so the test is not paired. It assumes that "
    "the losses of record and candidate have the same variance.",
    "fewer_statements": "The candidate has fewer statements than the record, which counts only in `--lane simplicity`.",
    "pairs_left_over": "A decision was reached with fewer pairs, so the later pairs are not used.",
    "sign_flip_disagrees": "The exact sign-flip test, which does not assume normal noise, has a p-value above alpha.",
}

REASONS = {code: sentence.format_map(WORDS["variant"]) for code, sentence in _SENTENCES.items()}
"""Reason code -> the sentence for a verdict about a variant."""


def explain(code: str, judged: Judged = "variant") -> str:
    """The sentence that explains the reason code `code` in a verdict about `judged`.

    Raises LlmbenchError if there is no such code.
    """
    if code not in _SENTENCES:
        raise LlmbenchError(
            f"there is no reason code '{code}'{did_you_mean(code, REASONS)}; `llmbench explain` lists them"
        )
    return _SENTENCES[code].format_map({**WORDS["variant"], **WORDS[judged]})
