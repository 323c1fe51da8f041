"""What is shown of a track, and of a mixture's routers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.report import new_table
from harness.results import FinishedRun
from harness.track import Track

if TYPE_CHECKING:
    from rich.table import Table


def track_lines(track: Track) -> list[str]:
    """One track in words."""
    model, optim, budget, data = track.model, track.optim, track.budget, track.data
    experts = f", {model.num_experts} experts a layer, each token in {model.top_k}" if model.num_experts else ""
    embeddings = "tied" if model.tie_embeddings else "separate"
    return [
        f"{track.name}: {track.summary}",
        f"model: width {model.dim}, {model.num_layers} layers, {model.num_heads} heads with {model.num_kv_heads} key "
        f"heads, feed-forward {model.ffn_dim}{experts}, {model.vocab_size:,} tokens, {embeddings} embeddings",
        f"rates: Muon {optim.muon_lr:g}, embedding {optim.embed_lr:g}, head {optim.head_lr:g}, "
        f"thin parameters {optim.scalar_lr:g}",
        f"budget: {budget.num_steps:,} steps of {budget.batch_sequences} x {budget.seq_len:,} tokens, "
        f"{budget.tokens:,} in all",
        f"data: {data.title}, {'pinned' if data.pinned else 'not pinned: it can train, but nothing can be filed'}",
        f"device: {track.device}, {track.threads} thread(s) a run",
        f"rule: {track.rule.design}, looks after {', '.join(map(str, track.rule.looks))} pairs",
        f"digest: {track.digest}",
    ]


def reported_table(track: Track) -> Table:
    """What others report for a track's system."""
    table = new_table("reported elsewhere: not measured here, no row of the board")
    columns = ("what", "date", "val loss", "val acc", "perplexity", "train loss", "time")
    for column in columns:
        table.add_column(column, justify="left" if column in ("what", "date") else "right", no_wrap=column != "what")
    for row in track.reported:
        numbers = ((row.val_loss, "{:.4f}"), (row.val_accuracy, "{:.2f} %"), (row.perplexity, "{:.2f}"))
        cells = [
            "" if number is None else form.format(number) for number, form in (*numbers, (row.train_loss, "{:.4f}"))
        ]
        table.add_row(row.what, row.date, *cells, row.time or "")
    return table


def experts_table(recipe: str, runs: Sequence[FinishedRun]) -> Table | None:
    """How each layer's router spreads the dev split over its experts, means over the runs; None without experts."""
    layers = [run.training.experts for run in runs if run.training.experts is not None]
    if not layers or len(layers) < len(runs):
        return None
    table = new_table(f"{recipe}: share of the assignments that each expert gets on dev")
    for column in ("layer", "balance", "lightest", "heaviest", "all, in order"):
        table.add_column(column, justify="left" if column.startswith("all") else "right")
    for place, same in enumerate(zip(*layers, strict=True)):
        shares = [statistics.fmean(share) for share in zip(*(layer.load for layer in same), strict=True)]
        table.add_row(
            str(place + 1),
            f"{statistics.fmean(layer.balance for layer in same):.3f}",
            f"{100 * min(shares):.1f} %",
            f"{100 * max(shares):.1f} %",
            " ".join(f"{100 * share:.0f}" for share in shares),
        )
    return table
