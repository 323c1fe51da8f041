"""The metrics of a run: how each is read, written and compared.

Terminal, Markdown, CSV, site and trackers read METRICS, so a new metric is one entry there.
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
    """One number that every finished run has."""

    name: str
    """With the unit where the format does not show it."""
    short: str
    """Heads a column."""
    key: str
    """In an experiment tracker."""
    form: str
    better: Literal["lower", "higher"] | None
    """None where neither direction is better."""
    read: Callable[[FinishedRun], float]
    _: KW_ONLY
    run_form: str = ""
    """Of a single run in a submission's README, where it is not `form`."""
    mean_column: str = ""
    """Of leaderboard.csv: the mean over the candidate's runs."""
    ratio_column: str = ""
    """Of leaderboard.csv: candidate / record; the verdict's where it has a field of this name, else of the means."""
    headline: bool = False
    """Whether the board shows its columns, and the site's table of seeds both arms."""

    @property
    def whole(self) -> bool:
        """Whether it counts something."""
        return self.form.endswith(".0f}")

    def text(self, value: float, form: str = "") -> str:
        """A value with its unit; a percent sign stands apart."""
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
    """One line of the Without / With table, as text."""

    metric: str
    without: str
    with_: str
    difference: str
    winner: Literal["", "Without", "With"]
    """Empty where neither direction is better, or both values are written alike."""


def compare(records: Runs, candidates: Runs, *, timed: bool = True) -> list[Comparison]:
    """Means over the seeds of both arms. Unless `timed` no time wins: a screen's runs are no neighbours in time."""
    lines = []
    for metric in METRICS:
        is_time = metric.ratio_column in Verdict.model_fields
        without, with_ = metric.mean(records), metric.mean(candidates)
        texts = metric.text(without), metric.text(with_)
        difference = metric.text(with_ - without)
        difference = difference if difference.startswith("-") else f"+{difference}"
        if metric.ratio_column and not is_time:
            difference += f" (x{with_ / without:.2f})"
        winner: Literal["", "Without", "With"] = ""
        if metric.better is not None and texts[0] != texts[1] and (timed or not is_time):
            winner = "With" if (with_ < without) == (metric.better == "lower") else "Without"
        lines.append(Comparison(metric.name, *texts, difference, winner))
    return lines


def metric_columns(records: Runs, candidates: Runs, verdict: Verdict | None) -> dict[str, float | None]:
    """The columns of leaderboard.csv that hold metrics; None where runs or verdict do not give the number."""
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
    """To so many digits, or a whole number where `digits` is None; None stays None."""
    return None if value is None else round(value, digits)
