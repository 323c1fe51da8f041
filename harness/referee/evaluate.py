"""Computes a model's val loss. The referee does this itself, from the logits that the model's process (a player) sends.

One session (process with the model) evaluates all windows of val, mixed with those of dev. With another session the
model is tested (probed); see probes.py.
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
"""Number of full rows that are probed with untrained weights. Few suffice: an architecture's leak shows in any row."""
WHOLE_EVERY = 16
"""One row in this many is also evaluated again unchanged, so that its last position is compared too."""
MOST_EXTRA = 0.1
"""If val has fewer rows than a row has boundaries (places to cut), rows are cut more than once. This costs at most this
share of one evaluation of val."""
FEWEST_CUTS = 24
"""Least number of cuts for rows of one length, if cutting at every boundary costs too much.

The audit of a submitted model cuts at the other boundaries. The val text of `pocket` ends with a window of 187 tokens.
A leak of 3 nats per position in that window alone, worth 0.0017 nats per token, acts at 36 of its boundaries. 24 cuts
find this leak with probability 0.99; cuts at all boundaries would take a fifth of the evaluation.
"""


def exam_of(track: Track, val_N: Tokens, dev_N: Tokens) -> tuple[Exam, range, range]:
    """The rows to evaluate: all windows of val, then those of dev.

    Returns them as an `Exam`, with the row numbers of val and the row numbers of dev.
    """
    seq_len = track.budget.seq_len
    val, dev = ([row for (row,) in eval_batches(tokens_N, seq_len, 1)] for tokens_N in (val_N, dev_N))
    exam = Exam([*val, *dev], seq_len, track.budget.eval_sequences, dev_N)
    return exam, range(len(val)), range(len(val), len(val) + len(dev))


def evaluate(
    track: Track, val_N: Tokens, dev_N: Tokens, final_dev_loss: float | None, sessions: Iterator[Session], seed: int
) -> Evaluation:
    """Test (probe) and evaluate a model.

    `sessions` yields two sessions with untrained weights, then two with trained weights. `seed` is what `probe_seed`
    returns for the trained weights. Raises ProbeFailedError if the model breaks a rule.
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
    share = len(val_N) / (len(val_N) + len(dev_N))  # val's share of a session that also evaluates dev
    if final_dev_loss is not None:
        dev_loss = float(np.concatenate([scores.nats[row] for row in dev]).mean())
        if abs(dev_loss - final_dev_loss) > MAX_DEV_SHIFT:
            raise ProbeFailedError(
                f"weights: the dev loss is {dev_loss:.4f} with the saved weights, but was {final_dev_loss:.4f} at the "
                f"end of training; store all that the model learns in parameters or persistent buffers"
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
    """Test (probe) the trained model of a run.

    Each row of val is cut once: its tokens from some position on are replaced. If it costs little more, rows are cut
    again, until there is a cut at every boundary (place between two positions).
    """
    exam, probe = scores.exam, Probe(session, scores, generator)
    groups = exam.by_length(val)
    num_tokens = sum(length * len(rows) for length, rows in groups.items())
    for length, rows in groups.items():
        missing = max(0, length - 1 - len(rows))
        covers = missing * length <= MOST_EXTRA * num_tokens
        num_cuts = len(rows) + missing if covers else max(len(rows), FEWEST_CUTS)
        probe.run(rows, num_cuts, -(-len(rows) // WHOLE_EVERY), favour=True)
