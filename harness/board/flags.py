"""Flags for a reviewer: what is odd about a submission, though nothing in it is wrong.

A flag decides nothing. It says where to look before merging, and what an honest explanation would be. A
check that rejects results for being too good teaches people to be slower (mlcommons/training#838).
"""

from __future__ import annotations

import datetime
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from harness.board.leaderboard import Board
from harness.board.submission import Claim, Submission
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import NETWORK_OPEN, FinishedRun
from harness.core.schema import Strict
from harness.core.track import Track
from harness.rule.verdict import Lane, Verdict
from models.parts import ModelConfig

# Two 512-bit units for fused multiply-adds, 16 float32 each, at 4 GHz: 64 operations a cycle is the most that a
# core of today's CPUs does (stackoverflow.com/questions/15655835). Training reaches a fifth of it on `pocket`.
# A matrix coprocessor (Apple's) exceeds it; there the flag means nothing.
PEAK_FLOPS_PER_THREAD = 256e9

# A gain of this many seed deviations, and larger than any before. The first record of `pocket` has seven.
HISTORIC_DEVIATIONS = 10.0

# The candidate's share of untimed work, over the record's. In the 47 pairs of runs that this repository holds the
# means of two arms differ by a factor of 1.06 at most, the runs of one arm by 1.3.
UNTIMED_RATIO = 2.0

# And seconds a run beyond the record's share, so that a slow disk raises no flag in runs of two seconds.
UNTIMED_S = 1.0

# Before the first batch a player has seen no data, but it may compute what it will use. Twice what the record takes is
# allowed, for a model of more parts, and seconds for a process that starts under load (up to 1.4 s in the runs here).
PREPARATION_RATIO = 2.0
PREPARATION_S = 5.0

# Processor time over wall time and cores. In the runs that this repository holds it is 0.9999 at most.
PROCESSOR_RATIO = 1.05
PROCESSOR_S = 0.1  # kernels count in hundredths of a second

# `ended` is cut to whole seconds and leaves out the writing of the weights: together under two seconds.
OVERLAP_S = 2.0

# What `harness.player.confine` reports where all of it is in force.
CONFINED = ("landlock", "seccomp")


class Flag(Strict):
    """Something odd about a submission, for a reviewer."""

    name: str
    """A key of FLAGS."""
    detail: str
    """The numbers behind it."""


@dataclass(frozen=True)
class Case:
    """A contest, filed or not, and what its flags depend on."""

    verdict: Verdict | None
    """None for an opening."""
    track: Track
    records: Sequence[FinishedRun]
    candidates: Sequence[FinishedRun]
    known: Callable[[], Sequence[FinishedRun]]
    """Reads the runs that earned the record which the candidate was measured against; called only where needed."""
    accepted: Sequence[float]
    """The gains that the track accepted before, in the verdict's lane."""

    @property
    def runs(self) -> list[FinishedRun]:
        return [*self.records, *self.candidates]


def read_case(project: Project, claim: Claim, earlier: Board) -> Case:
    """A submission whose files are in order, and what the board before it held."""
    submission, finished = claim.submission, claim.finished
    return make_case(
        project, earlier, submission, claim.track, submission.verdict, finished["record"], finished["candidate"]
    )


def make_case(
    project: Project,
    earlier: Board,
    edition: Track | Submission,
    track: Track,
    verdict: Verdict | None,
    records: Sequence[FinishedRun],
    candidates: Sequence[FinishedRun],
) -> Case:
    """The runs of a contest on an edition of `track`, and what the board before it held."""
    lane: Lane = verdict.lane if verdict else "loss"
    holder = earlier.standing(edition, lane)

    def known() -> list[FinishedRun]:
        if holder is not None:
            with suppress(LlmbenchError):  # a holder that cannot be read is a problem of its own
                return Claim(project.submissions / holder.folder_name, holder).finished["candidate"]
        return []

    return Case(verdict, track, records, candidates, known, accepted_gains(earlier, track.name, lane))


def accepted_gains(board: Board, track: str, lane: Lane) -> list[float]:
    """The gains of all records of one lane on a track, in every edition, except retracted ones."""
    records = [s for s in board.submissions if s.kind == "record" and (s.track, s.lane) == (track, lane)]
    verdicts = [record.verdict for record in records if board.state(record.number) != "retracted"]
    return [verdict.gain for verdict in verdicts if verdict is not None and verdict.gain is not None]


def find_flags(case: Case) -> list[Flag]:
    """What a reviewer should look at, one flag a name at most, in the order of FLAGS."""
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
        return  # before other submissions' files are read
    spread = max(spread, _seed_spread(case.known(), verdict.lane))
    if verdict.gain > HISTORIC_DEVIATIONS * spread:
        yield f"gain {verdict.gain:.4g}, largest so far {largest:.4g}, seed spread {spread:.4g}"


def _seed_spread(runs: Sequence[FinishedRun], lane: str) -> float:
    """Standard deviation over seeds of what the lane's gain is measured in; 0 below two runs."""
    values = [math.log(run.training.train_s) if lane == "speed" else run.evaluation.val_loss for run in runs]
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _identical_curves(case: Case) -> Iterator[str]:
    curves = [[(p.step, p.train_loss_nats, p.dev_loss_nats) for p in run.training.curve] for run in case.runs]
    for (one, first), (other, second) in itertools.combinations(zip(case.runs, curves, strict=True), 2):
        if one.seed != other.seed and first == second:
            yield f"{_name(one)} and {_name(other)}"


def multiplied_params(model: ModelConfig, num_params: int) -> int:
    """Parameters of the base model that a token is multiplied with: not the embeddings, nor experts it does not visit.

    Forward and backward take 6 operations for each of them and a token (arXiv:2001.08361, section 2.1).
    """
    looked_up = 0 if model.tie_embeddings else model.vocab_size * model.dim
    idle_experts = max(0, model.num_experts - model.top_k) * model.num_layers * 2 * model.dim * model.ffn_dim
    return max(0, num_params - looked_up - idle_experts)


def _below_flops_floor(case: Case) -> Iterator[str]:
    for run in case.runs:
        flops = 6 * multiplied_params(case.track.model, run.training.num_params) * run.training.tokens
        floor_s = flops / (PEAK_FLOPS_PER_THREAD * run.provenance.threads * case.track.num_processes)
        if run.training.train_s < floor_s:
            yield f"{_name(run)} took {run.training.train_s:.3g} s, its floor is {floor_s:.3g} s"


def _untimed_work(case: Case) -> Iterator[str]:
    if not case.records or not case.candidates or (case.verdict is not None and case.verdict.stage == "screen"):
        return  # a screen's record was trained under another load
    (usual, _), (share, wall_s) = _untimed(case.records), _untimed(case.candidates)
    if share > UNTIMED_RATIO * usual and (share - usual) * wall_s > UNTIMED_S:
        yield f"{100 * share:.1f} % of the candidate's time, {100 * usual:.1f} % of the record's"


def _untimed(runs: Sequence[FinishedRun]) -> tuple[float, float]:
    """Share of the wall time outside the training clock and the warm-up, and a run's mean wall time in seconds."""
    walls = [run.training.wall_s for run in runs]
    untimed = [run.training.wall_s - run.training.train_s - run.training.warmup_s for run in runs]
    return (sum(untimed) / sum(walls) if sum(walls) > 0 else 0.0), sum(walls) / len(walls)


def _long_preparation(case: Case) -> Iterator[str]:
    if not case.records or not case.candidates:
        return
    usual_s, own_s = (_preparation_s(case.runs, arm) for arm in (case.records, case.candidates))
    if own_s > PREPARATION_RATIO * usual_s + PREPARATION_S:
        yield f"{own_s:.1f} s a run before the first batch, {usual_s:.1f} s in the record's"


def _preparation_s(runs: Sequence[FinishedRun], arm: Sequence[FinishedRun]) -> float:
    """Mean time of an arm's runs before the first batch: processor time where all `runs` state it, else wall time."""
    stated = all(run.training.warmup_cpu_s is not None for run in runs)
    times = [run.training.warmup_cpu_s if stated else run.training.warmup_s for run in arm]
    return statistics.fmean(seconds or 0.0 for seconds in times)


def _processor_beyond_wall(case: Case) -> Iterator[str]:
    for run in case.runs:
        cores, training = case.track.num_processes * run.provenance.threads, run.training
        most_s = PROCESSOR_RATIO * cores * training.train_s + PROCESSOR_S
        if run.provenance.machine.gpu is None and training.cpu_s > most_s:  # a GPU's driver has threads of its own
            yield f"{_name(run)}: {training.cpu_s:.1f} s of processor time, {training.train_s:.1f} s on {cores} core(s)"


def _overlapping_runs(case: Case) -> Iterator[str]:
    alone = [run for run in case.runs if run.provenance.jobs == 1]
    spans = [(run, *_span(run)) for run in alone]
    for (one, start, end), (other, other_start, other_end) in itertools.combinations(spans, 2):
        overlap_s = min(end, other_end) - max(start, other_start)
        if one.provenance.machine == other.provenance.machine and overlap_s > OVERLAP_S:
            yield f"{_name(one)} and {_name(other)} by {overlap_s:.0f} s"


def _span(run: FinishedRun) -> tuple[float, float]:
    """When the run started and ended, in seconds since 1970. A date that no calendar has is no span."""
    try:
        ended = datetime.datetime.fromisoformat(run.training.ended).timestamp()
    except ValueError:
        return math.inf, -math.inf
    return ended - run.training.wall_s, ended


def _name(run: FinishedRun) -> str:
    return f"{run.recipe} seed {run.seed}"


def _count(case: Case, odd: Callable[[FinishedRun], bool]) -> Iterator[str]:
    """How many runs are `odd`, where any is."""
    if found := sum(map(odd, case.runs)):
        yield f"{found} of {len(case.runs)} runs"


def _is_unconfined(run: FinishedRun) -> bool:
    return not {*CONFINED} <= {*run.training.confinement} & {*run.evaluation.confinement}


def _is_networked(run: FinishedRun) -> bool:
    return NETWORK_OPEN in (*run.training.confinement, *run.evaluation.confinement)


class Mark(NamedTuple):
    """A kind of flag."""

    sentence: str
    """What it means, and what to look for."""
    search: Callable[[Case], Iterator[str]]
    """The numbers behind every occurrence."""


FLAGS = {
    "gain_beyond_history": Mark(
        "The gain is larger than any that this track has accepted in this lane, and than ten times the record's "
        "spread between seeds: look for what the model sees that it should not.",
        _gain_beyond_history,
    ),
    "identical_curves": Mark(
        "Two runs of different seeds have the same learning curve to the last bit: a copy, or a variant that ignores "
        "the seed.",
        _identical_curves,
    ),
    "below_flops_floor": Mark(
        "A run took less time than its multiplications need on a fast core: a clock that was stopped, a model that "
        "skips tokens or parameters, or an unusual machine.",
        _below_flops_floor,
    ),
    "untimed_work": Mark(
        "The candidate spends a far larger share of its time outside the training clock than the record: work may "
        "have been moved to where it is not counted.",
        _untimed_work,
    ),
    "long_preparation": Mark(
        "The candidate takes far longer than the record before its first batch, where no clock runs: look for what "
        "it computes there.",
        _long_preparation,
    ),
    "processor_beyond_wall": Mark(
        "A run took more processor time than its clock and its cores allow: it trained on more cores than the track "
        "gives it.",
        _processor_beyond_wall,
    ),
    "overlapping_runs": Mark(
        "Runs that say they had the machine to themselves overlap in time: they shared it, or one of them was "
        "interrupted and resumed.",
        _overlapping_runs,
    ),
    "dirty_tree": Mark(
        "Runs were trained with uncommitted changes: their revision does not say which code they ran.",
        lambda case: _count(case, lambda run: run.provenance.dirty),
    ),
    "no_revision": Mark(
        "Runs were trained outside a git repository, so only their digests say which code they ran.",
        lambda case: _count(case, lambda run: run.provenance.revision is None),
    ),
    "unconfined": Mark(
        "Runs were not kept from other files, the network or new processes, because their kernel could not: read the "
        "variant, and train it again where a kernel can.",
        lambda case: _count(case, _is_unconfined),
    ),
    "network_open": Mark(
        "Runs could reach the network, which processes on several GPUs need to speak to each other: read what the "
        "variant imports and opens.",
        lambda case: _count(case, _is_networked),
    ),
}
