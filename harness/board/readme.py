"""Writes the README in a submission's folder, which is also the text of its pull request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from harness.board.metrics import METRICS, Runs, compare
from harness.board.submission import OtherSize, Submission
from harness.core.audit import CONCENTRATION, TABLE_CONCENTRATIONS, TABLE_WORTHS, Audit
from harness.core.terminal import markdown
from harness.rule.criteria import Guard
from harness.rule.reasons import explain
from harness.rule.verdict import Verdict


def memory_remark(runs: Runs) -> str | None:
    peaks = [run.training.peak_memory_mib for run in runs if run.training.peak_memory_mib is not None]
    sizes = [run.training.weights_bytes for run in runs if run.training.weights_bytes is not None]
    parts = [f"at most {max(peaks):,} MiB of memory a run"] if peaks else []
    parts += [f"weights and buffers of at most {max(sizes) / 2**20:,.1f} MiB"] if sizes else []
    return ", ".join(parts) or None


READS_HIGH = (
    "If the true gain is small, the measured gain of an accepted candidate is too large on average, because only large "
    "measured gains are accepted."
)
FEWEST_CORRELATED = 6
"""The correlation of the two runs of a pair is shown from this number of pairs on. With fewer it is too uncertain."""

FIXED_BELOW = 1e6
"""Gains of this size or more are shown with an exponent, because a diverged trainer may print a loss of 50 digits."""


def plural(count: int, name: str) -> str:
    """A number with its noun, such as `1 pair` or `2 pairs`."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def verdict_sentence(verdict: Verdict) -> str:
    """The sentence that says what a verdict decided, and why."""
    return f"{verdict.decision.upper()}: {' '.join(explain(code) for code in verdict.reasons)}"


def evidence(verdict: Verdict) -> list[tuple[str, str]]:
    """The numbers of a verdict, each as a pair of its name and its value as text."""
    ends = (abs(end or 0) for end in (verdict.gain, verdict.ci_low, verdict.ci_high))
    form = "{:+.4f}" if max(ends) < FIXED_BELOW else "{:+.4g}"
    interval = _interval(verdict, f", {{:g}} % interval over all looks [{form}, {form}]")
    test = "two-sample test against stored runs" if verdict.design == "stored" else "paired test"
    on = f"look {verdict.look} of the {verdict.stage}" if verdict.look else verdict.stage
    looks = f"all looks (accepted up to {verdict.alpha:g})"
    if verdict.decision == "undecided":  # p may be below alpha, because each look has a smaller level of its own
        looks = "the looks so far (for acceptance the interval must lie above the margin)"
    correlation = verdict.correlation if verdict.pairs >= FEWEST_CORRELATED else None
    facts = (
        ("pairs", verdict.pairs, f"{{}} ({on}{f', {test}' if verdict.stage == 'confirmation' else ''})"),
        ("gain", verdict.gain, f"{form}{interval}"),
        ("margin", verdict.margin, f"{{:.4f}} ({verdict.added_statements:+d} statements)"),
        ("gain beyond its margin", verdict.units, "{:+.2f} times the track's paired deviation"),
        ("p", verdict.p_value, f"{{:.2g}} over {looks}"),
        ("correlation of the runs of a pair", correlation, "{:+.2f}"),
    )
    found = [(name, form.format(value)) for name, value, form in facts if value is not None]
    return found + [fact for fact in map(_time_fact, verdict.guards) if fact is not None]


def _time_fact(guard: Guard) -> tuple[str, str] | None:
    """Name and text of the time ratio that a guard (a limit on time or loss) limits: the ratio, its interval and the
    limit.

    None if the guard limits the loss, or if no ratio was measured.
    """
    if guard.quantity == "loss" or guard.gain is None:
        return None
    name = "training time" if guard.quantity == "time" else "time for scoring val"
    text = f"{math.exp(-guard.gain):.3f}"
    if guard.ci_low is not None and guard.ci_high is not None:
        text += f" [{math.exp(-guard.ci_high):.3f}, {math.exp(-guard.ci_low):.3f}]"
    return f"{name}, candidate / record", f"{text} (limit {math.exp(-guard.margin):.3f})"


def _interval(verdict: Verdict, form: str) -> str:
    """`form`, filled with the confidence level in percent and both ends of the gain's interval; empty if there is no
    interval."""
    if verdict.ci_low is None or verdict.ci_high is None:
        return ""
    return form.format(round(100 * (1 - 2 * verdict.alpha), 3), verdict.ci_low, verdict.ci_high)


def submission_title(submission: Submission) -> str:
    """Title of a submission's commit and pull request: the track, the recipe and the result."""
    verdict, recipe = submission.verdict, submission.candidate.recipe
    if submission.challenge is not None:
        return f"{submission.track}: challenge of record {submission.challenge.number}, {submission.challenge.outcome}"
    if verdict is None:
        return f"{submission.track}: {recipe} is the first record of the track"
    gain = "" if verdict.gain is None else f", gain {verdict.gain:+.4f}"
    what = "beats the record" if submission.kind == "record" else "does not beat the record"
    return f"{submission.track}: {recipe} {what}{gain}"


def claim_sentence(submission: Submission, verdict: Verdict) -> str:
    """A sentence with the measured gain, its interval, the number of pairs and the cost in statements."""
    candidate, record = submission.candidate.recipe, submission.record.recipe if submission.record else ""
    if verdict.gain is None:
        return f"`{candidate}` against `{record}` on `{submission.track}`: no gain was measured."
    interval = _interval(verdict, " ({:g} % interval {:+.4f} to {:+.4f})")
    what = "logarithm of the time ratio" if verdict.lane == "speed" else "nats per token of val loss"
    cost = abs(verdict.added_statements)
    more = "more" if verdict.added_statements >= 0 else "fewer"
    return (
        f"`{candidate}` against `{record}` on `{submission.track}`: gain **{verdict.gain:+.4f}** {what}{interval}, "
        f"mean of {plural(verdict.pairs, 'pair')}, with {plural(cost, 'statement')} {more}."
    )


def audit_sentence(audit: Audit) -> str:
    """Sentences on what an audit (a test for leaks of val) tested, and on the probability that it finds leaks of
    several strengths."""
    power = {
        (nats, worth): f"{100 * found:.1f} %" if found < 0.999 else "over 99.9 %"
        for nats, worth, found in audit.power()
    }
    strongest = max(TABLE_CONCENTRATIONS)
    curve = "; ".join(
        f"{worth} nats per token: {power[CONCENTRATION, worth]} ({power[strongest, worth]})" for worth in TABLE_WORTHS
    )
    return (
        f"Audit of the weights `{audit.weights_sha256[:12]}` (a search for leaks, which are predictions that depend on "
        f"later tokens): no leak at {audit.tested:,} of the {audit.positions:,} positions of val "
        f"({audit.audit_s:.0f} s). For a leak that gains {CONCENTRATION:g} nats at each leaking position (in brackets: "
        f"{strongest:g} nats), the chance of finding it depends on how much it lowers the mean val loss: {curve}."
    )


def submission_markdown(submission: Submission, records: Runs, candidates: Runs) -> str:
    """The README of a submission, which is also the text of its pull request. Failed runs are not shown."""
    candidate, record, verdict = submission.candidate, submission.record, submission.verdict
    lines = [f"# {submission.number:04d} · {submission.track} · {candidate.recipe}", ""]
    if record is None or verdict is None:
        lines += [f"`{candidate.recipe}` is the first record of the track `{submission.track}`.", ""]
        lines += ["![Learning curves](curves.png)", "", *_seed_table([(candidate.recipe, candidates)])]
    else:
        lines += _contest_markdown(submission, record.recipe, verdict, records, candidates)
    provenance = records[0].provenance if records else candidates[0].provenance
    packages = markdown(", ".join(f"{name} {version}" for name, version in provenance.packages.items()))
    parts = (provenance.machine.gpu, provenance.machine.cpu)
    machine = "; ".join(markdown(part) for part in parts if part)
    where = f"submissions/{submission.folder_name}"
    memory = memory_remark([*records, *candidates])
    for name, size in (submission.sizes or {}).items():
        lines += [size_sentence(name, size), ""]
    if submission.audit is not None:
        lines += [audit_sentence(submission.audit), ""]
    lines += [
        f"Trained on {machine}, {provenance.crew} a run, "
        f"{provenance.jobs} run(s) at a time{f', {memory}' if memory else ''}; {packages}.",
        "",
        "This command trains the submission again. Without `--rerun` it only recomputes the numbers, in seconds:",
        "",
        f"```\nllmbench verify {where} --rerun\n```",
        "",
    ]
    return "\n".join(lines)


def size_sentence(track: str, size: OtherSize) -> str:
    """A sentence with the gain on `track`, another size of the submission's track."""
    said = "is shown to lose, so it is no record" if size.loses else "is not shown to lose"
    interval = f"90 % interval {size.low:+.4f} to {size.high:+.4f}"
    return f"On `{track}`, another size of the track, the candidate {said}: gain {size.gain:+.4f} ({interval})."


def knowledge_sentence(nats: float) -> str:
    """A sentence that says by how much val text in the added code can lower the val loss: at most `nats` per token."""
    return (
        f"If the added code had memorized text of val, this could lower the val loss by at most {nats:.4f} nats per "
        f"token. The bound follows from the compressed size of the code, and holds if it does not read its own file."
    )


def _contest_markdown(
    submission: Submission, record: str, verdict: Verdict, records: Runs, candidates: Runs
) -> list[str]:
    """The lines that compare record and candidate: the verdict, the results of both recipes, and the verdict's
    numbers."""
    candidate, used = submission.candidate.recipe, verdict.pairs
    records, candidates = verdict.used(records, candidates)
    counted = f"| number of this attempt since the last record | {submission.attempt} |"
    lines = []
    if submission.challenge is not None:
        number, outcome = submission.challenge.number, submission.challenge.outcome
        lines += [f"**Challenge: record {number} was trained again on fresh seeds. Outcome: {outcome}.**", ""]
        counted = f"| number of this challenge of record {number} | {submission.attempt} |"
    lines += [f"**{verdict_sentence(verdict)}**", "", claim_sentence(submission, verdict), ""]
    lines += [READS_HIGH, ""] if verdict.decision == "accepted" else []
    if used:
        arms = f"Without (`{record}`) | With (`{candidate}`)"
        lines += [f"| mean of {plural(used, 'pair')} | {arms} | gain (+ is better) | better |"]
        lines += ["|---|---:|---:|---:|---|"]
        for row in compare(records, candidates, timed=verdict.stage == "confirmation"):
            without = f"**{row.without}**" if row.winner == "Without" else row.without
            with_ = f"**{row.with_}**" if row.winner == "With" else row.with_
            lines.append(f"| {row.metric} | {without} | {with_} | {row.gain} | {row.winner} |")
        lines.append("")
    lines += ["![Learning curves of both arms](curves.png)", "", "| evidence | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in evidence(verdict)]
    lines += [counted, f"| reasons | {', '.join(f'`{code}`' for code in verdict.reasons)} |", ""]
    lines += [f"{markdown(detail)}\n" for detail in verdict.details]
    if new := submission.added_variants:
        lines += [f"Source: {', '.join(f'[`{name}.py`](sources/{name}.py)' for name in new)}", ""]
    if submission.knowledge_nats is not None:
        lines += [knowledge_sentence(submission.knowledge_nats), ""]
    if used:
        lines += ["<details><summary>Every run</summary>", ""]
        lines += _seed_table([(record, records), (candidate, candidates)])
        lines += ["</details>", ""]
    return lines


def _seed_table(arms: Sequence[tuple[str, Runs]]) -> list[str]:
    """A table with one line for each run: its seed, its recipe and its raw scores."""
    names = [*(metric.short for metric in METRICS), "weights"]
    lines = [f"| seed | recipe | {' | '.join(names)} |", f"|---:|---|{'---:|' * len(METRICS)}---|"]
    for runs in zip_longest(*(runs for _, runs in arms)):  # stored runs of a record may be more than the candidate's
        for (recipe, _), run in zip(arms, runs, strict=True):
            if run is None:
                continue
            cells = [metric.text(metric.read(run), metric.run_form) for metric in METRICS]
            weights = f"`{run.training.weights_sha256[:12]}`"
            lines.append(f"| {run.seed} | `{recipe}` | {' | '.join(cells)} | {weights} |")
    return [*lines, ""]
