"""Every cheat is caught and named: by its source, by what it does when it runs, or because it earns nothing.

Cheats are files in tests/cheats/, or wrappers in wrapped_cheats.py; the first line says what one tries. They run
without the check of their source, because what a run is worth must not rest on reading. `docs/threat-model.md` says
what is not caught.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.core.errors import LlmbenchError
from harness.core.runs import Evaluation, RunFailedError, Training
from harness.core.track import Track
from harness.data.prepare import prepare
from harness.referee.casting import Casting
from harness.referee.job import Job
from harness.referee.train import train
from harness.variants.check import MAX_CONSTANTS, check_source
from tests.make import ROOT, make_job
from tests.player.wrapped_cheats import SOURCES
from tests.players import OpenCasting, ThreadCasting, ending, run_through

FILES = {path.stem: path.read_text() for path in (ROOT / "tests" / "cheats").glob("*.py")}
WEIGHTS = f"[{', '.join(f'0.{number}' for number in range(100, 100 + MAX_CONSTANTS + 1))}]"
LETTERS = "!@_$Cb'Fe*"
FILES["text_in_the_source"] = FILES["text_in_the_source"].replace(LETTERS, LETTERS * 150)
FILES["weights_in_the_source"] = FILES["weights_in_the_source"].replace("[0.37]", WEIGHTS)
CHEATS = FILES | SOURCES
UNCAUGHT = {path.stem: path.read_text() for path in sorted((ROOT / "tests" / "cheats" / "uncaught").glob("*.py"))}
HONEST = {path.stem: path.read_text() for path in sorted((ROOT / "tests" / "honest").glob("*.py"))}


class Caught(NamedTuple):
    """What names a cheat; empty where that half of the defence lets it pass."""

    source: str = ""
    """Words of the refusal of its source."""
    run: str = ""
    """What ends its run, as a regular expression: in a bubble a file is not there, elsewhere it is refused."""
    earns: bool = False
    """Whether its run ends well: then it is worth no more than the base's."""


EXPECTED = {
    # the future
    "attention_looks_ahead": Caught(run="causality: "),
    "convolution_looks_ahead": Caught(run="causality: "),
    "learned_look_ahead": Caught(run="causality: "),
    "look_ahead_hidden_by_a_memo": Caught(run="weights: "),
    "mean_over_time": Caught(run="causality: "),
    "plausible_look_ahead": Caught(run="causality: "),
    "sum_from_the_end": Caught(run="causality: "),
    # the neighbours, and what came before
    "batch_statistics": Caught(run="batch_independence: "),
    "first_of_the_row_below": Caught(run="batch_independence: "),
    "longer_context": Caught(run="batch_independence: "),
    "roll_across_the_batch": Caught(run="batch_independence: "),
    "rolls_dice": Caught(run="batch_independence: "),
    "grows_with_every_call": Caught(run="weights: "),
    "remembers_in_a_buffer": Caught(run="evaluation_mode: "),
    "remembers_in_a_list": Caught(run="weights: "),
    "knows_that_it_is_judged": Caught(run="weights: "),
    # what is returned
    "accuracy_instead_of_logits": Caught(run="must return Output"),
    "logits_infinite": Caught(run="finiteness: "),
    "logits_nan": Caught(run="finiteness: "),
    "logits_of_another_shape": Caught(run="shape: "),
    "loss_instead_of_logits": Caught(run="must return Output"),
    "more_tokens_than_there_are": Caught(run="must return Output"),
    "tensor_that_lies": Caught(run="does not require grad"),
    # files, the network, other processes
    "calls_home": Caught("imports 'socket'", "PermissionError"),
    "forks": Caught("'os'", "PermissionError"),
    "reads_the_corpus": Caught("imports 'importlib.metadata'", "PermissionError"),
    "reads_val_from_disk": Caught("imports 'os'", "PermissionError|FileNotFoundError"),
    "remembers_across_processes": Caught("imports 'ctypes'", "PermissionError"),
    "signals_its_parent": Caught("imports 'os'", "PermissionError"),
    "starts_a_program": Caught("imports 'subprocess'", "PermissionError"),
    "torch_reads_a_file": Caught(run="Permission denied|No such file"),
    # patching
    "climbs_through_a_frame": Caught(earns=True),
    "patches_a_class_through_self": Caught(earns=True),
    "patches_the_harness": Caught("imports 'sys'", "has no attribute"),
    "patches_the_loss": Caught(earns=True),
    "stops_the_clock": Caught("imports 'time'", earns=True),
    # training
    "auxiliary_loss_nan": Caught(run="diverged: "),
    "changes_the_seeds": Caught(earns=True),
    "drops_parameters_later": Caught(run="coverage: "),
    "extra_tokens": Caught(run="budget: "),
    "extra_tokens_backward": Caught(run="budget: "),
    "extra_tokens_unseen": Caught(earns=True),
    "forgets_parameters": Caught(run="every parameter exactly once"),
    "other_weights_are_saved": Caught(run="evaluation_mode: "),
    "sleeps_outside_the_clock": Caught("imports 'threading'", earns=True),
    "state_that_is_not_saved": Caught(run="weights: "),
    "text_in_the_source": Caught("bytes of strings, but a variant may have"),
    "trains_in_evaluation_mode": Caught(earns=True),
    "weights_in_the_source": Caught(f"{MAX_CONSTANTS + 1} entries in one collection or call"),
    "works_in_the_dev_evaluation": Caught(run="evaluation_mode: "),
}
NEEDS_CONFINEMENT = sorted(name for name, caught in EXPECTED.items() if "ermission" in caught.run)
RUN_HERE = sorted(name for name, caught in EXPECTED.items() if caught.run and name not in NEEDS_CONFINEMENT)
EARNS_NOTHING = sorted(name for name, caught in EXPECTED.items() if caught.earns)


def test_every_cheat_says_what_it_tries_and_is_expected_to_be_caught() -> None:
    assert set(EXPECTED) == set(CHEATS)
    assert all(any(caught) for caught in EXPECTED.values())
    for name, text in CHEATS.items():
        assert len((ast.get_docstring(ast.parse(text)) or "").splitlines()[0]) > 30, name


@pytest.mark.parametrize("name", CHEATS)
def test_what_the_source_shows_is_refused(name: str) -> None:
    try:
        check_source(CHEATS[name], Path("models/variants/idea.py"))
        refusal = ""  # a run is what catches it
    except LlmbenchError as error:
        refusal = str(error)
    assert EXPECTED[name].source in refusal
    assert bool(refusal) == bool(EXPECTED[name].source), refusal


def castings(job: Job, track: Track, text: str, kind: type[OpenCasting] = ThreadCasting) -> Casting:
    return kind(track, job, texts=(("idea", text),))


@pytest.fixture(scope="module")
def splits(tiny_tokens: dict[str, Any]) -> dict[str, Any]:
    """The tiny track's tokens, with a val split of their kind."""
    return {**tiny_tokens, "val": tiny_tokens["train"][:1500]}


@pytest.mark.parametrize("name", RUN_HERE)
def test_what_a_run_shows_ends_it_by_name(name: str, job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    assert EXPECTED[name].run in ending(castings(job, tiny, CHEATS[name]), splits)


@pytest.fixture(scope="module")
def honest(
    tiny: Track, splits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Training, Evaluation]:
    return run_through(OpenCasting(tiny, make_job(tiny, tmp_path_factory.mktemp("honest"))), splits)


@pytest.mark.parametrize("name", EARNS_NOTHING)
def test_what_reaches_no_number_of_the_referees_earns_nothing(
    name: str, job: Job, tiny: Track, splits: dict[str, Any], honest: tuple[Training, Evaluation]
) -> None:
    """In real players: what a cheat patches there stays there."""
    training, evaluation = run_through(castings(job, tiny, CHEATS[name], OpenCasting), splits)
    assert training.tokens == tiny.budget.tokens
    assert training.train_s > 0
    assert training.cpu_s > 0
    assert evaluation.nats > honest[1].nats - 1e-6


def test_nothing_of_the_dev_split_reaches_the_weights(job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    """A model that trains on all that evaluation showed it ends in the same weights whatever dev holds."""
    learner = (ROOT / "tests" / "cheats" / "harmless" / "learns_from_dev.py").read_text()
    ends = []
    for place, dev in enumerate((splits["dev"], splits["dev"][::-1].copy())):
        folder = Path(job.folder) / str(place)
        folder.mkdir()
        own = job.model_copy(update={"folder": str(folder)})
        training = train(castings(own, tiny, learner), {**splits, "dev": dev})
        ends.append((training.weights_sha256, training.curve[-1].dev_loss_nats))
    (weights, loss), (other_weights, other_loss) = ends
    assert weights == other_weights
    assert loss != other_loss


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_idea_earns_its_score(name: str, job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    assert ending(castings(job, tiny, HONEST[name]), splits) == ""


@pytest.mark.parametrize("name", UNCAUGHT)
def test_what_the_threat_model_calls_uncaught_is_so(name: str, job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "threat-model.md").read_text()
    check_source(UNCAUGHT[name], Path("models/variants/idea.py"))
    assert ending(castings(job, tiny, UNCAUGHT[name]), splits) == ""


@pytest.mark.parametrize("trains", [True, False], ids=["train", "score"])
@pytest.mark.parametrize("name", NEEDS_CONFINEMENT)
def test_what_reaches_past_the_process_fails_by_name(name: str, trains: bool, smoke: Track, tmp_path: Path) -> None:
    prepare(smoke)  # there is a val split to read
    casting = castings(make_job(smoke, tmp_path), smoke, CHEATS[name], OpenCasting)
    with pytest.raises((RunFailedError, LlmbenchError)) as caught:
        casting.start("train", casting.assignment(start="drawn", trains=trains))
    assert re.search(EXPECTED[name].run, str(caught.value))
