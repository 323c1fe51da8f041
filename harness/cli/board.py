"""Commands that read claims: the board, its check, the rule on anyone's numbers, and what its codes mean."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.board.check_board import Checked, check_board, check_folder, readable_board
from harness.board.flags import FLAGS, Flag
from harness.board.leaderboard import make_rows
from harness.board.pull_request import review_changes
from harness.board.rows import stored_rows
from harness.cli.challenge import rerun
from harness.cli.options import (
    DECISION_EXITS,
    DECISION_STYLES,
    JobsOption,
    JsonOption,
    MaxPairsOption,
    complete_submissions,
    log,
    show,
    show_json,
)
from harness.core.errors import EXIT_OK, EXIT_REJECTED, LlmbenchError, did_you_mean
from harness.core.project import Project, read_text
from harness.lab.submit import rebuild_texts
from harness.rule.external import judge_file
from harness.rule.reasons import REASONS
from harness.rule.reasons import explain as explain_code
from harness.show.documents import ExplainDocument, JudgeDocument, LeaderboardDocument, VerifyDocument
from harness.show.report import check_lines, check_markdown, judgement_facts
from harness.show.site import write_site
from harness.show.tables import board_tables, facts_table

NEWEST = 20  # rows of a table that a terminal shows


def leaderboard(
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Write leaderboard.csv and all texts again from the submissions, which `verify` checks."
        ),
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="DIR", help="Write the board as a static site into this folder.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every row. Default: the newest twenty of each table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the records and the negative results of every track, as leaderboard.csv has them."""
    project = Project.find()
    if rebuild:
        rows = rebuild_texts(project)
    else:
        stored = stored_rows(project)
        rows = make_rows(project) if stored is None else stored
    if html is not None:
        files = write_site(project, html)
        size_kb = sum(len(text.encode()) for text in files.values()) / 1000
        log(f"{html / 'index.html'}: {len(rows)} submissions, {len(files)} files, {size_kb:.0f} kB")
    if as_json:
        show_json(LeaderboardDocument(rows=tuple(rows)))
    if as_json or html is not None:
        return
    if rebuild:
        log("leaderboard.csv, the board in README.md and the submissions' texts are written again")
    if not rows:
        show("The board is empty. Open it: `llmbench run baseline`, then `llmbench submit --baseline`.")
    for place, table in enumerate(board_tables(rows, Console().width, None if all_ else NEWEST)):
        if place:
            show("")
        show(table)


def verify(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="One submission's folder. Default: all, and the CSV.",
            autocompletion=complete_submissions,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All submissions and the CSV; the default.")] = False,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION", help="Also: what differs from this git revision is one submission and no more."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--rerun", help="Then train the claim again on fresh seeds, and judge whether it holds.")
    ] = False,
    max_pairs: MaxPairsOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a CI job's summary.")] = False,
) -> None:
    """Recompute every number of a submission from its runs, replay its verdict, and check the board.

    With --rerun both arms of one submission are then trained on this machine, on seeds that follow from its
    sources and runs. The claim is `confirmed` (exit code 0) where the rule accepts the re-run too, `refuted` (3)
    where the re-run excludes it, else `open` (4), too weak to tell. An opening's own seeds are trained again.
    """
    project = Project.find()
    if path is not None and (all_ or base):
        raise LlmbenchError("--all and --base check the whole board; leave the folder out")
    if again and path is None:
        raise LlmbenchError("--rerun trains one claim again; name it: `llmbench verify submissions/NNNN-name --rerun`")
    if not again and (max_pairs is not None or jobs is not None):
        raise LlmbenchError("--max-pairs and --jobs are about training; they go with --rerun")
    if base is not None:
        review = review_changes(project, base)
        fields = {"base": review.base, "new": review.new, "summary": review.summary, "stale": review.stale}
        found, code = _check_document(review.problems, review.flags, **fields), review.exit_code
    else:
        checked = check_board(project) if path is None else _check_one(project, path)
        flags = {name: one.flags for name, one in checked.items() if one.row and not one.problems}
        found = _check_document({name: one.problems for name, one in checked.items()}, flags)
        code = EXIT_OK if found.ok else EXIT_REJECTED
    if again and path is not None and found.ok:
        rerun(project, path.resolve(), max_pairs, jobs, as_json=as_json)
    if as_json:
        show_json(found)
    elif as_markdown:
        sys.stdout.write(_check_markdown(project, found))
    else:
        _show_check(found)
    raise typer.Exit(code)


def _check_one(project: Project, path: Path) -> dict[str, Checked]:
    """One submission's name and what is found in it. Raises LlmbenchError where `path` is no submission."""
    folder = path.resolve()
    if folder.parent != project.submissions or not folder.is_dir():
        meant = did_you_mean(folder.name, (own.name for own in project.submissions.glob("[0-9]*")))
        raise LlmbenchError(f"{path} is not a folder under submissions/{meant}; name one, or leave it out to check all")
    return {folder.name: check_folder(project, folder, readable_board(project, until=folder))}


def _check_document(
    problems: Mapping[str, Sequence[str]], flags: Mapping[str, Sequence[Flag]], **fields: Any
) -> VerifyDocument:
    num_flags = sum(map(len, flags.values()))
    return VerifyDocument(ok=not any(problems.values()), problems=problems, num_flags=num_flags, flags=flags, **fields)


def _show_check(found: VerifyDocument) -> None:
    lines = [*([found.summary] if found.summary else []), *check_lines(found.problems, found.flags)]
    if not sys.stdout.isatty():
        show("\n".join(lines))
        return
    styles = {"ok": "green", "FAILED": "bold red"}
    for line in lines:
        show(line, styles.get(line.split(" ", 1)[0], ""))


def _check_markdown(project: Project, found: VerifyDocument) -> str:
    """The check as Markdown, then the README of each new submission that holds."""
    texts = [f"**{found.summary}**\n"] if found.summary else []
    texts.append(check_markdown(found.problems, found.flags))
    texts += [read_text(project.submissions / name / "README.md") for name in found.new if not found.problems[name]]
    return "\n".join(texts)


def judge(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON (candidate, and record or target) or CSV (arm,seed,value).")
    ],
    target: Annotated[
        float | None, typer.Option(metavar="VALUE", help="A fixed number to beat, instead of a record.")
    ] = None,
    paired: Annotated[
        bool | None, typer.Option("--paired/--unpaired", help="Pair values by place, or by seed.")
    ] = None,
    margin: Annotated[float | None, typer.Option(metavar="VALUE", help="What the gain must exceed.")] = None,
    alpha: Annotated[float | None, typer.Option(metavar="LEVEL", help="One-sided level. Default: 0.01.")] = None,
    sigma: Annotated[
        float | None, typer.Option(metavar="VALUE", help="Known deviation of a single value: a z-test.")
    ] = None,
    lower_is_better: Annotated[
        bool | None, typer.Option("--lower-is-better/--higher-is-better", help="Which way is better. Default: lower.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Apply one fixed test to anyone's per-seed numbers, whatever trained them.

    JSON keys: candidate (a list), and record (a list) or target (a number); optional paired (false),
    margin (0), alpha (0.01), sigma (none), lower_is_better (true). A CSV has the columns arm,seed,value.
    Options override what the file says.
    """
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
        show_json(JudgeDocument(**dict(judgement)))
    else:
        show(facts_table(judgement_facts(judgement)))
        sentences = " ".join(explain_code(code) for code in judgement.reasons)
        show(f"{judgement.decision.upper()}: {sentences}", DECISION_STYLES[judgement.decision])
    raise typer.Exit(DECISION_EXITS[judgement.decision])


def complete_codes() -> list[str]:
    """Reason codes and flags for the shell."""
    return [*REASONS, *FLAGS]


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            autocompletion=complete_codes,
            help="A reason code, or a flag's name. Default: all of them.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say in plain words what a verdict's reason code, or a flag for review, means."""
    flags = {name: mark.sentence for name, mark in FLAGS.items()}
    reasons = REASONS | flags if code is None else {code: flags.get(code) or explain_code(code)}
    if as_json:
        show_json(ExplainDocument(reasons=reasons))
    elif code is not None:
        show(f"{code}: {reasons[code]}")
    else:
        show("a verdict's reasons, of `llmbench run candidate`", "bold")
        show(facts_table([*REASONS.items()]))
        show("")
        show("flags for review, of `llmbench verify`", "bold")
        show(facts_table([*flags.items()]))
