"""Commands that check submissions (`verify`) and explain the codes in verdicts (`explain`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.board.check_board import Checked, check_board, check_folder, knowledge_of, readable_board
from harness.board.flags import FLAGS
from harness.board.pull_request import review_changes
from harness.cli import options
from harness.cli.anywhere.compare import verify_comparison
from harness.cli.options import argument, flag, option, show, show_json
from harness.core.errors import EXIT_OK, EXIT_REJECTED, LlmbenchError, did_you_mean, one_line
from harness.core.project import Project, folder_number, read_text, submission_folders
from harness.core.terminal import markdown, patiently
from harness.rule.reasons import REASONS
from harness.rule.reasons import explain as explain_code
from harness.show.documents import ExplainDocument, VerifyDocument
from harness.show.report import check_lines, check_markdown
from harness.show.tables import facts_table


def verify(
    path: Annotated[
        Path | None,
        argument(
            "PATH",
            "A submission's folder or number, or a comparison.json of `llmbench compare`. Default: all submissions and "
            "leaderboard.csv.",
            options.complete_submissions,
        ),
    ] = None,
    all_: Annotated[bool, flag("--all", "Check all submissions and leaderboard.csv; this is the default.")] = False,
    base: Annotated[
        str | None,
        option("REVISION", "Also check that the changes since this git revision are one submission and nothing else."),
    ] = None,
    again: Annotated[
        bool, flag("--rerun", "Also train the submission again on new seeds, and judge whether its claim holds.")
    ] = False,
    max_pairs: options.MaxPairs = None,
    jobs: options.Jobs = None,
    as_json: options.Json = False,
    as_markdown: Annotated[bool, flag("--markdown", "Print Markdown, for a CI job's summary.")] = False,
) -> None:
    """Recompute every number and the verdict of a submission from its runs, and check leaderboard.csv.

    With --rerun, record and candidate of one submission are then trained again on this machine. The seeds are new: they
    are computed from the submission's code and runs. The submission is `confirmed` (exit code 0) if the new runs lead
    to the same decision, `refuted` (3) if they show that its result is wrong, else `open` (4). A submission of a
    track's base (kind `opening`) claims no gain, so it is trained again on its own seeds and the numbers are compared.
    """
    if path is not None and path.suffix == ".json":
        verify_comparison(path, as_json=as_json, as_markdown=as_markdown)
    project = Project.find()
    if path is not None and (all_ or base):
        raise LlmbenchError(
            "--all and --base check all submissions, so they cannot be combined with the folder of one; leave the "
            "folder out"
        )
    if again and path is None:
        raise LlmbenchError(
            "--rerun trains one submission again; name its folder: `llmbench verify submissions/NNNN-name --rerun`"
        )
    if not again and (max_pairs is not None or jobs is not None):
        raise LlmbenchError(
            "--max-pairs and --jobs need --rerun, because without it nothing is trained; "
            "add --rerun, or leave these options out"
        )
    more: dict[str, Any] = {}
    if base is not None:
        with patiently("checking"):
            review = review_changes(project, base)
        problems, flags, code = review.problems, review.flags, review.exit_code
        more = {"base": review.base, "new": review.new, "summary": review.summary, "stale": review.stale}
    else:
        with patiently("checking"):
            checked = check_board(project) if path is None else _check_one(project, path)
        problems = {name: one.problems for name, one in checked.items()}
        flags = {name: one.flags for name, one in checked.items() if one.row and not one.problems}
        code = EXIT_REJECTED if any(problems.values()) else EXIT_OK
    named = more["new"] if base is not None else [*problems] if path is not None else []
    more["knowledge_nats"] = knowledge_of(project, (name for name in named if not problems[name]))
    num_flags, failed = sum(map(len, flags.values())), any(problems.values())
    found = VerifyDocument(ok=not failed, problems=problems, num_flags=num_flags, flags=flags, **more)
    if again and path is not None and found.ok:
        from harness.cli.challenge import rerun

        rerun(project, _claim_folder(project, path), max_pairs, jobs, as_json=as_json)
    if as_json:
        show_json(found)
    elif as_markdown:
        sys.stdout.write(_check_markdown(project, found))
    else:
        _show_check(found)
    raise typer.Exit(code)


def _claim_folder(project: Project, path: Path) -> Path:
    """The folder that `path` names, or the submission with that number."""
    if path.name.isdecimal() and path.name == str(path):
        return next(
            (own for own in submission_folders(project) if folder_number(own) == int(path.name)), path.resolve()
        )
    return path.resolve()


def _check_one(project: Project, path: Path) -> dict[str, Checked]:
    """The name of one submission -> what its check found. Raises LlmbenchError if `path` is not a submission."""
    folder = _claim_folder(project, path)
    if folder.parent != project.submissions or not folder.is_dir():
        meant = did_you_mean(folder.name, (own.name for own in project.submissions.glob("[0-9]*")))
        raise LlmbenchError(
            f"{path} is not a folder under submissions/{meant}; name such a folder, or name no folder to check all "
            f"submissions"
        )
    return {folder.name: check_folder(project, folder, readable_board(project, until=folder))}


def _show_check(found: VerifyDocument) -> None:
    lines = [*filter(None, [found.summary]), *check_lines(found.problems, found.flags, found.knowledge_nats)]
    if not sys.stdout.isatty():
        sys.stdout.writelines(
            f"{one_line(line)}\n" for line in lines
        )  # rich would take ten times as long for a large board
        return
    styles = {"ok": "green", "FAILED": "bold red"}
    for line in lines:
        show(line, style=styles.get(line.split(" ", 1)[0], ""))


def _check_markdown(project: Project, found: VerifyDocument) -> str:
    """The results of the check as Markdown, then the README of each new submission without problems."""
    texts = [f"**{markdown(found.summary)}**\n"] if found.summary else []
    texts.append(check_markdown(found.problems, found.flags, found.knowledge_nats))
    texts += [read_text(project.submissions / name / "README.md") for name in found.new if not found.problems[name]]
    return "\n".join(texts)


def explain(
    code: Annotated[
        str | None, argument("CODE", "A reason code, or a flag's name. Default: all of them.", [*REASONS, *FLAGS])
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Explain a verdict's reason code, or a flag (a warning for reviewers), in a sentence."""
    flags = {name: mark.sentence for name, mark in FLAGS.items()}
    reasons = REASONS | flags if code is None else {code: flags.get(code) or explain_code(code)}
    if as_json:
        show_json(ExplainDocument(reasons=reasons))
    elif code is not None:
        show(f"{code}: {reasons[code]}")
    else:
        show("Reasons of a verdict (`llmbench run candidate`)", style="bold")
        show(facts_table([*REASONS.items()]), "")
        show("Flags for reviewers (`llmbench verify`)", style="bold")
        show(facts_table([*flags.items()]))
