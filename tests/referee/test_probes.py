"""Probes find a leak wherever it sits, and show no row what its loss must not depend on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.referee.probes import SMALL_BATCHES, plan, probe_seed, random_for, score
from harness.referee.session import ProbeFailedError
from tests.referee.synthetic import VOCAB, Leak, Memory, Model, at_positions, make_exam, probe_all, reveal, tokens

SEQ_LEN, SIZE, TAIL = 12, 8, 7
VAL_N, DEV_N = tokens(30 * SEQ_LEN + TAIL + 1, 1), tokens(200, 2)
EXAM = make_exam(SEQ_LEN, SIZE, VAL_N, DEV_N)


@pytest.mark.parametrize(("seq_len", "size"), [(12, 4), (30, 8), (2, 8), (1, 4), (367, 1), (7, 100), (400, 2), (5, 2)])
def test_an_honest_model_passes_whatever_the_shape(seq_len: int, size: int) -> None:
    probe_all(make_exam(seq_len, size, VAL_N, DEV_N), None)
    probe_all(make_exam(seq_len, size, VAL_N, np.zeros(3, "<u2")), None, favour=True)


@pytest.mark.parametrize("favour", [False, True])
@pytest.mark.parametrize("position", range(SEQ_LEN - 1))
def test_a_leak_at_one_boundary_of_full_windows_is_found(position: int, favour: bool) -> None:
    for seed in range(3):
        with pytest.raises(ProbeFailedError, match=r"^causality: .* sees the future"):
            probe_all(EXAM, at_positions([position], length=SEQ_LEN), seed, favour=favour)


@pytest.mark.parametrize("favour", [False, True])
@pytest.mark.parametrize("position", range(TAIL - 1))
def test_a_leak_at_one_boundary_of_the_short_last_window_is_found(position: int, favour: bool) -> None:
    with pytest.raises(ProbeFailedError, match=r"^causality: "):
        probe_all(EXAM, at_positions([position], length=TAIL), favour=favour)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_model_that_looks_ahead_only_in_batches_of_one_or_two_rows_is_found(rows: int, size: int) -> None:
    """Where val is scored in larger batches it is the other neighbours, or none, that move the loss."""
    with pytest.raises(ProbeFailedError, match=r"^(causality|batch_independence): "):
        probe_all(make_exam(SEQ_LEN, size, VAL_N, DEV_N), at_positions(range(SEQ_LEN), SEQ_LEN, rows))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_as_many_rows_are_cut_however_few_are_asked_together(size: int) -> None:
    probed = probe_all(make_exam(SEQ_LEN, size, VAL_N, DEV_N), None)
    own = {row.tobytes() for row in np.stack([row[:-1] for row in EXAM.rows[:-1]]).astype(np.int64)}
    shown = [row.tobytes() for batch in probed.asked if batch.shape[1] == SEQ_LEN for row in batch]
    assert 2 <= sum(row in own for row in shown) <= 4
    assert len(shown) - sum(row in own for row in shown) >= 30


@pytest.mark.parametrize("place", range(SIZE))
def test_a_leak_at_one_place_of_the_batch_is_found(place: int) -> None:
    def leak(tokens_BT: NDArray[np.int64], logits_BTV: NDArray[np.float32]) -> None:
        if place < len(tokens_BT):
            reveal(tokens_BT, logits_BTV, place, np.arange(tokens_BT.shape[1] - 1))

    with pytest.raises(ProbeFailedError, match=r"^(causality|batch_independence): "):
        probe_all(EXAM, leak)


def the_row_that_agrees(tokens_BT: NDArray[np.int64], logits_BTV: NDArray[np.float32]) -> None:
    """The next token; where another row of the batch agrees with this one so far, that row's next token instead."""
    for row, tokens_T in enumerate(tokens_BT):
        for position in range(3, len(tokens_T) - 1):
            same = (tokens_BT[:, position - 2 : position + 1] == tokens_T[position - 2 : position + 1]).all(-1)
            reveal(tokens_BT, logits_BTV, max(same.nonzero()[0], key=lambda other: other != row), position)


@pytest.mark.parametrize("leak", [the_row_that_agrees, Memory()])
def test_a_model_that_looks_up_what_a_cut_hides_does_not_find_it(leak: Leak) -> None:
    with pytest.raises(ProbeFailedError):
        probe_all(EXAM, leak)


def test_no_question_shows_what_a_cut_hides_before_it_was_answered() -> None:
    """Neither a row beside it nor an earlier batch of the session."""
    odds = {row: np.ones(SEQ_LEN) for row in range(30)}
    highest: dict[int, int] = {}
    for cuts, _ in plan(odds, 200, 9, SIZE, random_for(0, "plan")):
        assert len({row for row, _ in cuts}) == len(cuts)
        for row, cut in cuts:
            assert cut > highest.get(row, 0)
            highest[row] = cut
    val, dev = (split.astype(np.int64) for split in (VAL_N, DEV_N))
    windows = {tuple(val[start : start + 4]) for start in range(len(val) - 4)}
    windows -= {tuple(dev[start : start + 4]) for start in range(len(dev) - 4)}
    for batch in probe_all(EXAM, None).asked:
        for shown in batch.tolist():
            found = [tuple(shown[start : start + 4]) in windows for start in range(len(shown) - 3)]
            assert found == sorted(found, reverse=True), "own tokens stand after foreign ones"


def test_every_boundary_is_tried_about_equally_often_and_so_is_every_row() -> None:
    odds = {row: np.exp(-np.random.default_rng(row).exponential(size=SEQ_LEN)) for row in range(30)}
    cuts = [cut for batch, _ in plan(odds, 150, 5, SIZE, random_for(0, "plan")) for cut in batch]
    assert len({*cuts}) == len(cuts) >= 155
    times = Counter(cut for _, cut in cuts)
    assert times.pop(SEQ_LEN) == 5
    assert set(times) == {*range(1, SEQ_LEN)}
    assert max(times.values()) - min(times.values()) <= 3
    rows = Counter(row for row, _ in cuts)
    assert max(rows.values()) - min(rows.values()) <= 1


def test_the_ends_come_first_where_a_window_has_more_boundaries_than_are_tried() -> None:
    cuts = [cut for batch, _ in plan({0: np.ones(500)}, 8, 1, 1, random_for(0, "plan")) for _, cut in batch]
    assert {1, 499, 500} <= {*cuts}


def test_batches_have_the_size_in_which_val_is_scored_but_a_few_of_one_and_two_rows() -> None:
    scored = Model()
    score(scored, EXAM, range(len(EXAM.rows)), random_for(0, "score"))
    assert {batch.shape for batch in scored.asked} == {(SIZE, SEQ_LEN), (1, TAIL)}
    shapes = Counter(batch.shape for batch in probe_all(EXAM, None).asked)
    few = Counter(SMALL_BATCHES)
    assert {*shapes} == {(SIZE, SEQ_LEN), *((rows, length) for rows in few for length in (SEQ_LEN, TAIL))}
    assert all(shapes[rows, SEQ_LEN] == times for rows, times in few.items())


def test_the_short_last_window_is_asked_at_any_time() -> None:
    places = set()
    for seed in range(10):
        score(model := Model(), EXAM, range(len(EXAM.rows)), random_for(seed, "score"))
        places.add([len(batch) for batch in model.asked].index(1))
    assert len(places) > 2


def test_rows_that_follow_one_another_are_scored_in_different_batches() -> None:
    scores = score(Model(), EXAM, range(len(EXAM.rows)), random_for(3, "score"))
    together = [row for row in range(30) if row + 1 in scores.questions[row].rows]
    assert len(together) <= 2  # in the one batch that holds even rows and odd ones


def test_what_is_asked_follows_from_the_weights_and_val_alone() -> None:
    seed = probe_seed(b"weights", VAL_N)
    assert seed == probe_seed(b"weights", VAL_N.astype("<u4")) != probe_seed(b"weightt", VAL_N)
    assert seed != probe_seed(b"weights", np.roll(VAL_N, 1))

    def asked(seed: int) -> list[Any]:
        return [batch.tolist() for batch in probe_all(EXAM, None, seed).asked]

    assert asked(seed) == asked(seed) != asked(seed + 1)


def test_losses_do_not_depend_on_the_order_of_the_questions() -> None:
    first, second = (score(Model(), EXAM, range(len(EXAM.rows)), random_for(seed, "score")) for seed in (1, 2))
    assert all((first.nats[row] == second.nats[row]).all() for row in first.nats)


def test_foreign_tokens_differ_from_the_row_at_the_cut() -> None:
    for dev_N in (DEV_N, np.full(9, 4, "<u2")):
        exam = make_exam(SEQ_LEN, SIZE, VAL_N, dev_N)
        for token in range(VOCAB):
            assert exam.foreign(500, token, random_for(token, "foreign"))[0] != token
