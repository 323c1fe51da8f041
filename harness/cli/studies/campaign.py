"""The command that judges many candidates in one go."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.board.readme import plural
from harness.cli import options, training
from harness.cli.options import argument, complete_variants, flag, log, open_track, option, show, show_json
from harness.core.errors import EXIT_OK, EXIT_UNDECIDED, InterruptedRunError, LlmbenchError
from harness.core.project import DEFAULT_TRACK, write_atomic
from harness.core.schema import parse_duration
from harness.core.terminal import stderr_console
from harness.lab.arms import Entry
from harness.lab.studies.campaign import Campaign
from harness.lab.studies.names import campaign_names
from harness.lab.studies.outcomes import LEFT, CampaignRow, campaign_rows
from harness.show.documents import CampaignDocument
from harness.show.plots import draw_gains, to_svg
from harness.show.report import duration
from harness.show.studies.campaign import LiveCampaign, campaign_gains, campaign_notes, campaign_table


def campaign(
    names: Annotated[
        list[str] | None,
        argument(
            "NAME",
            "Variants to judge, each added to the record by itself. Default: all that were not judged against this "
            "record yet, except placebos, which only change initial values.",
            complete_variants,
        ),
    ] = None,
    topic: Annotated[
        str | None,
        option("WORD", "Judge the variants with this topic in their docstring, such as attention or optimizer."),
    ] = None,
    track: options.TrackName = DEFAULT_TRACK,
    budget: Annotated[
        str | None,
        option("TIME", "Time limit from now: 90m, 2h, 1h30m, 45s. A run that would end later is not started."),
    ] = None,
    file: Annotated[
        bool,
        flag(
            "--file",
            "Submit each result: write it under submissions/. After a new record, judge the rest against that record.",
        ),
    ] = False,
    jobs: options.Jobs = None,
    executor: options.ExecutorName = "local",
    picture: Annotated[
        Path | None, option("PATH", "File for the picture, an SVG. Default: runs/TRACK/campaign.svg.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Judge many variants: a cheap test of all (the screen), then a confirmation of those that pass, the best first.

    The record's runs for the screen are trained once. Each candidate gets one run, after which most are dropped.
    Variants that were judged before are not trained again. If a candidate fails, its line in the table says why.

    With --file each verdict is submitted. After a new record, the remaining candidates are screened again, against the
    new record. Without --file all are compared with the same record; the same command with --file submits later.

    The same command continues after an interruption. Exit codes: 0 all have a final outcome, 4 some have none.
    """
    project, contest_track = open_track(track)
    if picture is not None and picture.suffix != ".svg":
        raise LlmbenchError(
            f"the picture has the format SVG, so its file name must end with .svg; name it "
            f"{picture.with_suffix('.svg')}"
        )
    budget_s = None if budget is None else parse_duration(budget)
    chosen = campaign_names(project, names or (), topic)
    entry = training.make_entry(None, None, "loss", jobs, executor=executor)
    command = campaign_command(names or (), topic, track, entry)
    live = LiveCampaign(stderr_console(), contest_track)
    with training.watched_store(project, contest_track, jobs, executor=executor, live=live) as store:
        own = Campaign(store, chosen, entry, asked=command, files=file, budget_s=budget_s, tell=live.tell)
        live.campaign = own
        log(_outlook(own))
        _run(own, f"{command}{' --file' * file}")
    rows = campaign_rows(own)
    target = picture or project.runs / contest_track.name / "campaign.svg"
    gains = campaign_gains(rows)
    if gains:
        write_atomic(target, to_svg(lambda: draw_gains(gains)))
    if as_json:
        show_json(
            CampaignDocument(
                track=track, record=own.record, filed=file, rows=tuple(rows), picture=str(target) if gains else None
            )
        )
    else:
        title = f"{plural(len(rows), 'candidate')} on {track}; the record is {own.record}"
        show(campaign_table(rows, title, Console().width))
        show(*campaign_notes(rows), *_last_lines(rows, command, files=file, out_of_time=own.out_of_time))
    if gains:
        log(f"picture: {target}")
    for contestant in own.contestants:
        if contestant.crash is not None:
            raise contestant.crash
    raise typer.Exit(EXIT_UNDECIDED if any(row.outcome in LEFT for row in rows) else EXIT_OK)


def _outlook(own: Campaign) -> str:
    """A line that says how many candidates will be judged, and how long one run of each takes."""
    number, run_s = len(own.contestants), training.usual_seconds(own.store)
    line = f"{plural(number, 'candidate')} on {own.track.name}, {plural(own.store.jobs, 'run')} at a time"
    if run_s is not None:
        line += f"; one run of each takes about {duration(math.ceil(number / own.store.jobs) * run_s)}"
    return f"{line}; after Ctrl-C the same command continues"


def _run(own: Campaign, command: str) -> None:
    """Run the campaign. On Ctrl-C or SIGTERM raises InterruptedRunError, which names the command that continues."""
    try:
        own.run()
    except (InterruptedRunError, KeyboardInterrupt) as error:
        judged = sum(one.state in ("accepted", "rejected") for one in own.contestants)
        raise InterruptedRunError(
            f"interrupted; {judged} of {len(own.contestants)} candidates were judged; their verdicts, all finished "
            f"runs and checkpoints of started runs are saved; to continue, run `{command}`"
        ) from error


def _last_lines(rows: Sequence[CampaignRow], command: str, *, files: bool, out_of_time: bool) -> list[str]:
    """Lines that say how to continue the campaign, and how to submit the results that are not submitted yet."""
    lines = []
    if out_of_time:
        lines.append(f"The time of --budget is used up. To continue: `{command}{' --file' * files}`")
    unfiled = [row for row in rows if row.submission is None and row.outcome in ("accepted", "rejected")]
    if unfiled and not files:
        lines.append(f"To submit {plural(len(unfiled), 'result')} under submissions/: `{command} --file`")
    return lines


def campaign_command(names: Sequence[str], topic: str | None, track: str, entry: Entry) -> str:
    """The command line that continues a campaign. Options that may have another value then, such as --budget, are left
    out."""
    words = ["llmbench campaign", *map(shlex.quote, names)]
    words += [f"--topic {shlex.quote(topic)}"] if topic is not None else []
    words += [f"--track {track}"] if track != DEFAULT_TRACK else []
    words += [f"--jobs {entry.jobs}"] if entry.jobs is not None else []
    words += [f"--executor {entry.executor}"] if entry.executor != "local" else []
    return " ".join(words)
