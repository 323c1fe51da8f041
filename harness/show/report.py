"""Results as sentences: lines for a terminal, and Markdown for a CI job. Tables are in tables.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from harness.board.flags import FLAGS, Flag
from harness.board.readme import evidence, knowledge_sentence, plural
from harness.core.terminal import markdown
from harness.core.track import Rule, Track
from harness.lab.contest import Contest
from harness.lab.doctor import whole_seconds
from harness.lab.rerun import Repeat
from harness.lab.studies.noise import (
    FEWEST_DF,
    FEWEST_VARIANTS,
    LARGEST_RATIO,
    TARGET_POWER,
    UNIT_FACTOR,
    NoiseReport,
    StoredDesign,
)
from harness.rule.external import MOST_SEEDS, POWER, Judgement
from harness.rule.forecast import ContestPlan, filled, trained_arms
from harness.rule.reasons import Judged, explain
from harness.rule.replication import Outcome
from harness.rule.verdict import Verdict

TOO_SLOW = ("too_slow", "slow_evaluation")


def look_line(contest: Contest, look: int, rule: Rule, jobs: int, run_s: float | None) -> str:
    """A line: how many runs the next decision needs and, if the time of a run is known, about how long they take."""
    stage, known = contest.verdict.stage, [*contest.records, *contest.candidates]
    arms = trained_arms(rule, stage)
    runs = f"run{'' if look == 1 else 's'} of the candidate" if arms == 1 else "pairs on new seeds"
    line = f"{stage}: the {'next' if contest.candidates else 'first'} decision needs {look} {runs}"
    if known:
        run_s = statistics.median(map(whole_seconds, known))
    missing = arms * (filled(rule, stage, look, jobs) - len(contest.candidates))
    if run_s is None or missing <= 0:
        return line
    return f"{line}, about {duration(math.ceil(missing / jobs) * run_s)}{' more' if contest.candidates else ''}"


def look_verdict_line(verdict: Verdict) -> str:
    """A line with the numbers and the reason codes of a verdict that is not final yet."""
    facts = dict(evidence(verdict))
    shown = [f"{name} {facts[name]}" for name in ("gain", "gain beyond its margin", "margin", "p") if name in facts]
    return f"{verdict.stage}, {plural(verdict.pairs, 'pair')}: {', '.join(shown)}: {', '.join(verdict.reasons)}"


def outcome_sentence(outcome: Outcome, again: Verdict) -> str:
    """A sentence with the outcome of a re-run and, if the outcome is open, what could decide it."""
    if outcome == "confirmed":
        return "CONFIRMED: trained again on fresh seeds, the claim holds."
    if outcome == "refuted":
        return "REFUTED: trained again on fresh seeds, the claim does not hold."
    more = "The track's rule allows no more pairs, so the outcome stays open."
    if again.decision == "rejected" and again.reasons[0] in TOO_SLOW:
        return "OPEN: the re-run is rejected only for its time, and a time on another machine cannot refute a claim."
    if again.next_look is not None:
        missing = again.next_look - again.pairs
        more = f"{plural(missing, 'more pair')} may decide: run it again with --max-pairs {again.next_look} or more."
    elif again.decision == "undecided":
        more = "The runs could not be compared; the lines above say why."
    return f"OPEN: the re-run neither confirms nor refutes the claim. {more}"


def repeat_lines(repeat: Repeat) -> list[str]:
    """Lines about the result of training a track's base again, on the same seeds as in its submission."""
    if not repeat.differs:
        equal = "the same numbers to the bit" if repeat.outcome == "confirmed" else "other numbers"
        return [f"{repeat.outcome.upper()}: the same code on the same machine and packages gave {equal}."]
    lines = [f"differs: {code}: {detail}" for code, detail in repeat.differs.items()]
    if repeat.gain is not None and repeat.ci_low is not None and repeat.ci_high is not None:
        lines.append(
            f"submitted mean val loss minus the new one: {repeat.gain:+.4f}, interval [{repeat.ci_low:+.4f}, "
            f"{repeat.ci_high:+.4f}]"
        )
    means = "is within" if repeat.outcome == "confirmed" else "is not shown to be within"
    return [
        *lines,
        f"{repeat.outcome.upper()}: the code, machine or packages differ, so only mean losses are compared; their "
        f"difference {means} the track's loss tolerance.",
    ]


def judgement_facts(judgement: Judgement) -> list[tuple[str, str]]:
    """(name, value) for each number that `llmbench judge` computed, with four significant digits.

    `--json` has all digits.
    """
    facts: list[tuple[str, str]] = [("test", judgement.test)]
    over = " over all looks" if judgement.looks else ""
    if judgement.looks and judgement.decision == "undecided":  # p may be below alpha, as one look has a lower level
        over = " over the looks so far (for acceptance the interval must lie above the margin)"
    if judgement.p_value is not None:
        facts.append(("p", f"{judgement.p_value:.4g}{over}"))
    if judgement.gain is not None:
        gain = f"{judgement.gain:+.4g}"
        if judgement.ci_low is not None and judgement.ci_high is not None:
            level = f"{100 * judgement.interval_level:.6g} % interval{' over all looks' if judgement.looks else ''}"
            gain += f", {level} [{judgement.ci_low:+.4g}, {judgement.ci_high:+.4g}]"
        facts.append(("gain", gain))
    facts.append(("values", str(judgement.n)))
    if judgement.looks:
        facts.append(("look", _look_of(judgement)))
    facts += [("note", note) for note in judgement.notes]
    if judgement.seeds_needed is not None:
        facts.append(("needs", _needs(judgement.seeds_needed, judgement)))
    return [*facts, ("reasons", ", ".join(judgement.reasons))]


def _look_of(judgement: Judgement) -> str:
    """The last look (test) that was made, as text: `2 of 3, after 5 (declared: 3, 5, 8); the next one needs 8`.

    This means: the second of three looks was made, after 5 values.
    """
    declared = ", ".join(map(str, judgement.looks))
    reached = f", after {judgement.looks[judgement.look - 1]}" if judgement.look else ""
    line = f"{judgement.look} of {len(judgement.looks)}{reached} (declared: {declared})"
    return line if judgement.next_look is None else f"{line}; the next one needs {judgement.next_look}"


def _needs(seeds: int, judgement: Judgement) -> str:
    """A text that says how many more seeds are needed to show a gain like the measured one."""
    count = f"{seeds} or more" if seeds >= MOST_SEEDS else f"about {seeds}"
    arms = " in each arm" if judgement.test in ("paired_t", "welch_t", "two_sample_z") else ""
    more = f" ({seeds - judgement.n} more)" if seeds > judgement.n else ""
    chance = f"with a probability of {100 * POWER:.0f} %"
    known = plural(judgement.n, "value")
    return f"{count} seeds{arms}{more} would show such a gain {chance}, if it is real; a rough guess from {known}"


def judgement_sentence(judgement: Judgement) -> str:
    """A sentence that says what was decided, and why."""
    judged: Judged = "looks" if judgement.looks else "test"
    return f"{judgement.decision.upper()}: {' '.join(explain(code, judged) for code in judgement.reasons)}"


def duration(seconds: float) -> str:
    """A duration as text: `40 s`, `12 min`, `3.5 h`, `9 days`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    if hours < 48:
        return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
    return f"{hours / 24:.0f} days"


def check_lines(
    found: Mapping[str, Sequence[str]], flags: Mapping[str, Sequence[Flag]], knowledge: Mapping[str, float]
) -> list[str]:
    """Lines about what `verify` found: problems and flags (notes for a reviewer), and the counts at the end.

    Submissions with problems come last, so that they stay visible in a terminal. `knowledge` maps a submission to a
    bound, in nats per token, on how far its sources could lower the val loss by storing the val text.
    """
    lines = []
    for name, problems in sorted(found.items(), key=lambda item: bool(item[1])):
        lines.append(f"{'FAILED' if problems else 'ok':7}{name}")
        lines += [f"       {problem}" for problem in problems]
        lines += [f"       {line}" for line in flag_lines(flags.get(name, ()))]
        lines += [f"       {knowledge_sentence(knowledge[name])}"] if name in knowledge else []
    return [*lines, _check_counts(found, flags)]


def flag_lines(flags: Sequence[Flag]) -> list[str]:
    """One line for each thing that a reviewer should look at."""
    return [f"for review: {_flag_sentence(flag)}" for flag in flags]


def check_markdown(
    found: Mapping[str, Sequence[str]], flags: Mapping[str, Sequence[Flag]], knowledge: Mapping[str, float]
) -> str:
    """Markdown about what `verify` found, for the summary of a CI job."""
    lines = ["| checked | result | problems | flags |", "|---|---|---:|---:|"]
    for name, problems in found.items():
        counts = f"{len(problems) or ''} | {len(flags.get(name, ())) or ''}"
        lines.append(f"| {markdown(name)} | {'**failed**' if problems else 'ok'} | {counts} |")
    lines += ["", f"{_check_counts(found, flags)}.", ""]
    lines += [f"- **{markdown(problem)}**" for problems in found.values() for problem in problems]
    lines += [
        f"- For review, {markdown(name)}: {markdown(_flag_sentence(flag))}"
        for name, own in flags.items()
        for flag in own
    ]
    lines += [f"- {markdown(name)}: {knowledge_sentence(nats)}" for name, nats in knowledge.items()]
    return "\n".join(lines) + "\n"


def _check_counts(found: Mapping[str, Sequence[str]], flags: Mapping[str, Sequence[Flag]]) -> str:
    """The counts of what `verify` found, as text: `5 checked, 0 failed, 1 flag for review`."""
    failed, count = sum(map(bool, found.values())), sum(map(len, flags.values()))
    return f"{len(found)} checked, {failed} failed, {count} flag{'' if count == 1 else 's'} for review"


def _flag_sentence(flag: Flag) -> str:
    return f"{flag.name} ({flag.detail}). {FLAGS[flag.name].sentence}"


def noise_lines(report: NoiseReport, track: Track) -> list[str]:
    """Lines with the results of a noise study (how much gains vary by chance), to be shown below its table."""
    num, unit = len(report.variants), f"{report.noise_nats:.2g}"
    if report.declared_nats is None:
        advice = f"the track has no noise_nats, so it has no screen; write noise_nats = {unit} into its file"
    elif report.unit_is_off:
        advice = (
            f"the track's noise_nats, {report.declared_nats:g}, differs from it by more than a factor of "
            f"{UNIT_FACTOR}; set it to {unit}"
        )
    else:
        advice = f"the track's noise_nats, {report.declared_nats:g}, is close enough"
    lines = [
        f"standard deviation of a pair's difference, median of {plural(num, 'variant')}: {report.noise_nats:.4f} nats; "
        f"{advice}"
    ]
    if num < FEWEST_VARIANTS:
        lines.append(
            f"this median is rough, because variants differ in spread and these are fewer than {FEWEST_VARIANTS}; add "
            f"some with --variant NAME --save"
        )
    variant = track.rule.noise_variant
    if report.false_accepts is None:
        lines.append(
            f"share of confirmations that accept by chance: not known, because there are too few pairs of {variant}; "
            f"add some with --variant {variant} --save"
        )
    else:
        share = f"{100 * report.false_accepts:.2f} %"
        lines.append(
            f"share of confirmations that accept by chance, simulated with shuffled pairs of {variant}: {share}"
        )
    found = "none" if report.detectable_nats is None else f"{report.detectable_nats:.4f} nats"
    lines.append(f"smallest gain that is accepted with a probability of {TARGET_POWER}, under normal noise: {found}")
    return [*lines, _stored_design_line(report.stored_design, track.rule)]


def _stored_design_line(found: StoredDesign, rule: Rule) -> str:
    """A line that says whether stored runs of the record may replace pairs, by this noise study, or what is missing."""
    declared = "the track compares pairs" if rule.stored_runs is None else "the track compares with them"
    numbers = (
        f"the variants' runs spread {found.spread_ratio:.2f} times as much as the base's, {found.df} degrees of freedom"
    )
    missing = [
        f"{FEWEST_VARIANTS} variants" * (found.variants < FEWEST_VARIANTS),
        f"{FEWEST_DF} degrees of freedom" * (found.df < FEWEST_DF),
        f"a ratio of {LARGEST_RATIO} or less" * (found.spread_ratio > LARGEST_RATIO),
    ]
    needs = " and ".join(filter(None, missing))
    verdict = "supported by this study" if found.supported else f"NOT supported by this study, it needs {needs}"
    return f"stored runs of the record instead of pairs ({declared}): {verdict}; {numbers}"


def plan_lines(plan: ContestPlan, track: Track, statements: int) -> list[str]:
    """Lines with the assumptions behind the table of `llmbench plan`, to be shown below it."""
    lines = [
        f"means over simulated contests; the difference of a pair has normal noise with a standard deviation of "
        f"{plan.noise_nats:g} nats"
    ]
    if statements:
        lines.append(f"{statements} statements: the gain must exceed {plan.margin:g} nats")
    if plan.run_s is None or plan.longest.time_s is None or plan.record.time_s is None:
        return [*lines, f"the time is not known here, because {track.name} needs a CUDA GPU"]
    return [
        *lines,
        f"{duration(plan.run_s)} per run on this machine (estimated from {plan.source}), {plan.jobs} at a time",
        f"at most, if both stages need all their runs: {plan.longest.runs:.0f} runs, {duration(plan.longest.time_s)}",
        f"once, before the first candidate: {plan.record.runs:.0f} runs of the record, {duration(plan.record.time_s)}",
    ]
