"""The command `llmbench judge`. It tests whether losses that the user already has show a gain."""

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
    file: Annotated[
        Path, argument("FILE", "A file in JSON, CSV or JSON Lines, `-` for standard input, or a folder of runs.")
    ],
    target: Annotated[float | None, option("VALUE", "A fixed number to beat, instead of a record.")] = None,
    paired: Annotated[
        bool | None,
        flag(
            "--paired/--unpaired",
            "Whether values of record and candidate form pairs. Default: paired in a table, unpaired in a JSON object.",
        ),
    ] = None,
    looks: Annotated[
        str | None,
        option("N,N,...", "Numbers of pairs, fixed beforehand, after which the test may decide, such as 3,5,8."),
    ] = None,
    margin: Annotated[float | None, option("VALUE", "The value that the gain must exceed. Default: 0.")] = None,
    alpha: Annotated[
        float | None,
        option(
            "LEVEL",
            "Probability of accepting a candidate without a gain, in all tests together, one-sided. Default: 0.01.",
        ),
    ] = None,
    sigma: Annotated[
        float | None, option("VALUE", "Standard deviation of a value, if it is known; then a z-test is made.")
    ] = None,
    lower_is_better: Annotated[
        bool | None, flag("--lower-is-better/--higher-is-better", "Which values are better. Default: lower ones.")
    ] = None,
    record_arm: Annotated[
        str | None, option("NAME", "The record's name in the column or key `arm`. Default: record.")
    ] = None,
    candidate_arm: Annotated[
        str | None, option("NAME", "The candidate's name in the column or key `arm`. Default: the other name.")
    ] = None,
    arm_column: Annotated[
        str | None, option("NAME", "Column or key that tells record and candidate apart. Default: arm.")
    ] = None,
    seed_column: Annotated[str | None, option("NAME", "Column or key that holds the seed. Default: seed.")] = None,
    value_column: Annotated[
        str | None,
        option("NAME", "Column or key that holds the value. Default: value, or the only other one with numbers."),
    ] = None,
    tag: Annotated[
        str | None,
        option("NAME", "In a folder: the tag or key whose last value is used. Default: eval_loss, or the only one."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Test whether a candidate beats a record, from numbers per seed that you already have.

    FILE has one of three forms; docs/judge.md has an example of each form.

    A JSON object with candidate (a list), and record (a list) or target (a number). Optional keys and their defaults:
    paired (false), looks (one test of all numbers), margin (0), alpha (0.01), sigma (unknown), lower_is_better (true).

    A CSV table with the columns arm, seed and value, in any order and beside other columns; or JSON lines with these
    keys. The column arm says `record` for the record's values, and another word for the candidate's.

    A folder that holds one folder for each run, FOLDER/ARM/RUN. ARM is `record` or another word, and RUN is named by
    its seed, such as seed1. RUN holds TensorBoard's event files, or a trainer_state.json of Hugging Face's Trainer.
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
        raise LlmbenchError(
            f"--looks '{text}' is not a list of whole numbers; write numbers of pairs like 3,5,8"
        ) from error
