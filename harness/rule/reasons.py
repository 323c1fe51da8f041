"""The stable codes by which a verdict names its reasons, and a sentence for each code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from harness.core.errors import LlmbenchError, did_you_mean

Judged = Literal["variant", "trainer", "looks", "test"]
"""What was judged: a variant, the user's own trainer, or a file's numbers, by `looks` or by one `test`."""

WORDS: Mapping[Judged, Mapping[str, str]] = {
    "variant": {
        "guarded": ", and nothing else got worse than allowed",
        "same": "The first run gave exactly the record's numbers: this variant changes nothing on this track",
        "shown": "After the last look the gain is",
        "slower": "trains slower than the track's limit on time",
        "no_score": "diverged, failed a probe or crashed, so it has no score",
        "no_pair": "failed, so its seed has no pair. Seeds follow from the code: a changed candidate gets new ones",
    },
    "trainer": {
        "guarded": "",
        "same": "Both arms gave the same numbers: the change does nothing here, or both run the same installed package",
        "slower": "takes longer than max_slowdown",
        "no_score": "failed, so it has no number",
        "no_pair": "failed, so its seed has no pair",
    },
    "looks": {"guarded": ""},
    "test": {"guarded": "", "shown": "The gain is"},
}
"""The words for the names in braces below. A name that has no word here gets the word for a variant."""

_SENTENCES = {
    # accepted
    "gain_shown": "The gain is shown to exceed its margin{guarded}.",
    "simpler_and_no_worse": "The candidate has fewer statements; its loss and time are within the track's tolerances.",
    # rejected
    "screened_out": "The first runs do not look promising enough for a confirmation. A screen can be wrong.",
    "identical": "{same}.",
    "hopeless": "The mean gain is not above its margin, so the confirmation stops here.",
    "not_shown": "{shown} not shown to exceed its margin.",
    "loss_worse": "The val loss is not shown to be within the track's tolerance of the record's.",
    "too_slow": "The candidate {slower} allows.",
    "slow_evaluation": "The candidate takes longer to score val than the track's `max_slowdown` allows.",
    "not_simpler": "The simplicity lane takes only candidates with fewer statements than the record.",
    "candidate_failed": "A run of the candidate {no_score}.",
    "hopeless_start": "Partway through its first run the candidate was too far behind the record; the run was ended.",
    # undecided: more evidence
    "screen_passed": "The first runs look promising. Only the confirmation, on fresh seeds, decides.",
    "needs_more_runs": "The screen has not decided yet; its next look needs more runs.",
    "time_unclear": "The training time is not clearly under or over its limit; the next look needs more pairs.",
    "evaluation_time_unclear": "Scoring val is not clearly within its time limit; the next look needs more pairs.",
    "record_failed": "A run of the record {no_pair}.",
    "run_interrupted": "A run was killed from outside, perhaps for lack of memory; run the candidate again.",
    "too_few_pairs": "There are fewer pairs than the first look needs.",
    "needs_more_pairs": "The gain is not shown yet; the next look needs more pairs.",
    "too_few_values": "A test needs at least two values in each arm (one, where the deviation is known).",
    "zero_variance": "The values have no spread, so there is no noise to measure the gain against.",
    "resumed_runs": "Too many runs were resumed, which spoils their times. Delete their folders and run it again.",
    # undecided: not comparable
    "seed_ignored": "Two seeds of one arm gave the same numbers: the trainer ignores its seed.",
    "stale_record": "The record has changed since the candidate was measured; run the candidate again.",
    "mixed_tracks": "The runs were trained under different tracks, or different versions of one.",
    "mixed_code": "The runs were trained by different versions of the base model, the loop or the evaluator.",
    "mixed_machines": "The runs come from different machines: times do not compare, losses differ in the last bits.",
    "mixed_threads": "The runs used different numbers of threads.",
    "mixed_packages": "The runs used different package versions.",
    "mixed_recipes": "The runs of one arm have different recipes or sources.",
    "mixed_seeds": "The two runs of a pair have different seeds.",
    "repeated_seeds": "A seed occurs twice in one arm; a repeated seed is not a new measurement.",
    "mixed_load": "The two runs of a pair shared the machine with different numbers of runs, so their times differ.",
    "shared_machine": "Times count only where each run had the machine to itself (one job).",
    "not_interleaved": "Times count only where the two runs of each pair were trained one right after the other.",
    "mixed_clocks": "Some runs, made by an older llmbench, lack the processor time of scoring val. Train them again.",
    "no_time": "A run's training time is zero.",
    "not_finite": "A value is NaN, infinite or absurdly large.",
    "unequal_lengths": "Paired arms must have equally many values.",
    "bad_sigma": "The known deviation must be a positive number.",
    "bad_alpha": "The level alpha must lie between 1e-12 and 0.5.",
    # remarks, which follow the deciding reason
    "equal_spread_assumed": "The record's runs are stored ones; the test assumes that both arms have the same spread.",
    "fewer_statements": "The candidate has fewer statements than the record, which counts only in the lane simplicity.",
    "pairs_left_over": "An earlier look decided; later pairs are not used.",
    "sign_flip_disagrees": "The exact sign-flip test, which does not assume normal noise, does not reach alpha.",
}

REASONS = {code: sentence.format_map(WORDS["variant"]) for code, sentence in _SENTENCES.items()}
"""Code -> its sentence about a variant."""


def explain(code: str, judged: Judged = "variant") -> str:
    """The sentence for a reason code. Raises LlmbenchError for a code that does not exist."""
    if code not in _SENTENCES:
        raise LlmbenchError(
            f"there is no reason code '{code}'{did_you_mean(code, REASONS)}; `llmbench explain` lists them"
        )
    return _SENTENCES[code].format_map({**WORDS["variant"], **WORDS[judged]})
