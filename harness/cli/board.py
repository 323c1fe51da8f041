"""Commands that read claims: the board, its check, the rule on anyone's numbers, and what its codes mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.again import rerun
from harness.cli.options import DECISION_EXITS, JobsOption, JsonOption, MaxPairsOption, show, show_json
from harness.errors import EXIT_OK, EXIT_REJECTED, LlmbenchError
from harness.project import Project


def leaderboard(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Write leaderboard.csv anew from submissions/.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the records and the negative results of every track."""
    from harness.leaderboard import make_rows
    from harness.leaderboard import rebuild as rebuild_csv
    from harness.report import board_tables

    project = Project.find()
    rows = rebuild_csv(project) if rebuild else make_rows(project)
    if as_json:
        show_json({"rows": [row.model_dump(mode="json") for row in rows]})
        return
    if not rows:
        show("The board is empty. Open it: `llmbench run baseline`, then `llmbench submit --baseline`.")
    for table in board_tables(rows):
        show(table)


def verify(
    path: Annotated[Path | None, typer.Argument(help="One submission's folder. Default: all, and the CSV.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All submissions and the CSV; the default.")] = False,
    again: Annotated[
        bool, typer.Option("--rerun", help="Then train the claim again on fresh seeds, and judge whether it holds.")
    ] = False,
    max_pairs: MaxPairsOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every number of a submission from its runs, replay its verdict, and check the board.

    With --rerun both arms of one submission are then trained on this machine, on seeds that follow from its
    sources and runs. The claim is `confirmed` (exit code 0) where the rule accepts the re-run too, `refuted` (3)
    where the re-run excludes it, else `open` (4): too weak to tell. An opening's own seeds are trained again.
    """
    from harness.verify import readable_board, verify_board, verify_folder

    project = Project.find()
    if again and (path is None or all_):
        raise LlmbenchError("--rerun trains one claim again; name it: `llmbench verify submissions/NNNN-name --rerun`")
    if not again and (max_pairs is not None or jobs is not None):
        raise LlmbenchError("--max-pairs and --jobs are about training; they go with --rerun")
    if path is None or all_:
        found = verify_board(project)
    else:
        folder = path.resolve()
        if folder.parent != project.submissions or not folder.is_dir():
            raise LlmbenchError(f"{path} is not a folder under submissions/; name one, or leave it out to check all")
        found = {folder.name: verify_folder(project, folder, readable_board(project))}
        if again and not any(found.values()):
            rerun(project, folder, max_pairs, jobs, as_json=as_json)
    if as_json:
        show_json({"ok": not any(found.values()), "problems": found})
    else:
        for name, problems in found.items():
            show(f"{'FAILED' if problems else 'ok':7}{name}")
            for problem in problems:
                show(f"       {problem}")
    raise typer.Exit(EXIT_REJECTED if any(found.values()) else EXIT_OK)


def judge(
    file: Annotated[Path, typer.Argument(help="JSON (candidate, and record or target) or CSV (arm,seed,value).")],
    target: Annotated[float | None, typer.Option(help="A fixed number to beat, instead of a record.")] = None,
    paired: Annotated[
        bool | None, typer.Option("--paired/--unpaired", help="Pair values by place, or by seed.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="What the gain must exceed.")] = None,
    alpha: Annotated[float | None, typer.Option(help="One-sided level. Default: 0.01.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Known deviation of a single value: a z-test.")] = None,
    lower_is_better: Annotated[bool | None, typer.Option("--lower-is-better/--higher-is-better")] = None,
    as_json: JsonOption = False,
) -> None:
    """Apply one fixed test to anyone's per-seed numbers, whatever trained them.

    JSON keys: candidate (a list), and record (a list) or target (a number); optional paired (false),
    margin (0), alpha (0.01), sigma (none), lower_is_better (true). A CSV has the columns arm,seed,value.
    Options override what the file says.
    """
    from harness.judge import judge_file
    from harness.reasons import explain

    options = {
        "target": target,
        "paired": paired,
        "margin": margin,
        "alpha": alpha,
        "sigma": sigma,
        "lower_is_better": lower_is_better,
    }
    judgement = judge_file(file, {key: value for key, value in options.items() if value is not None})
    if as_json:
        show_json(judgement.model_dump(mode="json"))
    else:
        for name, value in judgement.model_dump().items():
            show(f"{name}: {', '.join(value) if name == 'reasons' else value}")
        for code in judgement.reasons:
            show(explain(code))
    raise typer.Exit(DECISION_EXITS[judgement.decision])


def explain(
    code: Annotated[str | None, typer.Argument(help="A reason code. Default: all of them.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say in plain words what a verdict's reason code means."""
    from harness.reasons import REASONS
    from harness.reasons import explain as explain_code

    reasons = REASONS if code is None else {code: explain_code(code)}
    if as_json:
        show_json({"reasons": reasons})
    for name, sentence in reasons.items() if not as_json else ():
        show(f"{name}: {sentence}")
