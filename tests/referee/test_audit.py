"""The audit finds a planted leak as often as its formula says, and one at any single boundary always."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.core.audit import CONCENTRATION, FOUND, WORTH, Audit, positions_needed, probability_found
from harness.core.errors import LlmbenchError
from harness.core.project import sha256
from harness.core.track import Track
from harness.referee.audit import MAX_SCORE_SHIFT, run_audit
from harness.referee.evaluate import exam_of
from harness.referee.probes import random_for, score
from harness.referee.session import ProbeFailedError
from tests.make import make_run
from tests.referee.synthetic import Leak, Memory, Model, at_positions, planted, prefix_hashes, tokens

SEQ_LEN, SIZE, ROWS, TAIL = 16, 16, 60, 9
VAL_N, DEV_N = tokens(ROWS * SEQ_LEN + TAIL + 1, 1), tokens(500, 2)
POSITIONS = len(VAL_N) - 1


@pytest.fixture(scope="module")
def track(smoke: Track) -> Track:
    budget = smoke.budget.model_copy(update={"seq_len": SEQ_LEN, "eval_sequences": SIZE})
    return smoke.model_copy(update={"budget": budget})


def audit(
    track: Track, leak: Leak | None, seed: int = 0, passes: float = 100, weights: bytes = b"weights", shift: float = 0.0
) -> Audit:
    """Audit a model for the cost of so many passes over val, whose run had a val loss lower by `shift`."""
    exam, val, dev = exam_of(track, VAL_N, DEV_N)
    scores = score(Model(leak), exam, [*val, *dev], random_for(0, "any"))
    nats = sum(float(scores.nats[row].sum()) for row in val) - shift * POSITIONS
    run = make_run("base+idea", 0, 1.0, train_s=passes)
    training = run.training.model_copy(update={"weights_sha256": sha256(b"weights")})
    evaluation = run.evaluation.model_copy(update={"nats": nats, "eval_s": 1.0})
    run = run.model_copy(update={"training": training, "evaluation": evaluation})
    return run_audit(track, VAL_N, DEV_N, run, weights, iter([Model(leak), Model(leak)]), drawn=seed)


def finds(track: Track, leak: Leak, seed: int, passes: float = 100) -> bool:
    try:
        audit(track, leak, seed, passes)
    except ProbeFailedError:
        return True
    return False


def test_an_honest_model_passes_and_the_record_says_what_was_tested(track: Track) -> None:
    found = audit(track, None)
    assert (found.positions, found.tested) == (POSITIONS, positions_needed(POSITIONS))
    assert found.weights_sha256 == sha256(b"weights")
    assert audit(track, None, passes=3).tested < found.tested


@pytest.mark.parametrize(("leaking", "passes"), [(1, 6), (4, 3)])
def test_planted_leaks_are_found_as_often_as_the_formula_says(track: Track, leaking: int, passes: float) -> None:
    """Each of 100 models leaks at other positions of val; three deviations of a binomial are allowed."""
    exam, val, _ = exam_of(track, VAL_N, DEV_N)
    hashes = np.concatenate([prefix_hashes(exam.rows[row][None, :-1].astype(np.int64))[0, 4:-1] for row in val])
    tested, trials = audit(track, None, passes=passes).tested, 100
    expected = probability_found(POSITIONS, tested, (leaking + 0.5) / POSITIONS, 1.0)
    generator = np.random.default_rng(leaking)
    leaks = [planted(generator.choice(hashes, leaking, replace=False)) for _ in range(trials)]
    share = np.mean([finds(track, leak, seed, passes) for seed, leak in enumerate(leaks)])
    assert abs(share - expected) < 3 * math.sqrt(expected * (1 - expected) / trials) + 0.01


@pytest.mark.parametrize("position", [*range(SEQ_LEN - 1)])
def test_every_boundary_is_tried(track: Track, position: int) -> None:
    assert finds(track, at_positions([position], SEQ_LEN), seed=position)


@pytest.mark.parametrize("position", [*range(TAIL - 1)])
def test_every_boundary_of_the_short_last_window_is_tried_even_where_little_can_be_paid_for(
    track: Track, position: int
) -> None:
    assert finds(track, at_positions([position], TAIL), seed=position, passes=2)


def test_a_model_that_remembers_the_session_is_found_too(track: Track) -> None:
    assert finds(track, Memory(), seed=0)


def test_weights_of_another_run_are_refused_and_another_loss_is_named(track: Track) -> None:
    with pytest.raises(LlmbenchError, match="are not those of its run"):
        audit(track, None, weights=b"others")
    audit(track, None, shift=MAX_SCORE_SHIFT / 2)
    with pytest.raises(ProbeFailedError, match=r"^weights: "):
        audit(track, None, shift=2 * MAX_SCORE_SHIFT)


def test_the_formula_is_the_hypergeometric_one() -> None:
    for positions, tested, leaking in ((40, 7, 3), (40, 38, 3), (25, 25, 1), (25, 3, 0)):
        missed = math.comb(positions - leaking, tested) / math.comb(positions, tested)
        found = probability_found(positions, tested, (leaking + 0.5) / positions, 1.0)
        assert found == pytest.approx(1 - missed, abs=1e-12)


def test_what_is_needed_is_the_fewest_that_suffice() -> None:
    for positions in (900, 35_091, 64_443, 131_071):
        tested = positions_needed(positions)
        short, enough = (probability_found(positions, num, WORTH, CONCENTRATION) for num in (tested - 1, tested))
        assert short < FOUND <= enough or (tested == positions and enough < FOUND)
    made = Audit(weights_sha256="0" * 64, seed="weights", positions=positions, tested=tested, audit_s=1.0)
    sized_for = [power for power in made.power() if power.nats <= CONCENTRATION and power.worth_nats >= WORTH]
    assert min(power.found for power in sized_for) >= FOUND
    assert min(power.found for power in sized_for if power.worth_nats >= 0.01) > 0.999
