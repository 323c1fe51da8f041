"""The command line: parse, one call, print, exit code. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import (
    EXIT_OK,
    EXIT_REJECTED,
    EXIT_UNDECIDED,
    LlmbenchError,
    did_you_mean,
)
from harness.project import DEFAULT_TRACK, Project

if TYPE_CHECKING:
    from harness.bench import Bench, Observe
    from harness.entry import Arms, Entry
    from harness.track import Track

app = typer.Typer(
    name="llmbench",
    help="Pretraining records that hold: train a baseline and a variant under one budget, let statistics decide.\n\n"
    "First steps: `llmbench run baseline`, then `llmbench run candidate --variant NAME` with a name out of "
    "`llmbench variants`, then `llmbench submit`.\n\n"
    "Exit codes: 0 accepted or fine, 2 wrong input, 3 rejected, 4 undecided or not comparable, 1 a bug of ours.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run_app = typer.Typer(
    help="Train the record holder, or a candidate against it.", no_args_is_help=True, rich_markup_mode=None
)
data_app = typer.Typer(help="Make and inspect a track's tokens.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(run_app, name="run")
app.add_typer(data_app, name="data")

TrackOption = Annotated[str, typer.Option("--track", help="The contest; `llmbench tracks` lists them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; logs stay on stderr.")]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Runs at a time; moves no loss, but times. Default: as the cores allow."),
]
VariantOption = Annotated[
    list[str] | None,
    typer.Option("--variant", help="A variant to add to the record; repeat it to add several, in order."),
]
ConfirmOption = Annotated[
    bool,
    typer.Option(
        "--confirm", help="Use the confirmation seeds, which the candidate's source decides, not the public ones."
    ),
]
LaneOption = Annotated[
    str, typer.Option("--lane", help="What is claimed: loss, speed (same loss in less time) or simplicity (less code).")
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option("--without", help="Simplicity lane: a variant to take out of the record; repeat it for several."),
]
DECISION_EXITS = {"accepted": EXIT_OK, "rejected": EXIT_REJECTED, "undecided": EXIT_UNDECIDED}


@run_app.command("baseline")
def run_baseline(
    track: TrackOption = DEFAULT_TRACK,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Seeds to train. Default: what the first look needs.")
    ] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the record holder on the track's seeds; what is trained already is reused."""
    from harness.entry import check_record_sources, record_recipe
    from harness.leaderboard import read_board
    from harness.report import runs_table
    from harness.results import FinishedRun

    project, contest_track = _open(track)
    board = read_board(project)
    check_record_sources(project, board.holder(contest_track))
    recipe, count = record_recipe(board, contest_track), pairs or contest_track.rule.looks[0]
    if count > len(contest_track.seeds):
        raise LlmbenchError(f"the track {track} has {len(contest_track.seeds)} seeds; ask for that many or fewer")
    seeds = contest_track.seeds[:count]
    with _watched_bench(project, contest_track, jobs) as bench:
        _log(f"{recipe} on {track}: {len(seeds)} seeds, {bench.jobs} at a time")
        runs = bench.make([bench.identify(recipe, seed) for seed in seeds])
    finished = [run for run in runs if isinstance(run, FinishedRun)]
    if as_json:
        _print_json({"track": track, "recipe": recipe, "runs": [run.model_dump(mode="json") for run in runs]})
    else:
        _print(runs_table(recipe, finished))
    if len(finished) < len(runs):
        raise LlmbenchError(f"{len(runs) - len(finished)} of {len(runs)} runs failed; the lines above say why")


@run_app.command("candidate")
def run_candidate(
    variant: VariantOption = None,
    track: TrackOption = DEFAULT_TRACK,
    lane: LaneOption = "loss",
    without: WithoutOption = None,
    confirm: ConfirmOption = False,
    max_pairs: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many pairs. Default: the rule's last look.")
    ] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the record plus VARIANT and the record itself in pairs, and judge at each look."""
    from harness.catalog import recipe_sources
    from harness.contest import run_contest
    from harness.entry import check_record_sources, choose_arms, contest_seeds, remember_entry
    from harness.leaderboard import read_board
    from harness.ledger import attempt_number, attempt_sentence, record_attempt
    from harness.report import compare, comparison_table, evidence, look_line, verdict_sentence

    project, contest_track = _open(track)
    board, entry = read_board(project), _entry(variant, without, lane, confirm, jobs)
    arms = choose_arms(board, contest_track, entry)
    check_record_sources(project, board.standing(contest_track, arms.lane))
    sources = {name: source.digest for name, source in recipe_sources(project, arms.candidate).items()}
    attempt = attempt_number(project, board, contest_track, sources)
    first_look, last_look = contest_track.rule.looks[0], contest_track.rule.looks[-1]
    if max_pairs is not None and max_pairs < first_look:
        raise LlmbenchError(f"the first look needs {first_look} pairs; give --max-pairs {first_look} or more")
    with _watched_bench(project, contest_track, jobs, arms) as bench:
        _log(f"{arms.candidate} against {arms.record} on {track}, {bench.jobs} run(s) at a time. {arms.remark}")
        remember_entry(project, contest_track, entry)
        contest = run_contest(
            bench,
            arms,
            seeds=contest_seeds(project, contest_track, arms, confirm=confirm),
            max_pairs=max_pairs or last_look,
            announce=lambda pairs, look: _log(look_line(pairs, look, bench.jobs)),
        )
    record_attempt(project, board, contest_track, contest, sources)
    verdict, pairs = contest.verdict, contest.pairs[: contest.verdict.pairs]
    if as_json:
        _print_json(
            {
                "track": track,
                "record": arms.record,
                "candidate": arms.candidate,
                "attempt": attempt,
                **verdict.model_dump(mode="json"),
                "failed": [f"{run.recipe} seed {run.seed}: {run.status}: {run.reason}" for run in contest.failed],
            }
        )
    else:
        if pairs:
            rows = compare([pair.record for pair in pairs], [pair.candidate for pair in pairs])
            _print(comparison_table(arms.record, arms.candidate, rows))
            for name, value in evidence(verdict):
                _print(f"{name}: {value}")
        for run in contest.failed:
            _print(f"{run.recipe} seed {run.seed} {run.status}: {run.reason}")
        for detail in verdict.details if not contest.failed else ():
            _print(f"differs: {detail}")
        _print(arms.remark or attempt_sentence(attempt, arms, board, contest_track))
        _print(verdict_sentence(verdict))
        if verdict.next_look is not None:
            _print(
                f"The next look needs {verdict.next_look} pairs; go on with --max-pairs {verdict.next_look} or more."
            )
        elif verdict.decision == "accepted" and not arms.remark:
            _print("Next: `llmbench submit`")
    raise typer.Exit(DECISION_EXITS[verdict.decision])


@app.command()
def submit(
    variant: VariantOption = None,
    track: TrackOption = DEFAULT_TRACK,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="File the baseline that opens the track's board.")
    ] = False,
    negative: Annotated[
        bool, typer.Option("--negative", help="File a candidate that did not break the record.")
    ] = False,
    lane: LaneOption = "loss",
    without: WithoutOption = None,
    confirm: ConfirmOption = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the folder after its number. Default: the variants.")
    ] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """File the last candidate (or --variant) under submissions/ and print the pull request's text."""
    from harness.entry import choose_arms, recall_entry
    from harness.leaderboard import read_board
    from harness.submit import file_candidate, file_opening, require_holder, write_submission

    project, contest_track = _open(track)
    board = read_board(project)
    if baseline:
        filing = file_opening(_make_bench(project, contest_track, jobs), board)
    else:
        if not (variant or without) and (confirm or lane != "loss"):
            raise LlmbenchError(
                "--lane and --confirm go with --variant or --without; without those the last run counts"
            )
        require_holder(board, contest_track)
        named = _entry(variant, without, lane, confirm, jobs)
        entry = named if named.added or named.removed else recall_entry(project, contest_track)
        if not entry.added and not entry.removed:
            raise LlmbenchError(f"nothing to submit; run `llmbench run candidate --track {track} --variant NAME` first")
        arms = choose_arms(board, contest_track, entry)
        bench = _make_bench(project, contest_track, jobs or entry.jobs, arms)
        filing = file_candidate(bench, board, entry, arms, negative=negative)
    submission, markdown = write_submission(project, contest_track, filing, name)
    folder = f"submissions/{submission.folder_name}"
    if as_json:
        _print_json({"folder": folder, **submission.model_dump(mode="json"), "markdown": markdown})
    else:
        sys.stdout.write(markdown)
        _log(f"Written: {folder} and leaderboard.csv. Commit both and open a pull request with this text.")


@app.command()
def verify(
    path: Annotated[Path | None, typer.Argument(help="One submission's folder. Default: all, and the CSV.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All submissions and the CSV; the default.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Recompute every number of a submission from its runs, replay its verdict, and check the board."""
    from harness.verify import readable_board, verify_board, verify_folder

    project = Project.find()
    if path is None or all_:
        found = verify_board(project)
    else:
        folder = path.resolve()
        if folder.parent != project.submissions or not folder.is_dir():
            raise LlmbenchError(f"{path} is not a folder under submissions/; name one, or leave it out to check all")
        found = {folder.name: verify_folder(project, folder, readable_board(project))}
    if as_json:
        _print_json({"ok": not any(found.values()), "problems": found})
    else:
        for name, problems in found.items():
            _print(f"{'FAILED' if problems else 'ok':7}{name}")
            for problem in problems:
                _print(f"       {problem}")
    raise typer.Exit(EXIT_REJECTED if any(found.values()) else EXIT_OK)


@app.command()
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
    from harness.verdict import explain

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
        _print_json(judgement.model_dump(mode="json"))
    else:
        for name, value in judgement.model_dump().items():
            _print(f"{name}: {', '.join(value) if name == 'reasons' else value}")
        for code in judgement.reasons:
            _print(explain(code))
    raise typer.Exit(DECISION_EXITS[judgement.decision])


@app.command()
def explain(
    code: Annotated[str | None, typer.Argument(help="A reason code. Default: all of them.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say in plain words what a verdict's reason code means."""
    from harness.verdict import REASONS
    from harness.verdict import explain as explain_code

    reasons = REASONS if code is None else {code: explain_code(code)}
    if as_json:
        _print_json({"reasons": reasons})
    for name, sentence in reasons.items() if not as_json else ():
        _print(f"{name}: {sentence}")


@app.command()
def noise(
    track: TrackOption = DEFAULT_TRACK,
    pairs: Annotated[int, typer.Option(min=3, help="Placebo pairs to train.")] = 8,
    save: Annotated[bool, typer.Option("--save", help="Keep the runs under benchmarks/noise/, for `plan`.")] = False,
    stored: Annotated[bool, typer.Option("--stored", help="Train nothing: report on the kept runs.")] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a placebo against the record: what luck alone does, and what the rule makes of it."""
    from harness.entry import record_recipe
    from harness.leaderboard import read_board
    from harness.noise import placebo_arms, save_study, stored_pairs, study, study_seeds
    from harness.report import noise_lines
    from harness.results import Pair, finished_runs

    project, contest_track = _open(track)
    if stored:
        measured = stored_pairs(project, contest_track)
        if not measured:
            raise LlmbenchError(
                f"{track} has no kept study of this edition; make one: `llmbench noise --save --track {track}`"
            )
    else:
        arms = placebo_arms(record_recipe(read_board(project), contest_track), contest_track.rule)
        with _watched_bench(project, contest_track, jobs) as bench:
            _log(f"{pairs} pairs of {arms.candidate} against {arms.record} on {track}, {bench.jobs} runs at a time")
            seeds = study_seeds(contest_track, pairs)
            runs = bench.make(
                [bench.identify(recipe, seed) for seed in seeds for recipe in (arms.record, arms.candidate)]
            )
        finished = finished_runs(runs)
        measured = [Pair(*pair) for pair in zip(finished[::2], finished[1::2], strict=True)]
    report = study(measured, contest_track.rule)
    if save and not stored:
        _log(f"kept under {save_study(project, contest_track, measured)}")
    if as_json:
        _print_json({"track": track, **report.model_dump(mode="json")})
    else:
        for line in noise_lines(report, contest_track):
            _print(line)


@app.command()
def plan(
    gain: Annotated[float, typer.Option(min=0, help="The gain in val loss that you expect, nats per token.")],
    track: TrackOption = DEFAULT_TRACK,
    statements: Annotated[int, typer.Option(min=0, help="Statements that the variant adds.")] = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many pairs a gain needs on a track, and how long that takes on this machine."""
    from harness.noise import make_plan
    from harness.report import plan_lines

    project, contest_track = _open(track)
    bench = _make_bench(project, contest_track, jobs)
    found = make_plan(bench, gain - statements * contest_track.rule.loss_per_statement)
    if as_json:
        _print_json({"track": track, "gain": gain, "statements": statements, **found.model_dump(mode="json")})
    else:
        for line in plan_lines(found, gain, contest_track):
            _print(line)


@app.command()
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
        _print_json({"rows": [row.model_dump(mode="json") for row in rows]})
        return
    if not rows:
        _print("The board is empty. Open it: `llmbench run baseline`, then `llmbench submit --baseline`.")
    for table in board_tables(rows):
        _print(table)


@app.command()
def variants(as_json: JsonOption = False) -> None:
    """List the variants: what each changes, its source, its cost in statements."""
    from harness.report import new_table
    from harness.sources import read_variant, variant_names

    project = Project.find()
    sources = [read_variant(project, name) for name in variant_names(project)]
    if as_json:
        _print_json(
            {
                "variants": [
                    {"name": s.name, "statements": s.cost, "summary": s.summary, "sha256": s.digest} for s in sources
                ]
            }
        )
        return
    table = new_table()
    for column in ("variant", "statements", "change and source"):
        table.add_column(column)
    for source in sources:
        table.add_row(source.name, str(source.cost), source.summary)
    _print(table)


@app.command()
def tracks(as_json: JsonOption = False) -> None:
    """List the tracks: model, budget, rule, digest."""
    from harness.report import new_table
    from harness.track import load_track, track_names

    project = Project.find()
    loaded = [load_track(project, name) for name in track_names(project)]
    if as_json:
        _print_json({"tracks": [{"digest": one.digest, **one.model_dump(mode="json")} for one in loaded]})
        return
    table = new_table()
    for column in ("track", "what it is", "tokens", "design", "digest"):
        table.add_column(column)
    for one in loaded:
        table.add_row(one.name, one.summary, f"{one.budget.tokens:,}", one.rule.design, one.digest[:12])
    _print(table)


@data_app.command("prepare")
def data_prepare(
    track: TrackOption = DEFAULT_TRACK,
    force: Annotated[
        bool, typer.Option("--force", help="Make the tokens again where they are cached already.")
    ] = False,
) -> None:
    """Split, tokenize and cache a track's text, and check it against the track's digests."""
    from harness.data import prepare

    _, contest_track = _open(track)
    _log(f"preparing the tokens of {track}")
    _print(str(prepare(contest_track, force=force)))


@data_app.command("info")
def data_info(track: TrackOption = DEFAULT_TRACK, as_json: JsonOption = False) -> None:
    """Show a track's splits: documents, tokens, bytes, digests, and whether they are cached."""
    from harness.data import SPLITS, cache_folder, open_split
    from harness.report import new_table

    _, contest_track = _open(track)
    folder, spec = cache_folder(contest_track), contest_track.data
    cached = folder.exists()
    for split in SPLITS if cached else ():
        open_split(contest_track, split)  # proves the digest
    pins = {split: getattr(spec, split) for split in SPLITS}
    if as_json:
        _print_json(
            {
                "track": track,
                "cache": str(folder),
                "cached": cached,
                "splits": {n: p.model_dump() for n, p in pins.items()},
            }
        )
        return
    table = new_table(f"{track}: {spec.package} {spec.version}")
    for column in ("split", "documents", "tokens", "bytes", "bytes/token", "sha256"):
        table.add_column(column, justify="left" if column in ("split", "sha256") else "right")
    for name, pin in pins.items():
        cells = (
            f"{pin.documents:,}",
            f"{pin.tokens:,}",
            f"{pin.bytes:,}",
            f"{pin.bytes / pin.tokens:.3f}",
            pin.sha256[:12],
        )
        table.add_row(name, *cells)
    _print(table)
    _print(f"cached and intact: {folder}" if cached else "not cached yet; `llmbench data prepare` makes it")


def _open(track: str) -> tuple[Project, Track]:
    from harness.track import load_track

    project = Project.find()
    return project, load_track(project, track)


def _entry(variant: list[str] | None, without: list[str] | None, lane: str, confirm: bool, jobs: int | None) -> Entry:
    from harness.entry import Entry
    from harness.verdict import LANES

    if lane not in LANES:
        raise LlmbenchError(f"there is no lane '{lane}'{did_you_mean(lane, LANES)}; lanes are {', '.join(LANES)}")
    chosen = next(known for known in LANES if known == lane)
    return Entry(added=tuple(variant or ()), removed=tuple(without or ()), lane=chosen, confirm=confirm, jobs=jobs)


def _make_bench(
    project: Project, track: Track, jobs: int | None = None, arms: Arms | None = None, observe: Observe | None = None
) -> Bench:
    """A bench that uses the cores there are; where times are compared, for one run at a time."""
    from harness.bench import Bench, ignore_events
    from harness.provenance import available_cores

    timed = arms is not None and arms.lane != "loss"
    if timed and jobs not in (None, 1):
        raise LlmbenchError(
            f"the lane {arms.lane if arms else ''} compares times of runs that ran alone; leave --jobs out"
        )
    return Bench(
        project,
        track,
        jobs=1 if timed else jobs or max(1, available_cores() // track.threads),
        timed_contest=f"{arms.record} against {arms.candidate}" if timed and arms else "",
        observe=observe or ignore_events,
    )


@contextmanager
def _watched_bench(project: Project, track: Track, jobs: int | None, arms: Arms | None = None) -> Iterator[Bench]:
    """A bench whose runs are shown on stderr and whose tokens are prepared."""
    from harness.data import cache_folder, prepare
    from harness.live import LiveRuns

    if not cache_folder(track).exists():
        _log(f"preparing the tokens of {track.name} (once)")
    prepare(track)
    with LiveRuns(_stderr(), track) as live:
        yield _make_bench(project, track, jobs, arms, live)


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _log(text: str) -> None:
    _stderr().print(text, highlight=False, soft_wrap=True)


def _print(what: Any) -> None:
    """Text as it is, tables by rich, to standard output."""
    from rich.console import Console

    is_text = isinstance(what, str)
    Console().print(what, highlight=False, markup=not is_text, soft_wrap=is_text)


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """The one error boundary: an expected error is one sentence and its exit code."""
    try:
        app(standalone_mode=True)
    except LlmbenchError as error:
        sys.stderr.write(f"llmbench: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
