"""Scores a model on val: the referee computes the loss itself, from a player's logits.

One session scores all of val, with dev's windows mixed in; a fresh session is probed, see `probes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from harness.core.runs import PROBES, Evaluation
from harness.core.track import Track
from harness.data.batches import Tokens, eval_batches
from harness.referee.probes import Exam, Probe, Scores, Session, random_for, score
from harness.referee.session import ProbeFailedError

# Largest difference of the dev loss between the training and the evaluating process, for the same weights, nats.
MAX_DEV_SHIFT = 1e-3
NUM_FRESH_ROWS = 16
"""Rows of full length that are probed with fresh weights: a leak in the architecture shows in any row."""
WHOLE_EVERY = 16
"""One row in this many is also scored again uncut, so that its last position is compared too."""
MOST_EXTRA = 0.1
"""If val has fewer rows than a row has boundaries, rows are cut again, for at most this share of a pass over val."""
FEWEST_CUTS = 24
"""Fewest cuts of rows of one length, where cutting at every boundary costs too much; the audit tries the others.

`pocket` ends with a window of 187 tokens. A leak of 3 nats per position in that window alone, worth 0.0017 nats per
token, acts at 36 of its boundaries. 24 cuts find it with probability 0.99; all would take a fifth of the evaluation.
"""


def exam_of(track: Track, val_N: Tokens, dev_N: Tokens) -> tuple[Exam, range, range]:
    """All windows of val, then those of dev; and which rows are val's, and dev's."""
    seq_len = track.budget.seq_len
    val, dev = ([row for (row,) in eval_batches(tokens_N, seq_len, 1)] for tokens_N in (val_N, dev_N))
    exam = Exam([*val, *dev], seq_len, track.budget.eval_sequences, dev_N)
    return exam, range(len(val)), range(len(val), len(val) + len(dev))


def evaluate(
    track: Track, val_N: Tokens, dev_N: Tokens, final_dev_loss: float | None, sessions: Iterator[Session], seed: int
) -> Evaluation:
    """Probe and score a model; `sessions` yields four: two with fresh weights, then two with the trained ones.

    `seed` is `probe_seed` of the trained weights. Raises ProbeFailedError where the model breaks a rule.
    """
    exam, val, dev = exam_of(track, val_N, dev_N)
    whole = exam.by_length(val).get(exam.seq_len, [])
    chosen = random_for(seed, "fresh rows").permutation(whole)[:NUM_FRESH_ROWS].tolist()
    few = sorted({*chosen, val[-1]})
    small = replace(exam, size=min(exam.size, NUM_FRESH_ROWS))
    fresh = score(next(sessions), small, few, random_for(seed, "fresh score"))
    probe = Probe(next(sessions), fresh, random_for(seed, "fresh probe"))
    for rows in exam.by_length(few).values():
        probe.run(rows, max(len(rows), FEWEST_CUTS), 1, favour=False)

    session = next(sessions)
    scores = score(session, exam, [*val, *dev], random_for(seed, "score"))
    share = len(val_N) / (len(val_N) + len(dev_N))  # val's share of a session that also scores dev
    if final_dev_loss is not None:
        dev_loss = float(np.concatenate([scores.nats[row] for row in dev]).mean())
        if abs(dev_loss - final_dev_loss) > MAX_DEV_SHIFT:
            raise ProbeFailedError(
                f"weights: the saved weights have dev loss {dev_loss:.4f}, training ended with {final_dev_loss:.4f}; "
                f"the model keeps something outside its parameters and persistent buffers"
            )
    probe_rows(next(sessions), scores, val, random_for(seed, "probe"))
    return Evaluation(
        nats=sum(float(scores.nats[row].sum()) for row in val),
        correct=sum(scores.correct[row] for row in val),
        tokens=len(val_N) - 1,
        bytes=track.data.pin("val").bytes,
        probes=PROBES,
        confinement=session.confinement,
        eval_s=session.wall_s * share,
        eval_cpu_s=session.cpu_s * share,
    )


def probe_rows(session: Session, scores: Scores, val: range, generator: np.random.Generator) -> None:
    """The probe of one run: one cut per row of val, or per boundary where that costs little more."""
    exam, probe = scores.exam, Probe(session, scores, generator)
    groups = exam.by_length(val)
    num_tokens = sum(length * len(rows) for length, rows in groups.items())
    for length, rows in groups.items():
        missing = max(0, length - 1 - len(rows))
        covers = missing * length <= MOST_EXTRA * num_tokens
        num_cuts = len(rows) + missing if covers else max(len(rows), FEWEST_CUTS)
        probe.run(rows, num_cuts, -(-len(rows) // WHOLE_EVERY), favour=True)
