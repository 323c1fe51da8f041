"""The batch shapes of a run: for each step the number of sequences and their length, within the budget of tokens.

A variant may change the shape as training progresses (`Parts.batch_shape`). The player, the process that runs the
variant's code, reports the shapes. The referee, the process that holds the data, checks the shapes against the budget
of tokens, sends the batches, and counts their tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from harness.core.errors import LlmbenchError
from harness.core.runs import BatchShape
from harness.core.track import Track

# A batch holds from 1/16 to 16 times the tokens of the track's batch. This bounds memory and time.
MOST_BATCH = 16
# Largest number of shapes in a plan. The player reports all of them in one message.
MOST_SHAPES = 5_000


@dataclass(frozen=True)
class Plan:
    """The batch shapes of a whole run."""

    shapes: tuple[BatchShape, ...]
    """In the order of training; each entry stands for consecutive steps with batches of the same shape."""
    seq_len: int
    """The track's sequence length, in tokens."""

    @property
    def num_steps(self) -> int:
        return sum(shape.steps for shape in self.shapes)

    @property
    def tokens(self) -> int:
        return sum(shape.tokens for shape in self.shapes)

    def place(self, step: int) -> tuple[int, int, int]:
        """(index of the step's first token in the run's order of tokens, number of sequences, length of a sequence).

        Steps are counted from 0. Shorter sequences are cut from windows of the track's length; no sequence crosses the
        end of a window.
        """
        start = 0
        for shape in self.shapes:
            start += -start % shape.length
            if step < shape.steps:
                return start + step * shape.batch_tokens, shape.sequences, shape.length
            start, step = start + shape.tokens, step - shape.steps
        raise IndexError("the run has no such step")

    def dev_steps(self, evaluations: int) -> set[int]:
        """Steps, counted from 1, after which the loss on dev is measured: about the same number of tokens apart.

        `evaluations` is the number of these steps. The last one is the run's last step.
        """
        found, steps, tokens = set(), 0, 0
        for shape in self.shapes:
            for place in range(1, evaluations + 1):
                wanted = Fraction(self.tokens * place, evaluations)
                if tokens < wanted <= tokens + shape.tokens:
                    found.add(max(1, steps + round((wanted - tokens) / shape.batch_tokens)))
            steps, tokens = steps + shape.steps, tokens + shape.tokens
        return found


def plan_of(track: Track, shapes: Iterable[BatchShape] | None) -> Plan:
    """The plan with these `shapes`; if they are None, all batches have the track's shape.

    Raises LlmbenchError if the shapes do not fit the track's budget of tokens.
    """
    budget = track.budget
    if shapes is None:
        own = BatchShape(steps=budget.num_steps, sequences=budget.batch_sequences, length=budget.seq_len)
        return Plan((own,), budget.seq_len)
    plan = Plan(tuple(shapes), budget.seq_len)
    for place, shape in enumerate(plan.shapes, start=1):
        check_shape(track, shape.sequences, shape.length, is_last=place == len(plan.shapes))
    if not plan.shapes or plan.tokens > budget.tokens:
        raise LlmbenchError(
            f"the batches of `batch_shape` contain {plan.tokens:,} tokens in total, more than the track's budget of "
            f"{budget.tokens:,}; use fewer or smaller batches"
        )
    last = plan.shapes[-1]
    if budget.tokens - plan.tokens >= last.length * track.num_processes:
        raise LlmbenchError(
            f"the batches of `batch_shape` contain {plan.tokens:,} tokens in total, fewer than the track's budget of "
            f"{budget.tokens:,}; use the whole budget"
        )
    return plan


def check_shape(track: Track, sequences: object, length: object, *, is_last: bool = False) -> None:
    """Raises LlmbenchError if a batch of this shape cannot be cut from the track's text, or is too large or too small.

    The last batch may be smaller, because it holds the tokens that are left.
    """
    budget, size = track.budget, track.num_processes
    if not (isinstance(sequences, int) and isinstance(length, int)) or sequences < 1 or length < 1:
        raise LlmbenchError(
            f"batch_shape gave {sequences!r:.40} sequences of length {length!r:.40}; both must be whole numbers above 0"
        )
    if budget.seq_len % length:
        raise LlmbenchError(
            f"batch_shape gave sequences of length {length}; the track's sequence length, {budget.seq_len}, must be a "
            f"multiple of it"
        )
    if sequences % size:
        raise LlmbenchError(
            f"batch_shape gave {sequences} sequences; this number must be a multiple of {size}, the number of processes"
        )
    tokens, own = sequences * length, budget.batch_tokens
    if tokens > MOST_BATCH * own or (tokens * MOST_BATCH < own and not is_last):
        raise LlmbenchError(
            f"batch_shape gave a batch of {tokens:,} tokens; the number must lie between 1/{MOST_BATCH} and "
            f"{MOST_BATCH} times the {own:,} tokens in a batch of the track"
        )


def make_plan(track: Track, batch_shape: object) -> tuple[BatchShape, ...] | None:
    """The batch shapes of a run whose variant sets `batch_shape`; None if all batches have the track's shape.

    The last batches are smaller if fewer tokens are left. Raises LlmbenchError if a shape is impossible or too small.
    """
    budget, found, done = track.budget, list[BatchShape](), 0
    while (left := budget.tokens - done) > 0:
        shape = batch_shape(done / budget.tokens, budget.batch_sequences, budget.seq_len)  # type: ignore[operator]
        if not (isinstance(shape, tuple | list) and len(shape) == 2):
            raise LlmbenchError("batch_shape must return two numbers: the number of sequences and their length")
        sequences, length = shape
        check_shape(track, sequences, length)
        size = track.num_processes
        sequences = min(sequences, left // (length * size) * size)
        if not sequences:
            break
        last = found[-1] if found else None
        if last is not None and (last.sequences, last.length) == (sequences, length):
            found[-1] = last.model_copy(update={"steps": last.steps + 1})
        else:
            found.append(BatchShape(steps=1, sequences=sequences, length=length))
        done += sequences * length
        if len(found) > MOST_SHAPES:
            raise LlmbenchError(
                f"batch_shape changes the shape of the batches more than {MOST_SHAPES:,} times in a run; change it "
                f"less often"
            )
    own = (budget.batch_sequences, budget.seq_len)
    return None if [(shape.sequences, shape.length) for shape in found] == [own] else tuple(found)
