"""The batches of a run: the number of sequences of each step and their length, within the track's tokens.

A variant may change both as a function of progress (`Parts.batch_shape`). The player reports the shapes. The referee
checks that they keep within the budget, and sends and counts the tokens.
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
# Most groups of steps with one shape. The player reports all of them in one message.
MOST_SHAPES = 5_000


@dataclass(frozen=True)
class Plan:
    """Groups of steps; the steps of a group have one shape."""

    shapes: tuple[BatchShape, ...]
    seq_len: int
    """The track's."""

    @property
    def num_steps(self) -> int:
        return sum(shape.steps for shape in self.shapes)

    @property
    def tokens(self) -> int:
        return sum(shape.tokens for shape in self.shapes)

    def place(self, step: int) -> tuple[int, int, int]:
        """Of `step`, from 0: its first token in the order of the run, its number of sequences, and their length.

        Shorter sequences are cut from the windows of the track's length; none crosses the end of a window.
        """
        start = 0
        for shape in self.shapes:
            start += -start % shape.length
            if step < shape.steps:
                return start + step * shape.batch_tokens, shape.sequences, shape.length
            start, step = start + shape.tokens, step - shape.steps
        raise IndexError("the run has fewer steps")

    def dev_steps(self, evaluations: int) -> set[int]:
        """Steps after which dev is scored: at equal shares of the tokens, the last step included."""
        found, steps, tokens = set(), 0, 0
        for shape in self.shapes:
            for place in range(1, evaluations + 1):
                wanted = Fraction(self.tokens * place, evaluations)
                if tokens < wanted <= tokens + shape.tokens:
                    found.add(max(1, steps + round((wanted - tokens) / shape.batch_tokens)))
            steps, tokens = steps + shape.steps, tokens + shape.tokens
        return found


def plan_of(track: Track, shapes: Iterable[BatchShape] | None) -> Plan:
    """The plan of these shapes, None for the track's own. Raises LlmbenchError where they break the budget."""
    budget = track.budget
    if shapes is None:
        own = BatchShape(steps=budget.num_steps, sequences=budget.batch_sequences, length=budget.seq_len)
        return Plan((own,), budget.seq_len)
    plan = Plan(tuple(shapes), budget.seq_len)
    for place, shape in enumerate(plan.shapes, start=1):
        check_shape(track, shape.sequences, shape.length, is_last=place == len(plan.shapes))
    if not plan.shapes or plan.tokens > budget.tokens:
        raise LlmbenchError(
            f"the batches of `batch_shape` hold {plan.tokens:,} tokens, more than the budget's {budget.tokens:,}; "
            "use fewer or smaller ones"
        )
    last = plan.shapes[-1]
    if budget.tokens - plan.tokens >= last.length * track.num_processes:
        raise LlmbenchError(
            f"the batches of `batch_shape` hold {plan.tokens:,} tokens; use all {budget.tokens:,} of the budget"
        )
    return plan


def check_shape(track: Track, sequences: object, length: object, *, is_last: bool = False) -> None:
    """Raises LlmbenchError where a batch of this shape cannot be cut from the track's text, or is too large or small.

    The last batch may be smaller: it holds what is left.
    """
    budget, size = track.budget, track.num_processes
    if not (isinstance(sequences, int) and isinstance(length, int)) or sequences < 1 or length < 1:
        raise LlmbenchError(
            f"batch_shape gave {sequences!r:.40} sequences of length {length!r:.40}; both must be whole numbers from 1"
        )
    if budget.seq_len % length:
        raise LlmbenchError(f"batch_shape gave length {length}, which must divide the track's, {budget.seq_len}")
    if sequences % size:
        raise LlmbenchError(f"batch_shape gave {sequences} sequences; it must be a multiple of {size} processes")
    tokens, own = sequences * length, budget.batch_tokens
    if tokens > MOST_BATCH * own or (tokens * MOST_BATCH < own and not is_last):
        raise LlmbenchError(
            f"batch_shape gave a batch of {tokens:,} tokens; it must hold between 1/{MOST_BATCH} and {MOST_BATCH} "
            f"times the track's {own:,}"
        )


def make_plan(track: Track, batch_shape: object) -> tuple[BatchShape, ...] | None:
    """The batches that a variant's `batch_shape` makes of the track's tokens; None where they are the track's own.

    The last batches are cut to what is left. Raises LlmbenchError where a shape is impossible or too small.
    """
    budget, found, done = track.budget, list[BatchShape](), 0
    while (left := budget.tokens - done) > 0:
        shape = batch_shape(done / budget.tokens, budget.batch_sequences, budget.seq_len)  # type: ignore[operator]
        if not (isinstance(shape, tuple | list) and len(shape) == 2):
            raise LlmbenchError("batch_shape must return two numbers: sequences and their length")
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
            raise LlmbenchError(f"batch_shape changes the batches more than {MOST_SHAPES:,} times; use fewer stages")
    own = (budget.batch_sequences, budget.seq_len)
    return None if [(shape.sequences, shape.length) for shape in found] == [own] else tuple(found)
