"""Defines the metrics of a run: how each is read, written and compared.

Terminal, Markdown, CSV, site and trackers use the table METRICS, so a new metric needs only one entry in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from harness.core.runs import FinishedRun
from harness.rule.verdict import Verdict

Runs = Sequence[FinishedRun]


@dataclass(frozen=True)
class Metric:
    """A number that every finished run has, such as the val loss."""

    name: str
    """Name as shown to people, with the unit if `form` does not show it."""
    short: str
    """Short name, for the head of a table's column."""
    key: str
    """Name in an experiment tracker."""
    form: str
    """Format for a mean."""
    better: Literal["lower", "higher"] | None
    """Which direction is better; None if neither is, as for the number of parameters."""
    read: Callable[[FinishedRun], float]
    _: KW_ONLY
    run_form: str = ""
    """Format for a single run in a submission's README. Default: `form`."""
    mean_column: str = ""
    """Column of leaderboard.csv that holds the mean over the candidate's runs; empty if there is none."""
    ratio_column: str = ""
    """Column of leaderboard.csv that holds the ratio candidate / record; empty if there is none. The ratio is the
    verdict's field of the same name or, if the verdict has none, the ratio of the means."""
    headline: bool = False
    """Whether the board and the site's table of seeds have columns for this metric."""

    @property
    def whole(self) -> bool:
        """Whether the metric is a whole number."""
        return self.form.endswith(".0f}")

    def text(self, value: float, form: str = "") -> str:
        """A value as text with its unit. A blank separates the number from a percent sign."""
        return (form or self.form).format(value).replace("%", " %")

    def mean(self, runs: Runs) -> float:
        return statistics.fmean(map(self.read, runs))


METRICS: tuple[Metric, ...] = (
    Metric(
        "val loss (nats/token)",
        "val loss",
        "val/loss",
        "{:.4f}",
        "lower",
        lambda run: run.evaluation.val_loss,
        run_form="{:.5f}",
        mean_column="val_loss",
        headline=True,
    ),
    Metric("val accuracy", "accuracy", "val/accuracy", "{:.2%}", "higher", lambda run: run.evaluation.val_accuracy),
    Metric("perplexity", "perplexity", "val/perplexity", "{:.2f}", "lower", lambda run: run.evaluation.perplexity),
    Metric(
        "bits per byte",
        "bits/byte",
        "val/bits_per_byte",
        "{:.4f}",
        "lower",
        lambda run: run.evaluation.bits_per_byte,
        mean_column="bits_per_byte",
    ),
    Metric(
        "training time",
        "time",
        "train/seconds",
        "{:.1f} s",
        "lower",
        lambda run: run.training.train_s,
        ratio_column="time_ratio",
        headline=True,
    ),
    Metric(
        "parameters",
        "params",
        "model/parameters",
        "{:,.0f}",
        None,
        lambda run: run.training.num_params,
        mean_column="num_params",
        ratio_column="params_ratio",
        headline=True,
    ),
)


@dataclass(frozen=True)
class Comparison:
    """One line of the table that compares runs without the idea (the record) and with it (the candidate), as text."""

    metric: str
    without: str
    with_: str
    gain: str
    """How much better the candidate is. It is positive if the candidate is better, also for losses and times. For the
    number of parameters, where neither direction is better, it says how many more or fewer."""
    winner: Literal["", "Without", "With"]
    """The better side. Empty if neither direction is better, or if both values are the same text."""


def compare(records: Runs, candidates: Runs, *, timed: bool = True) -> list[Comparison]:
    """Compare the means over the seeds of record and candidate, with one entry for each metric.

    If `timed` is false, as for a screen, no time is marked as better, because record and candidate were not trained at
    the same time.
    """
    lines = []
    for metric in METRICS:
        is_time = metric.ratio_column in Verdict.model_fields
        without, with_ = metric.mean(records), metric.mean(candidates)
        texts = metric.text(without), metric.text(with_)
        winner: Literal["", "Without", "With"] = ""
        if metric.better is not None and texts[0] != texts[1] and (timed or not is_time):
            winner = "With" if (with_ < without) == (metric.better == "lower") else "Without"
        lines.append(Comparison(metric.name, *texts, _gain(metric, without, with_), winner))
    return lines


def _gain(metric: Metric, without: float, with_: float) -> str:
    if metric.better is None:
        more = f"{metric.text(abs(with_ - without))} {'more' if with_ >= without else 'fewer'}"
        return f"{more} (x{with_ / without:.2f})" if metric.ratio_column else more
    gain = metric.text(without - with_ if metric.better == "lower" else with_ - without)
    return gain if gain.startswith("-") else f"+{gain}"


def metric_columns(records: Runs, candidates: Runs, verdict: Verdict | None) -> dict[str, float | None]:
    """Column of leaderboard.csv -> number, for the columns that hold metrics. The value is None if the number is
    unknown."""
    columns: dict[str, float | None] = {}
    for metric in METRICS:
        mean = metric.mean(candidates) if candidates else None
        ratio = mean / metric.mean(records) if records and mean is not None else None
        if metric.ratio_column in Verdict.model_fields:
            ratio = getattr(verdict, metric.ratio_column, None)
        columns[metric.mean_column] = rounded(mean, None if metric.whole else 5)
        columns[metric.ratio_column] = rounded(ratio, 3)
    return {name: number for name, number in columns.items() if name}


def rounded(value: float | None, digits: int | None = 6) -> float | None:
    """`value` rounded to `digits` digits after the point, or to a whole number if `digits` is None.

    The result is None if `value` is None.
    """
    return None if value is None else round(value, digits)
