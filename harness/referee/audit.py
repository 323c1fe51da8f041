"""The audit of a submitted model: the tests of probes.py at many more positions, in at most the time of one run.

A cut is a position from which on a row's tokens are replaced. The cuts are spread evenly over all boundaries (places
between two positions). Therefore the probability is known with which the audit finds a leak (a loss that depends on
later tokens); see `harness.core.audit`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from harness.core.audit import Audit, positions_needed
from harness.core.errors import LlmbenchError
from harness.core.project import sha256
from harness.core.runs import FinishedRun
from harness.core.track import Track
from harness.data.batches import Tokens
from harness.referee.evaluate import exam_of
from harness.referee.probes import Exam, Probe, Scores, Session, probe_seed, random_for, score
from harness.referee.session import ProbeFailedError

MAX_SCORE_SHIFT = 1e-4
"""Largest allowed difference of the val loss between run and audit, nats per token. It is far above rounding errors and
far below the effect of a useful leak."""
MOST_TAIL = 1.0
"""Testing every boundary of val's shorter last window may cost at most this many evaluations of val."""


def run_audit(
    track: Track,
    val_N: Tokens,
    dev_N: Tokens,
    run: FinishedRun,
    weights: bytes,
    sessions: Iterator[Session],
    drawn: int | None = None,
) -> Audit:
    """Audit the model of `run` with its final `weights`; `sessions` yields two processes with this model.

    `drawn` is the seed of the cuts; if it is None, the seed is computed from the weights and the val tokens. Raises
    ProbeFailedError if the model breaks a rule, and LlmbenchError if `weights` are not those of the run.
    """
    started = time.perf_counter()
    digest = sha256(weights)
    if digest != run.training.weights_sha256:
        raise LlmbenchError(
            f"the weights of {run.recipe} with seed {run.seed} are not those of its run; train the run again"
        )
    seed = probe_seed(weights, val_N)
    exam, val, dev = exam_of(track, val_N, dev_N)
    scores = score(next(sessions), exam, [*val, *dev], random_for(seed, "score"))  # as in the evaluation
    positions = len(val_N) - 1
    shift = (sum(float(scores.nats[row].sum()) for row in val) - run.evaluation.nats) / positions
    if abs(shift) > MAX_SCORE_SHIFT:
        raise ProbeFailedError(
            f"weights: computed again, the model's val loss differs from that of its run by {shift:.2g} nats; at most "
            f"{MAX_SCORE_SHIFT:g} are allowed"
        )
    tested = _positions_to_test(exam, val, run)
    audit_rows(next(sessions), scores, val, tested, random_for(seed if drawn is None else drawn, "audit"))
    return Audit(
        weights_sha256=digest,
        seed="weights" if drawn is None else "drawn",
        positions=positions,
        tested=tested,
        audit_s=time.perf_counter() - started,
    )


def audit_rows(session: Session, scores: Scores, val: range, tested: int, generator: np.random.Generator) -> None:
    """Test `tested` positions of val, spread over all rows.

    Each boundary (place between two positions) is tested about equally often.
    """
    exam, probe = scores.exam, Probe(session, scores, generator)
    positions = sum(len(exam.rows[row]) - 1 for row in val)
    for length, rows in exam.by_length(val).items():
        share = 1.0 if _is_cheap_tail(exam, length, positions) else tested / positions
        num_cuts, num_whole = (math.ceil(share * len(rows) * each) for each in (length - 1, 1))
        probe.run(rows, num_cuts, num_whole, favour=False)


def _positions_to_test(exam: Exam, val: range, run: FinishedRun) -> int:
    """Number of positions to test: as many as the audit's guarantee needs, if the run's training time allows that.

    At least one position in each row is tested.
    """
    lengths = [len(row) - 1 for row in exam.rows]
    positions = sum(lengths[row] for row in val)
    passes = run.training.train_s / max(run.evaluation.eval_s, 1e-9) - sum(lengths) / positions
    passes -= sum(lengths[row] ** 2 for row in val if _is_cheap_tail(exam, lengths[row], positions)) / positions
    return min(positions_needed(positions), max(len(val), int(passes * positions / max(lengths))))


def _is_cheap_tail(exam: Exam, length: int, positions: int) -> bool:
    """Whether `length` is that of val's shorter last window, and testing all its boundaries takes little time."""
    return length != exam.seq_len and length**2 <= MOST_TAIL * positions
