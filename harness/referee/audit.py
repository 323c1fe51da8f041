"""The audit of a claim's model: the probe with many more cuts, for at most the cost of one run.

Its cuts are spread evenly over all boundaries, so its power is known; see `harness.core.audit`.
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
"""Largest difference of val loss between run and audit, nats per token: far above rounding, far below a useful leak."""
MOST_TAIL = 1.0
"""Passes over val that testing every boundary of its shorter last window may cost."""


def run_audit(
    track: Track,
    val_N: Tokens,
    dev_N: Tokens,
    run: FinishedRun,
    weights: bytes,
    sessions: Iterator[Session],
    drawn: int | None = None,
) -> Audit:
    """Audit the model of `run` with its final `weights`; `sessions` yields two sessions of it.

    `drawn` is the seed of the cuts; None takes one that follows from weights and val. Raises ProbeFailedError where the
    model breaks a rule, LlmbenchError where the weights are not the run's.
    """
    started = time.perf_counter()
    digest = sha256(weights)
    if digest != run.training.weights_sha256:
        raise LlmbenchError(
            f"the weights of {run.recipe} with seed {run.seed} are not those of its run; train it again"
        )
    seed = probe_seed(weights, val_N)
    exam, val, dev = exam_of(track, val_N, dev_N)
    scores = score(next(sessions), exam, [*val, *dev], random_for(seed, "score"))  # as in the evaluation
    positions = len(val_N) - 1
    shift = (sum(float(scores.nats[row].sum()) for row in val) - run.evaluation.nats) / positions
    if abs(shift) > MAX_SCORE_SHIFT:
        raise ProbeFailedError(
            f"weights: scored again, the model's val loss differs from that of its run by {shift:.2g} nats; at most "
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
    """Test `tested` positions of val, spread over rows of every length; each boundary about equally often."""
    exam, probe = scores.exam, Probe(session, scores, generator)
    positions = sum(len(exam.rows[row]) - 1 for row in val)
    for length, rows in exam.by_length(val).items():
        share = 1.0 if _is_cheap_tail(exam, length, positions) else tested / positions
        num_cuts, num_whole = (math.ceil(share * len(rows) * each) for each in (length - 1, 1))
        probe.run(rows, num_cuts, num_whole, favour=False)


def _positions_to_test(exam: Exam, val: range, run: FinishedRun) -> int:
    """As many as the audit's guarantee needs, within the run's training time; at least one per row."""
    lengths = [len(row) - 1 for row in exam.rows]
    positions = sum(lengths[row] for row in val)
    passes = run.training.train_s / max(run.evaluation.eval_s, 1e-9) - sum(lengths) / positions
    passes -= sum(lengths[row] ** 2 for row in val if _is_cheap_tail(exam, lengths[row], positions)) / positions
    return min(positions_needed(positions), max(len(val), int(passes * positions / max(lengths))))


def _is_cheap_tail(exam: Exam, length: int, positions: int) -> bool:
    """Whether rows of this length, the shorter last window, have all of their boundaries tested."""
    return length != exam.seq_len and length**2 <= MOST_TAIL * positions
