"""The command that compares two versions of a user's own training program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from harness.cli import options
from harness.cli.options import argument, flag, log, option, show, show_json
from harness.compare.arms import Arms, arms_of_commands, arms_of_revisions, forget_hook, top_of
from harness.compare.comparison import NAME, Comparison, check_comparison
from harness.compare.contest import Contest
from harness.compare.places import LocalPlaces, Places, RayPlaces
from harness.compare.settings import SEED, Settings, read_settings
from harness.compare.store import LOG, STORE
from harness.core.errors import EXIT_OK, EXIT_REJECTED, LlmbenchError
from harness.core.project import write_atomic
from harness.core.terminal import stderr_console
from harness.show.compare import (
    NUMBERS,
    LiveComparison,
    comparison_facts,
    comparison_markdown,
    comparison_runs,
    comparison_sentence,
    draw_comparison,
)
from harness.show.documents import CompareDocument, VerifyDocument
from harness.show.plots import to_svg
from harness.show.report import check_lines, check_markdown
from harness.show.tables import facts_table

EXECUTORS = ("local", "ray")


Revisions = Annotated[
    list[str] | None,
    argument(
        "[RECORD CANDIDATE]",
        "Two revisions of the git repository here, the one to beat first: branches, tags, commits, or `.` for the "
        "current files.",
    ),
]
Run = Annotated[str | None, option("COMMAND", "The training command for both revisions. It must contain {seed}.")]
Record = Annotated[str | None, option("COMMAND", "Instead of two revisions: the training command to beat.")]
Candidate = Annotated[str | None, option("COMMAND", "The training command that may beat --record.")]
Metric = Annotated[
    str | None,
    option(
        "REGEX|NAME",
        "The number to compare. REGEX is a regular expression with one group, such as 'val loss ([0-9.]+)'; its last "
        "match in the output counts. NAME is the name in printed lines `METRIC name=value`, or a key in --metric-file.",
    ),
]
MetricFile = Annotated[
    str | None, option("PATH", "A JSON or JSON Lines file that the trainer writes, such as '{out}/log.jsonl'.")
]
LowerIsBetter = Annotated[
    bool | None, flag("--lower-is-better/--higher-is-better", "Which numbers are better. Default: lower ones.")
]
Also = Annotated[
    list[str] | None,
    option("NAME=REGEX", "Another number to show; it does not affect the verdict. Repeat the option for several."),
]
Curve = Annotated[
    str | None, option("REGEX", "A curve for the picture: a regular expression with two groups, step and number.")
]
SeedVariable = Annotated[str | None, option("NAME", "Environment variable that gives the trainer its seed.")]
Seeds = Annotated[str | None, option("N,N,...", "The seeds to use. Default: they are computed from both versions.")]
Looks = Annotated[str | None, option("N,N,...", "Numbers of pairs after which the test may decide. Default: 3,4,6,8.")]
Alpha = Annotated[
    float | None,
    option(
        "LEVEL", "Probability of accepting a candidate without a gain, in all tests together, one-sided. Default: 0.01."
    ),
]
Design = Annotated[
    str | None,
    option(
        "NAME",
        "paired (default): both are trained with the same seeds. stored: the record is trained once, and every "
        "candidate is compared with these runs.",
    ),
]
StoredRuns = Annotated[int | None, option("N", "With --design stored: number of runs of the record. Default: 8.")]
Margin = Annotated[float | None, option("VALUE", "The value that the gain must exceed. Default: 0.")]
Price = Annotated[
    float | None, option("VALUE", "Gain that each added Python statement must bring, on top of --margin. Default: 0.")
]
MaxSlowdown = Annotated[
    float | None, option("SHARE", "Largest allowed slowdown, such as 0.05 for 5 %. Default: no limit.")
]
Timeout = Annotated[str | None, option("TIME", "Longest allowed time of one run, such as 2h or 90m.")]
Setup = Annotated[
    str | None, option("COMMAND", "A command to run once in the worktree (checked-out files) of each revision.")
]
Link = Annotated[
    list[str] | None,
    option("PATH", "File or folder outside git, such as data, to link into each worktree. Repeat it for several."),
]
Executor = Annotated[
    str, option("NAME", "Where to train: local, or ray for a running Ray cluster that can read this folder.", EXECUTORS)
]
Worktrees = Annotated[
    Path | None, option("FOLDER", "Folder in which the worktrees are made. Default: in the user's cache folder.")
]
Output = Annotated[Path | None, option("PATH", "Also write the comparison's JSON to this file, its picture beside it.")]
AsMarkdown = Annotated[bool, flag("--markdown", "Print Markdown, for a CI job's summary.")]


def compare(
    revisions: Revisions = None,
    run: Run = None,
    record: Record = None,
    candidate: Candidate = None,
    metric: Metric = None,
    metric_file: MetricFile = None,
    lower_is_better: LowerIsBetter = None,
    also: Also = None,
    curve: Curve = None,
    seed_variable: SeedVariable = None,
    seeds: Seeds = None,
    looks: Looks = None,
    alpha: Alpha = None,
    design: Design = None,
    stored_runs: StoredRuns = None,
    margin: Margin = None,
    price: Price = None,
    max_slowdown: MaxSlowdown = None,
    timeout: Timeout = None,
    setup: Setup = None,
    link: Link = None,
    jobs: options.Jobs = None,
    executor: Executor = "local",
    worktrees: Worktrees = None,
    output: Output = None,
    as_json: options.Json = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Compare two versions of your own trainer: train both with the same seeds until a statistical test decides.

    \b
    Two commands:
      llmbench compare --record 'python train.py --seed {seed}' \\
        --candidate 'python train.py --seed {seed} --qk_norm=True' --metric 'val loss ([0-9.]+)'
    Two revisions of the git repository here; `.` means your files as they are now:
      llmbench compare main my-branch --run 'python train.py --seed {seed}' --metric 'val loss ([0-9.]+)'
      llmbench compare main . --run ...

    `llmbench.toml` can hold the same settings (`llmbench init` writes this file); options override the file. In a
    command, {seed} is replaced by the run's seed, and {out} by a folder for the files of that run. The two runs of a
    pair train side by side. After 3, 4, 6 and 8 pairs a paired t-test decides or asks for more pairs. All these tests
    together accept 1 % of the candidates that have no gain. Finished runs are kept in .llmbench/ and used again; Ctrl-C
    loses unfinished runs. llmbench cannot check the numbers that your trainer prints.

    Exit codes: 0 accepted, 3 rejected, 4 undecided, 2 wrong input.
    """
    given = {key: value for key, value in locals().items() if key in Settings.model_fields}
    given |= {"also": _named(also), "seeds": _numbers("--seeds", seeds), "looks": _numbers("--looks", looks)}
    forget_hook()
    here = Path.cwd()
    folder = top_of(here) or here
    settings = read_settings(folder, given)
    places = _places(executor, jobs)
    with LiveComparison(stderr_console(), settings) as live:
        arms = _arms(settings, here, revisions or (), live.say, worktrees)
        contest = Contest(settings, arms, places, folder / STORE, live)
        command, seed = arms.record.command, contest.seeds["record"][0]
        live.say(f"first run: `{command.replace(SEED, str(seed))}` in {arms.folders['record']}")
        found = contest.run()
    files = _write(found, [contest.folder / NAME, *([output] if output else [])])
    if as_json:
        show_json(CompareDocument(**dict(found)))
    elif as_markdown:
        sys.stdout.write(comparison_markdown(found))
    else:
        show_comparison(found)
    for run_ in found.runs:
        if run_.status == "failed":
            path = contest.store.place_of(run_.arm, run_.seed) / LOG
            log(f"log of the {run_.arm}'s failed run with seed {run_.seed}: {path}")
    log(f"saved: {files[-1]}, picture: {files[-1].with_suffix('.svg')}; to check it: `llmbench verify {files[-1]}`")
    raise typer.Exit(options.DECISION_EXITS[found.verdict.decision])


def show_comparison(found: Comparison) -> None:
    """Show a comparison's runs, numbers and verdict as tables and text."""
    show(comparison_runs(found), facts_table(comparison_facts(found)))
    show(comparison_sentence(found.verdict), style=options.DECISION_STYLES[found.verdict.decision])
    show(NUMBERS)


def verify_comparison(path: Path, *, as_json: bool, as_markdown: bool) -> NoReturn:
    """Recompute the verdict in a comparison's file from its runs. Exits with code 0 if it is the same, else with 3."""
    found, problems = check_comparison(path)
    if as_json:
        show_json(VerifyDocument(ok=not problems, problems={str(path): problems}))
    elif as_markdown:
        sys.stdout.write(check_markdown({str(path): problems}, {}, {}) + "\n" + comparison_markdown(found))
    else:
        show(*check_lines({str(path): problems}, {}, {}))
        if not problems:
            show_comparison(found)
    raise typer.Exit(EXIT_REJECTED if problems else EXIT_OK)


def _arms(
    settings: Settings,
    here: Path,
    revisions: Sequence[str],
    say: Callable[[str], None],
    worktrees: Path | None,
) -> Arms:
    """The two sides to compare, from settings and revisions. Raises LlmbenchError if they cannot be compared."""
    if settings.run is None:
        if revisions:
            raise LlmbenchError(
                "to compare two revisions, give one command for both of them with --run; to compare two commands, "
                "give --record and --candidate"
            )
        return arms_of_commands(settings, here)
    if len(revisions) != 2:
        raise LlmbenchError(
            f"you named {len(revisions)} git revision{'' if len(revisions) == 1 else 's'}, but two are compared: name "
            f"two, such as `llmbench compare main my-branch`, or give two commands with --record and --candidate"
        )
    top = top_of(here)
    if top is None:
        raise LlmbenchError(
            f"{here} is in no git repository, so it has no revisions to compare; give two commands instead, with "
            f"--record and --candidate"
        )
    return arms_of_revisions(settings, top, here, (revisions[0], revisions[1]), say, worktrees)


def _places(executor: str, jobs: int | None) -> Places:
    if executor not in EXECUTORS:
        raise LlmbenchError(f"there is no executor '{executor}'; choose {' or '.join(EXECUTORS)}")
    return LocalPlaces(jobs) if executor == "local" else RayPlaces(jobs)


def _write(found: Comparison, targets: Sequence[Path]) -> list[Path]:
    """Write the comparison to each target, with its picture beside it. Returns the paths."""
    text = found.model_dump_json(indent=1) + "\n"
    picture = to_svg(lambda: draw_comparison(found)) if found.runs else ""
    for target in targets:
        write_atomic(target, text)
        if picture:
            write_atomic(target.with_suffix(".svg"), picture)
    return list(targets)


def _named(pairs: Sequence[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    found = {}
    for pair in pairs:
        name, sign, pattern = pair.partition("=")
        if not sign or not name or not pattern:
            raise LlmbenchError(f"--also '{pair}' is not NAME=REGEX; write it like 'accuracy=acc ([0-9.]+)'")
        found[name] = pattern
    return found


def _numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise LlmbenchError(f"{name} '{text}' is not a list of whole numbers; write it like 3,4,6,8") from error
