"""One table of metrics: what stands in it is shown wherever runs are, and no number wins without a reason."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.board.leaderboard import make_rows
from harness.board.metrics import METRICS, compare
from harness.board.readme import submission_markdown
from harness.board.rows import board_markdown, format_csv, stored_rows
from harness.board.submission import Claim, load_submission
from harness.core.events import Done
from harness.core.project import Project
from harness.core.runs import FinishedRun
from harness.core.track import load_track
from harness.show.documents import LeaderboardDocument, json_schema
from harness.show.site import render_pages
from harness.show.site.content import read_submissions, read_tracks
from harness.show.tables import board_tables, comparison_table, runs_table
from harness.show.trackers import Logbook, Page
from tests.make import RECORD, copy_board, make_pairs
from tests.sandbox import python

ADDED = """
import json, sys
from pathlib import Path
import harness.board.metrics as metrics
metrics.METRICS += (metrics.Metric(name="tokens trained on", short="tokens", key="train/tokens", form="{:,.0f}",
    read=lambda run: run.training.tokens, better=None, mean_column="num_tokens", ratio_column="tokens_ratio",
    headline=True),)
from tests.board.test_metrics import places
print(json.dumps(places(Path(sys.argv[1]))))
"""


def render(*tables: Any) -> str:
    console = Console(width=160, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def places(root: Path) -> dict[str, str]:
    """Every place that shows the runs of the record, as text."""
    project, folder = Project(root), root / "submissions" / RECORD.name
    submission = load_submission(folder)
    records, candidates = Claim(folder, submission).finished.values()
    rows, kept = make_rows(project), dict[str, float]()
    page = Page(lambda step, values: kept.update(values), lambda: None)
    with Logbook({"kept": lambda name, key, config: page}, load_track(project, "pocket"), print) as book:
        book(candidates[0], Done(result=candidates[0], reused=False))
    pages = read_submissions(project)
    site = render_pages(pages, read_tracks(project, pages))
    return {
        "leaderboard.csv": format_csv(rows),
        "board as Markdown": board_markdown(rows, {}),
        "board on a terminal": render(*board_tables(rows, 160)),
        "board as a document": LeaderboardDocument(rows=tuple(rows)).model_dump_json(),
        "schema of the board": json.dumps(json_schema("leaderboard")),
        "board of the site": site["index.html"],
        "page of the submission": site[f"submissions/{RECORD.name}.html"],
        "README of the submission": submission_markdown(submission, records, candidates),
        "both arms on a terminal": render(comparison_table("base", "with", compare(records, candidates), 160)),
        "runs on a terminal": render(runs_table("with", candidates)),
        "tracker": json.dumps(kept),
    }


def arms(**training: Any) -> list[list[FinishedRun]]:
    """The runs of the committed record's arms; `training` is replaced in the candidate's."""
    submission = load_submission(RECORD)
    records, candidates = Claim(RECORD, submission).finished.values()
    changed = [run.model_copy(update={"training": run.training.model_copy(update=training)}) for run in candidates]
    return [records, changed]


def test_a_variant_that_doubles_the_parameters_shows_it_wherever_its_gain_is(tmp_path: Path) -> None:
    project = copy_board(tmp_path)
    for path in (project.submissions / RECORD.name / "runs").glob("candidate-*"):
        run = json.loads(path.read_text())
        run["training"]["num_params"] = 2 * arms()[0][0].training.num_params
        path.write_text(json.dumps(run))
    shown = places(project.root)
    doubled = {name: "2,623,744" in text for name, text in shown.items()}
    raw = ("leaderboard.csv", "board as a document", "tracker", "schema of the board")
    assert {name for name, there in doubled.items() if not there} == {*raw}
    assert [name for name in raw[:3] if "2623744" not in shown[name]] == []
    compared = {"README of the submission", "page of the submission", "both arms on a terminal"}
    for name in (*compared, "board as Markdown", "board on a terminal", "board of the site"):
        assert "2.00" in shown[name], name
    for name in compared:
        assert "1,311,872 more (x2.00)" in shown[name], name
    line = next(row for row in csv.DictReader(io.StringIO(shown["leaderboard.csv"])) if row["number"] == "2")
    assert (line["num_params"], line["params_ratio"]) == ("2623744", "2.0")
    opening = next(csv.DictReader(io.StringIO(shown["leaderboard.csv"])))
    assert (opening["num_params"], opening["params_ratio"]) == ("1311872", "")


def test_one_more_line_in_the_table_is_shown_in_every_place(tmp_path: Path) -> None:
    project = copy_board(tmp_path)
    done = python("-c", ADDED, str(project.root))
    shown, before = json.loads(done.stdout or "{}"), places(project.root)
    assert shown.keys() == before.keys(), done.stderr
    tokens = arms()[0][0].training.tokens
    for name, text in shown.items():
        new = "num_tokens" if name.startswith("schema") else str(tokens)
        assert new in text.replace(",", ""), name
        assert new not in before[name].replace(",", ""), name


def test_the_stored_board_is_read_with_every_column(project: Project) -> None:
    rows = stored_rows(project)
    assert rows == make_rows(project)
    columns = {name for m in METRICS for name in (m.mean_column, m.ratio_column) if name}
    assert columns <= {*rows[0].model_dump()}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_of_two_equal_values_neither_wins(metric: Any) -> None:
    records, _ = arms()
    line = compare(records, records)[METRICS.index(metric)]
    assert (line.without, line.winner) == (line.with_, "")
    stars = render(comparison_table("base", "base", [line], 160))
    assert stars.count("*") == 1, "only in the head, which explains it"


@pytest.mark.parametrize("difference", [0.0, 1e-9, -1e-9])
def test_values_that_are_written_alike_have_no_star_and_none_is_bold(difference: float) -> None:
    """What a reader cannot tell apart does not win, in either direction."""
    pairs = make_pairs([3.0, 3.5], [3.0 - difference, 3.5 - difference])
    lines = compare([pair.record for pair in pairs], [pair.candidate for pair in pairs])
    assert [(line.metric, line.winner) for line in lines] == [(metric.name, "") for metric in METRICS]
    assert [line for line in lines if line.without != line.with_] == []
    console = Console(width=160, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(comparison_table("base", "base+idea", lines, 160))
    rows = [line for line in console.file.getvalue().splitlines() if "3.25" in line]  # type: ignore[attr-defined]
    assert len(rows) == 1
    assert "*" not in rows[0]
    assert "\x1b[1" not in rows[0]


def test_a_gain_is_positive_where_the_candidate_is_better_and_the_sign_is_that_of_the_verdict() -> None:
    records, candidates = arms(train_s=1.0, num_params=1)
    gains = {line.metric: line.gain for line in compare(records, candidates)}
    loss = load_submission(RECORD).verdict.gain  # type: ignore[union-attr]
    assert loss is not None
    assert gains["val loss (nats/token)"] == f"{loss:+.4f}"
    assert gains.pop("parameters") == "1,311,871 fewer (x0.00)"
    assert all(gain.startswith("+") for gain in gains.values())
    assert all(line.gain[0] == "-" for line in compare(candidates, records) if line.winner)


@pytest.mark.parametrize("width", [72, 80, 100])
def test_no_name_is_broken_in_the_two_arms_table(width: int) -> None:
    candidate = "base+token_smear+layer_scale+logit_softcap+value_embeddings"
    console = Console(width=width, file=io.StringIO())
    console.print(comparison_table("base+token_smear", candidate, compare(*arms()), width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    for name in candidate.split("+"):
        assert name in text
    assert "…" not in text


def test_no_time_wins_in_a_screen() -> None:
    winners = {line.metric: line.winner for line in compare(*arms(train_s=1.0), timed=False)}
    assert winners["training time"] == ""
    assert winners["val loss (nats/token)"] == "With"


def test_the_better_value_wins_and_of_parameters_neither_does() -> None:
    winners = {line.metric: line.winner for line in compare(*arms(train_s=1.0, num_params=1))}
    assert winners.pop("training time") == "With"
    assert winners.pop("parameters") == ""
    assert set(winners.values()) == {"With"}, "the record has a lower loss and a higher accuracy"
