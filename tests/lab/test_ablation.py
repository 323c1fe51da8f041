"""An ablation: it finds what was put in, shares the record's runs, goes on where it stopped, and is kept whole."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from harness.board.leaderboard import Board, read_board
from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.runs import FailedRun, FinishedRun, RunIdentity
from harness.core.track import Track, load_track
from harness.lab.arms import source_digests
from harness.lab.store import RunStore
from harness.lab.studies.ablation import (
    Ablation,
    Contribution,
    Runs,
    kept_runs,
    measure,
    removals,
    save_runs,
    stack_to_ablate,
    without,
)
from harness.lab.studies.series import make_series
from harness.show.studies.ablation import ablation_lines, ablation_page, ablation_table, draw_ablation
from tests.make import ROOT, copy_board, make_run
from tests.sandbox import FiledContest, Sandbox

NAMES = ("qk_norm", "requery", "token_smear")
STACK = "base+qk_norm+requery+token_smear"
NOTHING = Board(())


def runs_of(recipe: str, losses: Sequence[float], track: Track, **changes: Any) -> list[FinishedRun]:
    return [
        make_run(recipe, seed, loss, training_digest=track.training_digest, **changes)
        for seed, loss in enumerate(losses)
    ]


def stack_losses(count: int) -> np.ndarray[Any, Any]:
    return 4 + np.random.default_rng(0).normal(size=count) / 64


def report(project: Project, track: Track, gains: Mapping[tuple[str, ...], Sequence[float]]) -> Ablation:
    """Of a stack whose runs lose so much, seed by seed, without some variants."""
    stack = stack_losses(len(next(iter(gains.values()))))
    made: dict[str, Runs] = {STACK: runs_of(STACK, stack.tolist(), track)}
    made |= {
        without(STACK, removed): runs_of(without(STACK, removed), (stack + np.array(lost)).tolist(), track)
        for removed, lost in gains.items()
    }
    return measure(project, NOTHING, track, STACK, made)


def by_name(found: Ablation) -> dict[tuple[str, ...], Contribution]:
    return {one.removed: one for one in found.contributions}


def test_each_variant_is_left_out_and_then_each_two() -> None:
    assert removals("base+a+b+c", 1) == [("a",), ("b",), ("c",)]
    assert removals("base+a+b+c", 2)[3:] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [without("base+a+b+c", removed) for removed in (("b",), ("a", "c"))] == ["base+a+c", "base+b"]
    assert removals("base+a", 2) == [("a",)]


def test_what_does_nothing_contributes_nothing_and_does_not_pay(project: Project, smoke: Track) -> None:
    found = report(project, smoke, {("requery",): [0.0] * 4, ("qk_norm",): [0.1, 0.11, 0.12, 0.1]})
    one = by_name(found)[("requery",)]
    assert (one.contribution, one.ci_low, one.ci_high, one.worth) == (0.0, 0.0, 0.0, "does not pay")
    assert (one.time_ratio, one.added_params, one.runs) == (1.0, 0, 4)
    assert [one.removed for one in found.contributions] == [("qk_norm",), ("requery",)]  # the largest first


@pytest.mark.parametrize(
    ("units", "worth"), [(3.0, "pays"), (1.5, "unclear"), (1.0, "unclear"), (0.5, "unclear"), (-1.0, "does not pay")]
)
def test_it_pays_where_the_whole_interval_is_above_the_price(
    units: float, worth: str, project: Project, smoke: Track
) -> None:
    """Four runs whose interval reaches as far as the price is high."""
    cost = by_name(report(project, smoke, {("requery",): [0.0] * 4}))[("requery",)]
    assert cost.price == pytest.approx(cost.added_statements * smoke.rule.loss_per_statement)
    reach = np.array([-1, -1, 1, 1]) * cost.price * np.sqrt(3) / 3.182446  # t at 97.5 %, three degrees of freedom
    one = by_name(report(project, smoke, {("requery",): (units * cost.price + reach).tolist()}))[("requery",)]
    assert one.contribution == pytest.approx(units * cost.price)
    assert one.ci_low == pytest.approx((units - 1) * cost.price, abs=1e-8)
    assert one.ci_high == pytest.approx((units + 1) * cost.price, abs=1e-8)
    assert one.worth == worth


def test_the_interval_covers_the_truth_nineteen_times_in_twenty(project: Project, smoke: Track) -> None:
    draws = np.random.default_rng(3).normal(0.03, 0.01, size=(200, 4))
    found = [by_name(report(project, smoke, {("requery",): draw.tolist()}))[("requery",)] for draw in draws]
    covered = [(one.ci_low or 0) <= 0.03 <= (one.ci_high or 0) for one in found]
    assert 0.91 <= np.mean(covered) <= 0.99


def test_contributions_that_add_up_have_no_interaction_and_others_have_theirs(project: Project, smoke: Track) -> None:
    one, other = np.array([0.03, 0.031, 0.029, 0.03]), np.array([0.01, 0.012, 0.011, 0.01])
    single: dict[tuple[str, ...], Sequence[float]] = {("qk_norm",): one.tolist(), ("requery",): other.tolist()}
    for extra in (0.0, 0.02, -0.01):
        found = by_name(report(project, smoke, {**single, ("qk_norm", "requery"): (one + other + extra).tolist()}))
        both = found[("qk_norm", "requery")].interaction
        assert both is not None
        assert both.sum_of_singles == pytest.approx((one + other).mean())
        assert both.gain == pytest.approx(extra, abs=1e-9)
        assert found[("qk_norm",)].interaction is None
    alone = by_name(report(project, smoke, {("qk_norm", "requery"): one.tolist()}))
    assert alone[("qk_norm", "requery")].interaction is None


def identity_of(recipe: str, seed: int, track: Track) -> RunIdentity:
    run = make_run(recipe, seed, 4.0, training_digest=track.training_digest)
    return RunIdentity(**{name: getattr(run, name) for name in RunIdentity.model_fields})


def failed_run(recipe: str, track: Track, seed: int = 0, reason: str = "no end", **changes: Any) -> FailedRun:
    failed = FailedRun(**dict(identity_of(recipe, seed, track)), status="diverged", reason=reason)
    return failed.model_copy(update=changes)


def test_what_fails_or_cannot_be_compared_has_a_reason_and_no_numbers(project: Project, smoke: Track) -> None:
    stack = runs_of(STACK, [4.0, 4.01, 4.02], smoke)
    names = {name: without(STACK, (name,)) for name in NAMES}
    made: dict[str, Runs] = {
        STACK: stack,
        names["qk_norm"]: [failed_run(names["qk_norm"], smoke, 1)],
        names["requery"]: runs_of(names["requery"], [4.1, 4.11, 4.13], smoke, code_digest="e" * 64),
        names["token_smear"]: runs_of(names["token_smear"], [4.2, 4.22, 4.21], smoke),
    }
    found = measure(project, NOTHING, smoke, STACK, made)
    assert by_name(found)[("token_smear",)].worth == "pays"
    for name, reason in {"qk_norm": "diverged: no end", "requery": "mixed_code"}.items():
        one = by_name(found)[(name,)]
        assert (one.worth, one.contribution, one.runs, one.claim) == ("not measured", None, 0, None)
        assert (one.reason or "").startswith(reason)
        assert any(line.startswith(f"without {name}: not measured: {reason}") for line in ablation_lines(found, smoke))
    assert found.contributions[0].removed == ("token_smear",)


class Rigged(RunStore):
    """A store whose runs take no time: `failing` ones fail from a seed on, `broken` ones are not built."""

    failing: Mapping[str, int]
    broken: frozenset[str]
    asked: list[tuple[str, int]]

    def identify(self, recipe: str, seed: int) -> RunIdentity:
        return identity_of(recipe, seed, self.track)

    def feed(self, take: Any, keep: Any, milestone: Any = None) -> None:
        while (run := take()) is not None:
            self.asked.append((run.recipe, run.seed))
            result = Future[FinishedRun | FailedRun]()
            if run.recipe in self.broken:
                result.set_exception(LlmbenchError(f"{run.recipe} needs what is gone (full log: /somewhere/train.log)"))
            elif run.seed >= self.failing.get(run.recipe, 99):
                result.set_result(failed_run(run.recipe, self.track, run.seed, "loss is NaN (full log: /x)"))
            else:
                result.set_result(make_run(run.recipe, run.seed, 4.0, training_digest=run.training_digest))
            keep(run, result)


def rigged(track: Track, failing: Mapping[str, int], broken: Sequence[str] = ()) -> Rigged:
    store = Rigged(Project(ROOT), track, jobs=1)
    for name, value in {"failing": failing, "broken": frozenset(broken), "asked": []}.items():
        object.__setattr__(store, name, value)
    return store


def test_a_recipe_that_fails_ends_alone(smoke: Track) -> None:
    broken, failing = without(STACK, ("requery",)), without(STACK, ("qk_norm",))
    store = rigged(smoke, {failing: 1}, [broken])
    made = make_series(store, [STACK, *(without(STACK, one) for one in removals(STACK, 1))], (0, 1, 2))
    assert {recipe: [run.status for run in runs] for recipe, runs in made.items()} == {
        STACK: ["finished"] * 3,
        without(STACK, ("token_smear",)): ["finished"] * 3,
        failing: ["diverged"],
        broken: ["invalid"],
    }
    assert [made[recipe][0].reason for recipe in (failing, broken)] == ["loss is NaN", f"{broken} needs what is gone"]  # type: ignore[union-attr]
    assert [seed for recipe, seed in store.asked if recipe == broken] == [0]
    assert store.asked[:4] == [(recipe, 0) for recipe in (STACK, failing, broken, without(STACK, ("token_smear",)))]
    assert len(set(store.asked)) == len(store.asked)


def test_a_stack_that_fails_itself_is_an_error(smoke: Track) -> None:
    with pytest.raises(
        LlmbenchError, match=f"{re.escape(STACK)} with seed 1 has no val loss \\(diverged\\): loss is NaN"
    ):
        make_series(rigged(smoke, {STACK: 1}), [STACK, *(without(STACK, one) for one in removals(STACK, 1))], (0, 1, 2))


@pytest.mark.parametrize(
    ("losses", "is_claimed"),
    [
        ([0.0, 0.001, -0.001, 0.0], True),  # nothing
        ([0.004, 0.014, -0.006, 0.004], True),  # unclear, and little
        ([0.05, 0.051, 0.05, 0.052], False),  # pays
        ([0.0031, 0.003, 0.0029, 0.003], False),  # pays, and little
        ([0.02, 0.06, -0.06, 0.02], False),  # unclear, and much: the lane would hardly take it
    ],
)
def test_what_is_not_worth_its_code_is_named_with_the_command_that_claims_it(
    losses: Sequence[float], is_claimed: bool, tmp_path: Path
) -> None:
    project = copy_board(tmp_path)
    board, pocket = read_board(project), load_track(project, "pocket")
    recipe = "base+token_smear"
    made = {
        recipe: runs_of(recipe, [3.5] * 4, pocket),
        "base": runs_of("base", [3.5 + loss for loss in losses], pocket),
    }
    (one,) = measure(project, board, pocket, recipe, made).contributions
    command = "llmbench run candidate --without token_smear --lane simplicity"
    assert one.claim == (command if is_claimed else None)
    assert (
        any(command in line for line in ablation_lines(measure(project, board, pocket, recipe, made), pocket))
        is is_claimed
    )
    assert measure(project, NOTHING, pocket, recipe, made).contributions[0].claim is None  # of no record


def test_a_base_has_nothing_to_leave_out(tmp_path: Path, smoke: Track) -> None:
    project = Project(ROOT)
    with pytest.raises(LlmbenchError, match="the record of smoke is base, which has no variant to leave out; name"):
        stack_to_ablate(project, NOTHING, smoke, None)
    with pytest.raises(LlmbenchError, match="base has no variant to leave out"):
        stack_to_ablate(project, NOTHING, smoke, "base")
    with pytest.raises(LlmbenchError, match="there is no variant 'token_smaer'"):
        stack_to_ablate(project, NOTHING, smoke, "base+token_smaer")
    assert stack_to_ablate(project, NOTHING, smoke, STACK) == STACK


def test_a_kept_ablation_is_read_as_it_was_made_and_for_its_own_edition_and_files_only(
    tmp_path: Path, smoke: Track
) -> None:
    project = copy_board(tmp_path)

    def sources(recipe: str) -> dict[str, Any]:
        return {"sources": source_digests(project, recipe)}

    rest, smaller = without(STACK, ("requery", "token_smear")), "base+requery+token_smear"
    first: dict[str, Runs] = {
        recipe: runs_of(recipe, losses, smoke, **sources(recipe))
        for recipe, losses in ((STACK, [4.0, 4.1, 4.2]), (rest, [4.1, 4.2, 4.3]))
    }
    folder = save_runs(project, smoke, STACK, first)
    assert kept_runs(project, smoke) == (STACK, first)
    second: dict[str, Runs] = {
        smaller: runs_of(smaller, [4.0, 4.1], smoke, **sources(smaller)),
        "base+requery": [failed_run("base+requery", smoke, **sources("base+requery"))],
    }
    save_runs(project, smoke, smaller, second)
    assert kept_runs(project, smoke) == (smaller, second)
    assert len(list(folder.iterdir())) == 3  # nothing of the first is left
    budget = smoke.budget.model_copy(update={"tokens": 2 * smoke.budget.tokens})
    with pytest.raises(LlmbenchError, match="another version of smoke"):
        kept_runs(project, smoke.model_copy(update={"budget": budget}))
    (project.variants / "requery.py").write_text((project.variants / "qk_norm.py").read_text())
    with pytest.raises(LlmbenchError, match=r"a variant has changed since the ablation in .* was made"):
        kept_runs(project, smoke)
    with pytest.raises(
        LlmbenchError, match=r"no ablation .* is saved for pocket; run `llmbench ablate --save --track pocket`"
    ):
        kept_runs(project, load_track(project, "pocket"))


@pytest.mark.parametrize("width", [66, 140])
def test_table_page_and_picture_show_every_variant(width: int, project: Project, smoke: Track) -> None:
    gains = {("qk_norm",): [0.1, 0.11, 0.12], ("requery",): [0.0] * 3, ("qk_norm", "requery"): [0.1, 0.12, 0.11]}
    found = report(project, smoke, gains)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(ablation_table(found, smoke, width))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= width
    page = ablation_page(found, smoke, "x.png")
    for text in (shown, page):
        assert {"qk_norm", "requery"} <= set(re.findall(r"\w+", text))
        assert "+0.1100" in text
        assert "does not pay" in text
    assert ("stmts" in shown) is (width > 100)
    assert f"--recipe {STACK} --runs 3 --pairs 2" in page
    labels = [label.get_text() for label in draw_ablation(found).axes[0].get_yticklabels()]
    assert sorted(labels) == ["qk_norm", "qk_norm + requery", "requery"]


@pytest.mark.parametrize("folder", sorted((ROOT / "benchmarks" / "ablation").glob("*/")), ids=lambda path: path.name)
def test_the_committed_page_is_what_its_runs_say(folder: Path, project: Project) -> None:
    track = load_track(project, folder.name)
    stack, made = kept_runs(project, track)
    page = ablation_page(measure(project, read_board(project), track, stack, made), track, "contributions.png")
    assert (folder / "README.md").read_text() == page, f"run `llmbench ablate --stored --save --track {track.name}`"
    assert (folder / "contributions.png").exists()


# --- the command -------------------------------------------------------------------------------------------------


def run_files(own: Sandbox) -> dict[str, float]:
    return {str(path.relative_to(own.root)): path.stat().st_mtime for path in own.root.glob("runs/*/*/*/*/run.json")}


def test_an_ablation_shares_the_records_runs_and_goes_on_where_it_was_interrupted(
    filed: FiledContest, tmp_path: Path
) -> None:
    own = filed.sandbox.copy(tmp_path / "ablation")
    before = run_files(own)
    command = ("ablate", "--track", "smoke", "--runs", "2", "--jobs", "1")  # one at a time: no run is there already
    with subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *command],
        cwd=own.root,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    ) as process:
        lines = process.stderr or ()
        if any("tok/s)" in line for line in lines):
            process.send_signal(signal.SIGINT)
        told = "".join(lines)
    assert process.returncode == 130, told
    assert "interrupted" in told
    kept = run_files(own)
    assert len(kept) in (len(before) + 1, len(before) + 2)
    document = own.json(*command, "--save")
    after, (one,) = run_files(own), document["contributions"]
    assert kept.items() <= after.items()  # none was made again
    assert len(after) == len(before) + 4
    assert (document["recipe"], document["runs"], one["removed"]) == ("base+token_smear", 2, ["token_smear"])
    runs = {path.name: json.loads(path.read_text()) for path in (own.root / "benchmarks/ablation/smoke").glob("*.json")}
    assert len(runs) == 4
    losses = {name: run["evaluation"]["nats"] / run["evaluation"]["tokens"] for name, run in runs.items()}
    gains = [losses[f"without-token_smear-seed-{seed}.json"] - losses[f"record-seed-{seed}.json"] for seed in range(2)]
    assert one["contribution"] == pytest.approx(np.mean(gains))
    assert own.json("ablate", "--track", "smoke", "--stored") == document


def test_wrong_input_is_one_sentence(filed: FiledContest, sandbox: Sandbox) -> None:
    assert "which has no variant to leave out" in sandbox.refuses("ablate", "--track", "smoke")
    own = filed.sandbox
    assert "give --runs 8 or less" in own.refuses("ablate", "--track", "smoke", "--runs", "9")
    assert "is saved for smoke" in own.refuses("ablate", "--track", "smoke", "--stored")
    assert "names a variant twice" in own.refuses("ablate", "--track", "smoke", "--recipe", "base+requery+requery")
    assert "there is no executor" in own.refuses("ablate", "--track", "smoke", "--executor", "rya")
