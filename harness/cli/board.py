"""Commands that read claims: the board, its check, the rule on anyone's numbers, and what its codes mean."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from harness.core.project import Project

if TYPE_CHECKING:
    from harness.board.flags import Flag
    from harness.board.pull_request import Review

    Problems = Mapping[str, Sequence[str]]
    Flags = Mapping[str, Sequence[Flag]]


NEWEST = 20  # rows of a table that a terminal shows


def leaderboard(
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Write leaderboard.csv and all texts anew from the submissions, which `verify` checks."
        ),
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="DIR", help="Write the board as a static site into this folder.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every row. Default: the newest twenty of each table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the records and the negative results of every track, as leaderboard.csv has them."""
    from harness.board.rows import stored_rows
    from harness.show.tables import board_tables

    project = Project.find()
    if rebuild:
        from harness.lab.submit import rebuild_texts

        rows = rebuild_texts(project)
    elif (stored := stored_rows(project)) is not None:
        rows = stored
    else:
        from harness.board.leaderboard import make_rows

        rows = make_rows(project)
    if html is not None:
        from harness.show.site import write_site

        files = write_site(project, html)
        size_kb = sum(len(text.encode()) for text in files.values()) / 1000
        log(f"{html / 'index.html'}: {len(rows)} submissions, {len(files)} files, {size_kb:.0f} kB")
    if as_json:
        from harness.show.documents import Leaderboard

        show_json(Leaderboard(rows=tuple(rows)))
    if as_json or html is not None:
        return
    from rich.console import Console

    if rebuild:
        log("leaderboard.csv, the board in README.md and the submissions' texts are written anew")
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
    where the re-run excludes it, else `open` (4): too weak to tell. An opening's own seeds are trained again.
    """
    from harness.board.check_board import check_board, check_folder, readable_board
    from harness.board.pull_request import review_changes
    from harness.show.documents import FlagFound, Verify, joined

    project, review = Project.find(), None
    if path is not None and (all_ or base):
        raise LlmbenchError("--all and --base check the whole board; leave the folder out")
    if again and path is None:
        raise LlmbenchError("--rerun trains one claim again; name it: `llmbench verify submissions/NNNN-name --rerun`")
    if not again and (max_pairs is not None or jobs is not None):
        raise LlmbenchError("--max-pairs and --jobs are about training; they go with --rerun")
    if base is not None:
        review = review_changes(project, base)
        found, flags = review.problems, review.flags
    elif path is None:
        checked = check_board(project)
    else:
        folder = path.resolve()
        if folder.parent != project.submissions or not folder.is_dir():
            meant = did_you_mean(folder.name, (own.name for own in project.submissions.glob("[0-9]*")))
            raise LlmbenchError(
                f"{path} is not a folder under submissions/{meant}; name one, or leave it out to check all"
            )
        checked = {folder.name: check_folder(project, folder, readable_board(project, until=folder))}
        if again and not checked[folder.name].problems:
            rerun(project, folder, max_pairs, jobs, as_json=as_json)
    if review is None:
        found = {name: one.problems for name, one in checked.items()}
        flags = {name: one.flags for name, one in checked.items() if one.row and not one.problems}
    if as_json:
        marks = {name: tuple(FlagFound(**flag._asdict()) for flag in own) for name, own in flags.items()}
        seen: dict[str, Any] = {}
        if review is not None:
            seen = {"base": review.base, "new": review.new, "summary": review.summary, "stale": review.stale}
        show_json(
            Verify(
                ok=not any(found.values()),
                problems=joined(found),
                num_flags=sum(map(len, flags.values())),
                flags=marks,
                **seen,
            )
        )
    elif as_markdown:
        _write_check(project, found, flags, review)
    else:
        _show_check(found, flags, review)
    code = EXIT_REJECTED if any(found.values()) else EXIT_OK
    raise typer.Exit(review.exit_code if review else code)


def _show_check(found: Problems, flags: Flags, review: Review | None) -> None:
    from harness.show.report import check_lines

    lines = [*([review.summary] if review else []), *check_lines(found, flags)]
    if not sys.stdout.isatty():
        show("\n".join(lines))
        return
    styles = {"ok": "green", "FAILED": "bold red"}
    for line in lines:
        show(line, styles.get(line.split(" ", 1)[0], ""))


def _write_check(project: Project, found: Problems, flags: Flags, review: Review | None) -> None:
    """The check as Markdown, and what is new if it holds: its README, whose picture no summary shows."""
    from harness.core.project import read_text
    from harness.show.report import check_markdown

    texts = [check_markdown(found, flags)]
    if review is not None:
        texts.insert(0, f"**{review.summary}**\n")
        texts += [read_text(project.submissions / name / "README.md") for name in review.new if not found[name]]
    sys.stdout.write("\n".join(texts))


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
    from harness.rule.external import judge_file
    from harness.rule.reasons import explain
    from harness.show.documents import Judge, fields_of
    from harness.show.report import judgement_facts
    from harness.show.tables import facts_table

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
        show_json(Judge(**fields_of(judgement)))
    else:
        show(facts_table(judgement_facts(judgement)))
        sentences = " ".join(explain(code) for code in judgement.reasons)
        show(f"{judgement.decision.upper()}: {sentences}", DECISION_STYLES[judgement.decision])
    raise typer.Exit(DECISION_EXITS[judgement.decision])


def complete_codes() -> list[str]:
    """Reason codes and flags for the shell."""
    from harness.board.flags import FLAGS
    from harness.rule.reasons import REASONS

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
    from harness.board.flags import FLAGS
    from harness.rule.reasons import REASONS
    from harness.rule.reasons import explain as explain_code
    from harness.show.tables import facts_table

    flags = {name: mark.sentence for name, mark in FLAGS.items()}
    reasons = REASONS | flags if code is None else {code: flags.get(code) or explain_code(code)}
    if as_json:
        from harness.show.documents import Explain

        show_json(Explain(reasons=reasons))
    elif code is not None:
        show(f"{code}: {reasons[code]}")
    else:
        show("a verdict's reasons, of `llmbench run candidate`", "bold")
        show(facts_table([*REASONS.items()]))
        show("")
        show("flags for review, of `llmbench verify`", "bold")
        show(facts_table([*flags.items()]))
