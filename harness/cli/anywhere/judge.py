"""`llmbench judge`: applies the rule to anyone's per-seed numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.cli.options import argument, flag, option, show, show_json
from harness.core.errors import LlmbenchError
from harness.rule.files.read import judge_file
from harness.rule.files.rows import Names
from harness.show.documents import JudgeDocument
from harness.show.report import judgement_facts, judgement_sentence
from harness.show.tables import facts_table


def judge(
    file: Annotated[Path, argument("FILE", "JSON, CSV or JSON lines, - for standard input, or a folder of runs.")],
    target: Annotated[float | None, option("VALUE", "A fixed number to beat, instead of a record.")] = None,
    paired: Annotated[
        bool | None,
        flag(
            "--paired/--unpaired", "Pair the arms' values, or not. Default: by seed in a table, not in a JSON object."
        ),
    ] = None,
    looks: Annotated[
        str | None, option("N,N,...", "Numbers of pairs after which it may decide, declared beforehand, as 3,5,8.")
    ] = None,
    margin: Annotated[float | None, option("VALUE", "What the gain must exceed. Default: 0.")] = None,
    alpha: Annotated[
        float | None, option("LEVEL", "False-accept rate over all looks, one-sided. Default: 0.01.")
    ] = None,
    sigma: Annotated[float | None, option("VALUE", "Known standard deviation of a value: a z-test.")] = None,
    lower_is_better: Annotated[
        bool | None, flag("--lower-is-better/--higher-is-better", "Which way is better. Default: lower.")
    ] = None,
    record_arm: Annotated[str | None, option("NAME", "The arm that is the record. Default: record.")] = None,
    candidate_arm: Annotated[str | None, option("NAME", "The arm that is the candidate. Default: the other.")] = None,
    arm_column: Annotated[str | None, option("NAME", "Column or key of the arm. Default: arm.")] = None,
    seed_column: Annotated[str | None, option("NAME", "Column or key of the seed. Default: seed.")] = None,
    value_column: Annotated[
        str | None, option("NAME", "Column or key of the value. Default: value, or the only other one with numbers.")
    ] = None,
    tag: Annotated[
        str | None,
        option("NAME", "In a folder: the tag or key whose last value is used. Default: eval_loss, or the only one."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Apply the rule to anyone's per-seed numbers, whatever trained them: one test, or declared looks.

    FILE is one of these; docs/judge.md has an example of each.

    A JSON object: candidate (a list), and record (a list) or target (a number); optional paired (false),
    looks (none), margin (0), alpha (0.01), sigma (none), lower_is_better (true). Options override it.

    A table with the columns arm, seed and value, in any order, among others; or JSON lines with these keys.

    A folder FOLDER/ARM/RUN, RUN named by its seed (seed1), with TensorBoard's event files or a
    trainer_state.json of Hugging Face's Trainer.
    """
    given: dict[str, object] = {"target": target, "paired": paired, "margin": margin, "alpha": alpha, "sigma": sigma}
    given |= {"lower_is_better": lower_is_better, "looks": None if looks is None else _looks(looks)}
    names = Names(
        record_arm=record_arm,
        candidate_arm=candidate_arm,
        arm_column=arm_column,
        seed_column=seed_column,
        value_column=value_column,
        tag=tag,
    )
    judgement = judge_file(file, {key: value for key, value in given.items() if value is not None}, names)
    if as_json:
        show_json(JudgeDocument(**dict(judgement)))
    else:
        show(facts_table(judgement_facts(judgement)))
        show(judgement_sentence(judgement), style=options.DECISION_STYLES[judgement.decision])
    raise typer.Exit(options.DECISION_EXITS[judgement.decision])


def _looks(text: str) -> list[int]:
    try:
        return [int(look) for look in text.split(",")]
    except ValueError as error:
        raise LlmbenchError(f"--looks takes numbers of pairs separated by commas, as 3,5,8; found '{text}'") from error
