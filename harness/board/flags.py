"""Finds unusual facts about a submission that passed all checks, and reports each as a flag to the reviewer.

A flag rejects nothing. It tells the reviewer what to check before merging. If a result could be rejected for being too
good, people would submit slower results on purpose (mlcommons/training#838).
"""

from __future__ import annotations

import datetime
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.board.challenge import merged_problem
from harness.board.leaderboard import Board
from harness.board.submission import Claim, Submission
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import NETWORK_OPEN, FinishedRun
from harness.core.schema import Strict
from harness.core.track import Track
from harness.rule.criteria import Lane
from harness.rule.verdict import Verdict
from models.parts import ModelConfig

# Most operations of a core per second: two 512-bit units for fused multiply-adds of 16 float32 each do 64 operations a
# cycle (stackoverflow.com/questions/15655835), at 4 GHz. Training reaches a fifth of this on `pocket`. A matrix
# coprocessor, as in Apple's processors, can do more, so on such a machine the flag means nothing.
PEAK_FLOPS_PER_THREAD = 256e9

# A gain is flagged if it is the largest so far and more than this many standard deviations over seeds. The first record
# of `pocket` gained seven standard deviations.
HISTORIC_DEVIATIONS = 10.0

# Limit of the candidate's share of time that does not count as training time, divided by the record's share. In the 47
# pairs of runs in this repository, the means of two arms differ by a factor of 1.06 at most, runs of one arm by 1.3.
UNTIMED_RATIO = 2.0

# The candidate's share must also exceed the record's by this many seconds, so that a slow disk flags no short runs.
UNTIMED_S = 1.0

# Before the first batch a variant has no data, but could compute ahead. This time may be twice the record's, because a
# model may have more parts, and five seconds more, because a start on a busy machine took up to 1.4 s in runs here.
PREPARATION_RATIO = 2.0
PREPARATION_S = 5.0

# Limit of processor time / (wall-clock time x cores). In the runs of this repository this ratio is at most 0.9999.
PROCESSOR_RATIO = 1.05
PROCESSOR_S = 0.1  # seconds; operating systems count in hundredths

# Seconds by which two runs may overlap, because `ended` is rounded down and a run writes its weights after it.
OVERLAP_S = 2.0

# What `harness.player.confine` reports if all of its measures are in force.
CONFINED = ("landlock", "seccomp")


class Flag(Strict):
    """Something unusual about a submission that a reviewer should look at."""

    name: str
    """The flag's key in the table FLAGS."""
    detail: str
    """The numbers that led to the flag."""


@dataclass(frozen=True)
class Case:
    """A comparison of a candidate with a record, submitted or not, with everything that its flags depend on."""

    verdict: Verdict | None
    """None for the base, which was compared with nothing."""
    track: Track
    records: Sequence[FinishedRun]
    candidates: Sequence[FinishedRun]
    known: Callable[[], Sequence[FinishedRun]]
    """Function that reads the submitted runs of the record to beat. It is called only if a flag needs these runs."""
    accepted: Sequence[float]
    """Gains of the earlier records on this track in the verdict's lane (loss, speed or simplicity)."""
    unchecked: str | None = None
    """Why the commit from which a challenge's seeds are computed cannot be looked up; None if nothing prevents it."""

    @property
    def runs(self) -> list[FinishedRun]:
        return [*self.records, *self.candidates]


def read_case(project: Project, claim: Claim, earlier: Board) -> Case:
    """The case of a submission whose files passed all checks. `earlier` holds the submissions before it."""
    submission, finished, unchecked = claim.submission, claim.finished, None
    try:
        merged_problem(project, submission, earlier)
    except LlmbenchError as error:
        unchecked = str(error)
    case = make_case(
        project, earlier, submission, claim.track, submission.verdict, finished["record"], finished["candidate"]
    )
    return replace(case, unchecked=unchecked)


def make_case(
    project: Project,
    earlier: Board,
    edition: Track | Submission,
    track: Track,
    verdict: Verdict | None,
    records: Sequence[FinishedRun],
    candidates: Sequence[FinishedRun],
) -> Case:
    """The case of one comparison on a version of the track (`edition`). `earlier` holds the submissions before it."""
    lane: Lane = verdict.lane if verdict else "loss"
    holder = earlier.standing(edition, lane)

    def known() -> list[FinishedRun]:
        if holder is not None:
            with suppress(LlmbenchError):  # another check reports a record that cannot be read
                return Claim(project.submissions / holder.folder_name, holder).finished["candidate"]
        return []

    return Case(verdict, track, records, candidates, known, accepted_gains(earlier, track.name, lane))


def accepted_gains(board: Board, track: str, lane: Lane) -> list[float]:
    """Gains of a track's records in one lane, over all versions of the track. Retracted records are left out."""
    records = [s for s in board.submissions if s.kind == "record" and (s.track, s.lane) == (track, lane)]
    verdicts = [record.verdict for record in records if board.state(record.number) != "retracted"]
    return [verdict.gain for verdict in verdicts if verdict is not None and verdict.gain is not None]


def find_flags(case: Case) -> list[Flag]:
    """The flags of a case: at most one of each kind, in the order of FLAGS."""
    found = []
    for name, mark in FLAGS.items():
        details = list(mark.search(case))
        if details:
            more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
            found.append(Flag(name=name, detail=details[0] + more))
    return found


def _gain_beyond_history(case: Case) -> Iterator[str]:
    verdict = case.verdict
    if verdict is None or verdict.gain is None:
        return
    largest, spread = max(case.accepted, default=0.0), _seed_spread(case.records, verdict.lane)
    if verdict.gain <= max(largest, HISTORIC_DEVIATIONS * spread):
        return  # no flag; this avoids the slow part, which reads files of other submissions
    spread = max(spread, _seed_spread(case.known(), verdict.lane))
    if verdict.gain > HISTORIC_DEVIATIONS * spread:
        yield f"gain {verdict.gain:.4g}, largest earlier gain {largest:.4g}, standard deviation over seeds {spread:.4g}"


def _seed_spread(runs: Sequence[FinishedRun], lane: str) -> float:
    """Standard deviation over seeds of the val loss or, in the lane `speed`, of log time; 0 for fewer than two runs."""
    values = [math.log(run.training.train_s) if lane == "speed" else run.evaluation.val_loss for run in runs]
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _identical_curves(case: Case) -> Iterator[str]:
    curves = [[(p.step, p.train_loss_nats, p.dev_loss_nats) for p in run.training.curve] for run in case.runs]
    for (one, first), (other, second) in itertools.combinations(zip(case.runs, curves, strict=True), 2):
        if one.seed != other.seed and first == second:
            yield f"{_name(one)} and {_name(other)}"


def multiplied_params(model: ModelConfig, num_params: int) -> int:
    """Number of parameters that a token is multiplied with: without separate input embeddings and skipped experts.

    Forward and backward pass take 6 operations per token and parameter (arXiv:2001.08361, section 2.1).
    """
    looked_up = 0 if model.tie_embeddings else model.vocab_size * model.dim
    idle_experts = max(0, model.num_experts - model.top_k) * model.num_layers * 2 * model.dim * model.ffn_dim
    return max(0, num_params - looked_up - idle_experts)


def _below_flops_floor(case: Case) -> Iterator[str]:
    for run in case.runs:
        flops = 6 * multiplied_params(case.track.model, run.training.num_params) * run.training.tokens
        floor_s = flops / (PEAK_FLOPS_PER_THREAD * run.provenance.threads * case.track.num_processes)
        if run.training.train_s < floor_s:
            yield f"{_name(run)} took {run.training.train_s:.3g} s, but needs at least {floor_s:.3g} s"


def _untimed_work(case: Case) -> Iterator[str]:
    if not case.records or not case.candidates or (case.verdict is not None and case.verdict.stage == "screen"):
        return  # in a screen, the record's runs were trained earlier, when the machine may have been more or less busy
    (usual, _), (share, wall_s) = _untimed(case.records), _untimed(case.candidates)
    if share > UNTIMED_RATIO * usual and (share - usual) * wall_s > UNTIMED_S:
        yield f"time outside training: {100 * share:.1f} % in the candidate's runs, {100 * usual:.1f} % in the record's"


def _untimed(runs: Sequence[FinishedRun]) -> tuple[float, float]:
    """Share of wall-clock time that is neither training time nor warm-up; mean wall-clock time of a run in seconds."""
    walls = [run.training.wall_s for run in runs]
    untimed = [run.training.wall_s - run.training.train_s - run.training.warmup_s for run in runs]
    return (sum(untimed) / sum(walls) if sum(walls) > 0 else 0.0), sum(walls) / len(walls)


def _long_preparation(case: Case) -> Iterator[str]:
    if not case.records or not case.candidates:
        return
    usual_s, own_s = (_preparation_s(case.runs, arm) for arm in (case.records, case.candidates))
    if own_s > PREPARATION_RATIO * usual_s + PREPARATION_S:
        yield f"seconds before the first batch: {own_s:.1f} in the candidate's runs, {usual_s:.1f} in the record's runs"


def _preparation_s(runs: Sequence[FinishedRun], arm: Sequence[FinishedRun]) -> float:
    """Mean seconds before the first batch in one arm: processor time if all `runs` state it, else wall-clock time."""
    stated = all(run.training.warmup_cpu_s is not None for run in runs)
    times = [run.training.warmup_cpu_s if stated else run.training.warmup_s for run in arm]
    return statistics.fmean(seconds or 0.0 for seconds in times)


def _processor_beyond_wall(case: Case) -> Iterator[str]:
    for run in case.runs:
        cores, training = case.track.num_processes * run.provenance.threads, run.training
        most_s = PROCESSOR_RATIO * cores * training.train_s + PROCESSOR_S
        if run.provenance.machine.gpu is None and training.cpu_s > most_s:  # a GPU's driver has threads of its own
            yield f"{_name(run)}: {training.cpu_s:.1f} processor seconds in {training.train_s:.1f} s on {cores} core(s)"


def _overlapping_runs(case: Case) -> Iterator[str]:
    alone = [run for run in case.runs if run.provenance.jobs == 1]
    spans = [(run, *_span(run)) for run in alone]
    for (one, start, end), (other, other_start, other_end) in itertools.combinations(spans, 2):
        overlap_s = min(end, other_end) - max(start, other_start)
        if one.provenance.machine == other.provenance.machine and overlap_s > OVERLAP_S:
            yield f"{_name(one)} and {_name(other)} overlap by {overlap_s:.0f} s"


def _span(run: FinishedRun) -> tuple[float, float]:
    """Start and end of the run, in seconds since 1970. If the run's date is invalid, the end is before the start."""
    try:
        ended = datetime.datetime.fromisoformat(run.training.ended).timestamp()
    except ValueError:
        return math.inf, -math.inf
    return ended - run.training.wall_s, ended


def _name(run: FinishedRun) -> str:
    return f"{run.recipe} seed {run.seed}"


def _count(case: Case, odd: Callable[[FinishedRun], bool]) -> Iterator[str]:
    """Yields a text that says for how many runs `odd` is true; yields nothing if `odd` is true for no run."""
    if found := sum(map(odd, case.runs)):
        yield f"{found} of {len(case.runs)} runs"


def _is_unconfined(run: FinishedRun) -> bool:
    return not {*CONFINED} <= {*run.training.confinement} & {*run.evaluation.confinement}


def _is_networked(run: FinishedRun) -> bool:
    return NETWORK_OPEN in (*run.training.confinement, *run.evaluation.confinement)


class Mark(NamedTuple):
    """A kind of flag."""

    sentence: str
    """What the flag means, and what the reviewer should check."""
    search: Callable[[Case], Iterator[str]]
    """Searches a case, and yields one text with numbers for each finding."""


FLAGS = {
    "gain_beyond_history": Mark(
        "The gain is larger than every earlier gain on this track in this lane, and larger than ten standard "
        "deviations over the record's seeds. Check whether the model sees tokens that it must not see.",
        _gain_beyond_history,
    ),
    "identical_curves": Mark(
        "Two runs with different seeds have exactly the same learning curve. One of them is a copy, or the variant "
        "ignores the seed.",
        _identical_curves,
    ),
    "below_flops_floor": Mark(
        "A run took less time than its multiplications need on a fast core. Perhaps its training time was measured "
        "wrongly, its model skips tokens or parameters, or its machine is unusual.",
        _below_flops_floor,
    ),
    "untimed_work": Mark(
        "A far larger share of the candidate's time than of the record's does not count as training time. Check "
        "whether the variant does work there that belongs to training.",
        _untimed_work,
    ),
    "long_preparation": Mark(
        "Before its first batch the candidate takes far longer than the record. This time does not count as training "
        "time. Check what the variant computes in it.",
        _long_preparation,
    ),
    "processor_beyond_wall": Mark(
        "A run took more processor time than its cores can give in its training time. It trained on more cores than "
        "the track allows.",
        _processor_beyond_wall,
    ),
    "overlapping_runs": Mark(
        "Two runs overlap in time, although each states that it had the machine to itself. They shared the machine, or "
        "one of them was interrupted and resumed.",
        _overlapping_runs,
    ),
    "dirty_tree": Mark(
        "Runs were trained with uncommitted changes, so their git commit does not say which code they ran.",
        lambda case: _count(case, lambda run: run.provenance.dirty),
    ),
    "no_revision": Mark(
        "Runs were trained outside a git repository, so only the digests of their code say which code they ran.",
        lambda case: _count(case, lambda run: run.provenance.revision is None),
    ),
    "unconfined": Mark(
        "Nothing kept the variant's code from other files, the network or new processes, because the machine's kernel "
        "could not. Read the variant, and train it again on a machine whose kernel can.",
        lambda case: _count(case, _is_unconfined),
    ),
    "unchecked_commit": Mark(
        "The seeds of a challenge are computed from the commit that merged its record. This commit cannot be looked "
        "up here. Verify the challenge in a full clone.",
        lambda case: iter([case.unchecked] if case.unchecked else []),
    ),
    "network_open": Mark(
        "Runs could use the network, because processes on several GPUs need it to exchange data. Check what the "
        "variant imports and opens.",
        lambda case: _count(case, _is_networked),
    ),
}
