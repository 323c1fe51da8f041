"""The metrics of a run: how each is read, written and compared.

Terminal, Markdown, CSV, site and trackers read METRICS, so a new metric is one entry there.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.core.runs import FinishedRun
from harness.rule.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that every finished run has."""

    name: str
    """Where it has a line of its own."""
    short: str
    """Where it has a column of its own."""
    unit: str = ""
    """Where the format does not show it."""
    key: str
    """In an experiment tracker."""
    read: Callable[[FinishedRun], float]
    form: str
    """Of a mean over runs."""
    run_form: str = ""
    """Of a single run in a submission's README; empty where it is `form`."""
    better: Literal["lower", "higher"] | None
    """None where neither direction is better."""
    mean_column: str = ""
    """Of leaderboard.csv: the mean over the candidate's runs; empty where there is no such column."""
    ratio_column: str = ""
    """Of leaderboard.csv: candidate / record; empty where there is no such column."""
    verdict_ratio: str = ""
    """The verdict's field that holds the ratio; empty where the ratio is that of the means."""
    headline: bool = False
    """Whether the board shows its columns, and the site's table of seeds both arms."""

    @property
    def label(self) -> str:
        """The name, and the unit where the format does not show it."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def ratio_head(self) -> str:
        """Of the ratio's column on the board."""
        return f"{self.short} ratio" if self.mean_column else self.short

    @property
    def whole(self) -> bool:
        """Whether it counts something."""
        return self.form.endswith(".0f}")

    def text(self, value: float, form: str = "") -> str:
        """A value with its unit; a percent sign stands apart."""
        return (form or self.form).format(value).replace("%", " %")

    def run_text(self, run: FinishedRun) -> str:
        """The value of one run, with all digits that a README shows."""
        return self.text(self.read(run), self.run_form)

    def mean(self, runs: Sequence[FinishedRun]) -> float:
        """Over at least one run."""
        return statistics.fmean(map(self.read, runs))


METRICS: tuple[Metric, ...] = (
    Metric(
        name="val loss",
        short="val loss",
        unit="nats/token",
        key="val/loss",
        read=lambda run: run.evaluation.val_loss,
        form="{:.4f}",
        run_form="{:.5f}",
        better="lower",
        mean_column="val_loss",
        headline=True,
    ),
    Metric(
        name="val accuracy",
        short="accuracy",
        key="val/accuracy",
        read=lambda run: run.evaluation.val_accuracy,
        form="{:.2%}",
        better="higher",
    ),
    Metric(
        name="perplexity",
        short="perplexity",
        key="val/perplexity",
        read=lambda run: run.evaluation.perplexity,
        form="{:.2f}",
        better="lower",
    ),
    Metric(
        name="bits per byte",
        short="bits/byte",
        key="val/bits_per_byte",
        read=lambda run: run.evaluation.bits_per_byte,
        form="{:.4f}",
        better="lower",
        mean_column="bits_per_byte",
    ),
    Metric(
        name="training time",
        short="time",
        key="train/seconds",
        read=lambda run: run.training.train_s,
        form="{:.1f} s",
        better="lower",
        ratio_column="time_ratio",
        verdict_ratio="time_ratio",
        headline=True,
    ),
    Metric(
        name="parameters",
        short="params",
        key="model/parameters",
        read=lambda run: run.training.num_params,
        form="{:,.0f}",
        better=None,
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


def compare(records: Sequence[FinishedRun], candidates: Sequence[FinishedRun]) -> list[Comparison]:
    """Means over the seeds of both arms."""
    return [_compare_means(metric, metric.mean(records), metric.mean(candidates)) for metric in METRICS]


def _compare_means(metric: Metric, without: float, with_: float) -> Comparison:
    texts = metric.text(without), metric.text(with_)
    difference = metric.text(with_ - without)
    difference = difference if difference.startswith("-") else f"+{difference}"
    if metric.ratio_column and not metric.verdict_ratio:
        difference += f" (x{with_ / without:.2f})"
    winner: Literal["", "Without", "With"] = ""
    if metric.better is not None and texts[0] != texts[1]:
        winner = "With" if (with_ < without) == (metric.better == "lower") else "Without"
    return Comparison(metric.label, *texts, difference, winner)


def metric_columns(
    records: Sequence[FinishedRun], candidates: Sequence[FinishedRun], verdict: Verdict | None
) -> dict[str, float | None]:
    """The columns of leaderboard.csv that hold metrics; None where runs or verdict do not give the number."""
    columns: dict[str, float | None] = {}
    for metric in METRICS:
        if metric.mean_column:
            mean = metric.mean(candidates) if candidates else None
            columns[metric.mean_column] = rounded(mean, None if metric.whole else 5)
        if metric.verdict_ratio:
            columns[metric.ratio_column] = rounded(getattr(verdict, metric.verdict_ratio, None), 3)
        elif metric.ratio_column:
            ratio = metric.mean(candidates) / metric.mean(records) if records and candidates else None
            columns[metric.ratio_column] = rounded(ratio, 3)
    return columns


def rounded(value: float | None, digits: int | None = 6) -> float | None:
    """To so many digits, or a whole number where `digits` is None; None stays None."""
    return None if value is None else round(value, digits)
