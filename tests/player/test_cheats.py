"""Every cheat is caught and named: by its source, and once more by what it does when it runs.

Cheats are files in tests/cheats/, or wrappers in wrapped_cheats.py; the first line says what one tries. The second
half runs them without the static check, because a syntax tree cannot show everything. `docs/threat-model.md` says what
neither half catches.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness.player.job import Job
from harness.player.serve import ProbeFailedError, Session, serve
from safetensors.torch import save_file

from harness.core.errors import LlmbenchError
from harness.core.track import Track
from harness.data.batches import eval_batches
from harness.data.prepare import prepare
from harness.player.train import DivergedError, RuleBrokenError, train
from harness.referee.evaluate import evaluate
from harness.variants.check import MAX_CONSTANTS, check_source
from harness.variants.recipe import Recipe, apply_recipe, draw_parameters
from harness.variants.source import VariantSource
from tests.make import ROOT, make_job
from tests.player.wrapped_cheats import SOURCES
from tests.sandbox import python

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
    """Words of what ends its run."""


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
    "logits_infinite": Caught(run="weights: "),
    "logits_nan": Caught(run="diverged: "),
    "logits_of_another_shape": Caught(run="shape: "),
    "loss_instead_of_logits": Caught(run="must return Output"),
    "more_tokens_than_there_are": Caught(run="must return Output"),
    "tensor_that_lies": Caught("extends 'torch.Tensor'"),
    # files, the network, other processes
    "calls_home": Caught("imports 'socket'", "PermissionError"),
    "forks": Caught("'torch.os'", "PermissionError"),
    "reads_the_corpus": Caught("imports 'importlib.metadata'", "PermissionError"),
    "reads_val_from_disk": Caught("imports 'glob'", "PermissionError"),
    "remembers_across_processes": Caught("imports 'ctypes'", "PermissionError"),
    "signals_its_parent": Caught("imports 'os'", "PermissionError"),
    "starts_a_program": Caught("imports 'subprocess'", "PermissionError"),
    "torch_reads_a_file": Caught("'torch.from_file'", "Permission denied"),
    # patching
    "climbs_through_a_frame": Caught("reaches for 'gi_frame'"),
    "patches_a_class_through_self": Caught("hands on the class 'torch.Tensor'"),
    "patches_the_harness": Caught("imports 'sys'"),
    "patches_the_loss": Caught("assigns to 'torch.nn.functional.cross_entropy'"),
    "stops_the_clock": Caught("imports 'time'"),
    # training
    "auxiliary_loss_nan": Caught(run="diverged: "),
    "changes_the_seeds": Caught("'torch.manual_seed': seeds and random streams belong to the harness"),
    "drops_parameters_later": Caught(run="coverage: "),
    "extra_tokens": Caught(run="budget: "),
    "extra_tokens_backward": Caught("'eval': the harness switches"),
    "extra_tokens_unseen": Caught("reaches for 'forward'"),
    "forgets_parameters": Caught(run="every parameter exactly once"),
    "other_weights_are_saved": Caught("defines 'state_dict', which the harness relies on", "weights: "),
    "sleeps_outside_the_clock": Caught("imports 'threading'"),
    "state_that_is_not_saved": Caught(run="weights: "),
    "text_in_the_source": Caught("bytes of strings, a variant may have"),
    "trains_in_evaluation_mode": Caught("'eval': the harness switches"),
    "weights_in_the_source": Caught("257 constants, a variant may have 256"),
    "works_in_the_dev_evaluation": Caught(run="evaluation_mode: "),
}
# Those that the training process names first, and what the scorer would say of them on its own.
NAMED_BY_THE_SCORER = {
    "knows_that_it_is_judged": "causality: ",
    "logits_infinite": "finiteness: ",
    "logits_nan": "finiteness: ",
    "logits_of_another_shape": "shape: ",
    "look_ahead_hidden_by_a_memo": "statelessness: ",
    "remembers_in_a_list": "statelessness: ",
}
NEEDS_CONFINEMENT = sorted(name for name, caught in EXPECTED.items() if "ermission" in caught.run)
RUN_HERE = sorted(name for name, caught in EXPECTED.items() if caught.run and name not in NEEDS_CONFINEMENT)


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


class OpenJob(Job):
    """A job that is neither confined nor checked: what is left are the rules of the loop and the probes."""

    text: str

    def confine(self, *_: Any, **__: Any) -> tuple[str, ...]:
        return ()

    def load_recipe(self, track: Track) -> Recipe:
        source = VariantSource("idea", Path("idea.py"), self.text)
        return apply_recipe({"idea": source}, track.model, track.optim)


@contextmanager
def session(job: OpenJob, track: Track, weights: Any) -> Iterator[Session]:
    """The real server behind real pipes, in a thread; the variant's module is new, as in a process of its own."""
    (requested, requests), (answers, answered) = Pipe(duplex=False), Pipe(duplex=False)

    def run() -> None:
        with suppress(BrokenPipeError, EOFError), requested, answered:
            serve(job, track, weights, requested, answered)

    thread = threading.Thread(target=run)
    thread.start()
    ours = Session(requests, answers, track.model.vocab_size)
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


def sessions(job: OpenJob, track: Track) -> Iterator[Session]:
    for weights in ("fresh", "fresh", "trained", "trained"):
        with session(job, track, weights) as one:
            yield one


def run_through(job: OpenJob, track: Track, tokens: dict[str, Any]) -> str:
    """Train and evaluate; what ended the run, empty where it earned a score."""
    batches = {split: eval_batches(tokens[split], track.budget.seq_len, 8) for split in ("val", "dev")}
    try:
        training = train(track, job.load_recipe(track), tokens, job, lambda event: None)
        final = training.curve[-1].dev_loss_nats
        evaluate(track, batches["val"], batches["dev"], final, sessions(job, track))
    except DivergedError as error:
        return f"diverged: {error}"
    except (LlmbenchError, RuleBrokenError, ProbeFailedError) as error:
        return str(error)
    return ""


@pytest.fixture
def splits(tiny_tokens: dict[str, Any]) -> dict[str, Any]:
    """The tiny track's tokens, with a val split of their kind."""
    return {**tiny_tokens, "val": tiny_tokens["train"][:1500]}


def open_job(job: Job, text: str) -> OpenJob:
    return OpenJob(**job.model_dump(), text=text)


@pytest.mark.parametrize("name", RUN_HERE)
def test_what_a_run_shows_ends_it_by_name(name: str, job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    assert EXPECTED[name].run in run_through(open_job(job, CHEATS[name]), tiny, splits)
    assert run_through(open_job(job, CHEATS[name]), tiny, splits) != ""  # of a checkpoint, too


@pytest.mark.parametrize("name", NAMED_BY_THE_SCORER)
def test_the_scorer_names_it_too(name: str, job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    """Nothing that the training process says is needed: here it never ran."""
    judged = open_job(job, CHEATS[name])
    model = judged.load_recipe(tiny).build()
    draw_parameters(model, seed=0)
    save_file(model.state_dict(), judged.weights)
    batches = {split: eval_batches(splits[split], tiny.budget.seq_len, 8) for split in ("val", "dev")}
    with pytest.raises(ProbeFailedError, match=rf"^{NAMED_BY_THE_SCORER[name]}"):
        evaluate(tiny, batches["val"], batches["dev"], None, sessions(judged, tiny))


def test_nothing_of_the_dev_split_reaches_the_weights(job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    """A model that trains on all that evaluation showed it ends in the same weights whatever dev holds."""
    learner = open_job(job, (ROOT / "tests" / "cheats" / "harmless" / "learns_from_dev.py").read_text())
    ends = []
    for place, dev in enumerate((splits["dev"], splits["dev"][::-1].copy())):
        folder = Path(learner.folder) / str(place)
        folder.mkdir()
        own = learner.model_copy(update={"folder": str(folder)})
        training = train(tiny, own.load_recipe(tiny), {**splits, "dev": dev}, own, lambda event: None)
        ends.append((training.weights_sha256, training.curve[-1].dev_loss_nats))
    (weights, loss), (other_weights, other_loss) = ends
    assert weights == other_weights
    assert loss != other_loss


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_idea_earns_its_score(name: str, job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    assert run_through(open_job(job, HONEST[name]), tiny, splits) == ""


@pytest.mark.parametrize("name", UNCAUGHT)
def test_what_the_threat_model_calls_uncaught_is_so(name: str, job: Job, tiny: Track, splits: dict[str, Any]) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "threat-model.md").read_text()
    check_source(UNCAUGHT[name], Path("models/variants/idea.py"))
    assert run_through(open_job(job, UNCAUGHT[name]), tiny, splits) == ""


# Applies each cheat in a process that is confined as a worker is, and prints what came of it, a line each.
APPLY = """
import sys
from pathlib import Path
from harness.variants.recipe import apply_recipe
from harness.core.errors import LlmbenchError
from harness.player.job import Job
from harness.variants.recipe import draw_parameters
from harness.variants.source import VariantSource
import torch
job = Job.model_validate_json(sys.argv[1])
track = job.load_track()
sources = [VariantSource(Path(path).stem, Path(path), Path(path).read_text()) for path in sys.argv[3:]]
print(*job.confine(track, ("train", "dev") if sys.argv[2] == "train" else (), writes=sys.argv[2] == "train"))
for source in sources:
    try:
        apply_recipe({source.name: source}, track.model, track.optim)
        print("nothing")
    except LlmbenchError as error:
        print(error)
"""


@pytest.fixture(scope="module", params=["train", "serve"])
def answers(request: pytest.FixtureRequest, smoke: Track, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each cheat that reaches past its process, in one process confined as that worker is."""
    prepare(smoke)  # there is a val split to read
    job = make_job(smoke, tmp_path_factory.mktemp("run"))
    paths = [f"tests/cheats/{name}.py" for name in NEEDS_CONFINEMENT]
    done = python("-c", APPLY, job.model_dump_json(), request.param, *paths)
    assert done.returncode == 0, done.stderr
    in_force, *lines = done.stdout.splitlines()
    if set(in_force.split()) != {"landlock", "seccomp"}:
        pytest.skip("this kernel confines no process")
    return dict(zip(NEEDS_CONFINEMENT, lines, strict=True))


@pytest.mark.parametrize("name", NEEDS_CONFINEMENT)
def test_what_reaches_past_the_process_fails_by_name(name: str, answers: dict[str, str]) -> None:
    assert EXPECTED[name].run in answers[name]
