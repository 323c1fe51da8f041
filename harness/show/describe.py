"""Tables and sentences about tracks, variants, verdicts, the machine, and the routers of a mixture of experts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from harness.board.leaderboard import Standing
from harness.board.rows import Row
from harness.board.submission import knowledge_per_token
from harness.core.runs import FinishedRun
from harness.core.track import Track
from harness.lab.doctor import Diagnosis, TrackOutlook
from harness.lab.history import Judged
from harness.show.documents import BuiltVariant
from harness.show.report import duration
from harness.show.tables import fold_recipe, new_table, shorten_recipe
from harness.variants.recipe import parse_recipe
from harness.variants.source import VariantSource


def tracks_table(tracks: Sequence[Track], holders: Sequence[Row | None]) -> Table:
    """A table with one line for each track."""
    heads = ("track", "what it is", "record", "val loss")
    table = new_table(None, heads, left=heads[:3], whole=("track", "val loss"))
    table.columns[2].overflow = "fold"
    for track, holder in zip(tracks, holders, strict=True):
        loss = "" if holder is None or holder.val_loss is None else f"{holder.val_loss:.4f}"
        recipe = "not open yet"
        if holder is not None:
            recipe = f"{holder.number}: {shorten_recipe(holder.recipe, RECIPE_WIDTH - len(f'{holder.number}: '))}"
        table.add_row(track.name, track.summary, recipe, loss)
    return table


def variants_table(
    sources: Sequence[VariantSource],
    found: Mapping[str, Sequence[Standing]],
    unfiled: Mapping[tuple[str, str], Sequence[Judged]],
) -> Table:
    """A table with one line for each variant: newest submissions, and newest verdict that is not submitted."""
    heads = ("variant", "stmts", "change and source", "standing")
    table = new_table(None, heads, left=(heads[0], *heads[2:]), whole=heads[:1])
    table.columns[2].overflow = table.columns[3].overflow = "fold"
    table.columns[3].max_width = 16
    for source in sources:
        standings = [_short_standing(one) for one in found.get(source.name, ())[:2]]
        standings += [_unfiled_standing(one) for one in unfiled.get((source.name, source.digest), ())[:1]]
        table.add_row(source.name, str(source.cost), source.summary, "; ".join(standings) or "not judged")
    return table


def variant_facts(
    source: VariantSource,
    found: Sequence[Standing],
    unfiled: Sequence[Judged],
    tracks: Sequence[Track],
    built: BuiltVariant | None,
) -> list[tuple[str, str]]:
    """(name, value) for each fact about a variant: cost, verdicts, and the command that compares it with the record.

    The fact `knowledge of val` is a bound on how far the variant could lower the val loss by storing the val text.
    """
    place = f"models/variants/{source.path.name}"
    facts = [("cost", f"{source.cost} statements"), ("file", place), ("digest", source.digest)]
    facts += [("builds", f"on {built.track}, {built.num_params:,} parameters")] if built is not None else []
    pinned = [track for track in tracks if track.data.pinned]
    known = [f"{knowledge_per_token([source.text], track):.4f} on {track.name}" for track in pinned]
    facts += [("knowledge of val", f"at most {', '.join(known)} (nats per token)")] if known else []
    for one in found:
        confirmed = "" if one.confirmed_by is None else f", confirmed by {one.confirmed_by:04d}"
        gain = "" if one.gain is None else f", gain {one.gain:+.4f}"
        p = "" if one.p_value is None else f", p {one.p_value:.2g}"
        facts.append((f"submission {one.number:04d}", f"{_short_standing(one)}{confirmed}{gain}{p}"))
    facts += [("on this machine", f"{judged_sentence(one)}, on {one.track}") for one in unfiled]
    return [*facts, ("judge it", f"`llmbench run candidate --variant {source.name}`")]


def _short_standing(one: Standing) -> str:
    """A variant's result as text, such as `negative on pocket` or `record on pocket, retracted`."""
    state, is_record = f", {one.state}" if one.state else "", one.kind == "record"
    if one.removed:
        return f"{'taken out of' if is_record else 'stays in'} the record of {one.track}{state}"
    return f"holds {one.track}{state}" if one.holds and is_record else f"{one.kind} on {one.track}{state}"


def _unfiled_standing(one: Judged) -> str:
    """A verdict that is not submitted, as text: `rejected on pocket, on this machine, not submitted`."""
    return f"{one.decision} on {one.track}, on this machine, not submitted"


def judged_sentence(one: Judged) -> str:
    """A verdict as one line of text:

    `base+x against base, 2026-11-28, not submitted: rejected by the screen (screened_out), gain -0.0012 over 4 pairs`
    """
    filed = "not submitted" if one.number is None else f"submission {one.number:04d}"
    lane = f" in the lane {one.lane}" if one.lane not in (None, "loss") else ""
    gain = "" if one.gain is None else f", gain {one.gain:+.4f} over {one.pairs} pair{'' if one.pairs == 1 else 's'}"
    by = f" by the {one.stage}" if one.stage else ""
    return (
        f"{one.candidate} against {one.record}{lane}, {one.date[:10]}, {filed}: "
        f"{one.decision}{by} ({one.reasons[0]}){gain}"
    )


RECIPE_WIDTH = 24  # characters, so that the table of verdicts fits 80


def history_table(verdicts: Sequence[Judged]) -> Table:
    """A table with two lines for each verdict: what was compared, decision, reason, gain, and submission."""
    heads = ("date\ntrack", "change\nagainst", "verdict\nwhy", "gain\npairs", "board")
    table = new_table(None, heads, left=(*heads[:3], heads[4]), whole=(heads[0], *heads[3:]))
    table.columns[1].overflow = table.columns[2].overflow = "fold"
    for one in verdicts:
        lane = f" (lane {one.lane})" if one.lane not in (None, "loss") else ""
        stage = f", {one.stage}" if one.stage else ""
        state = f", {one.state}" if one.state else ""
        gain, pairs = "" if one.gain is None else f"{one.gain:+.4f}", str(one.pairs or "")
        changed, against = (
            fold_recipe(_changed(one) + lane, RECIPE_WIDTH),
            shorten_recipe(one.record or "", RECIPE_WIDTH),
        )
        table.add_row(
            f"{one.date[:10]}\n{one.track}",
            f"{changed}\n{against}",
            f"{one.decision}{stage}\n{one.reasons[0]}{state}",
            f"{gain}\n{pairs}",
            "no" if one.number is None else f"{one.number:04d}",
        )
    return table


def _changed(one: Judged) -> str:
    """The variants that the candidate adds to the record (`+x`) or removes (`-x`).

    Without a record, the candidate's recipe.
    """
    if one.record is None:
        return one.candidate
    record, candidate = parse_recipe(one.record), parse_recipe(one.candidate)
    added = (f"+{name}" for name in candidate if name not in record)
    return "".join((*added, *(f"-{name}" for name in record if name not in candidate)))


def doctor_lines(found: Diagnosis) -> list[str]:
    """Lines that describe the machine."""
    precision = "bfloat16" if found.bf16 else "float32: it has no bfloat16"
    gpu = f"{found.gpu}, {found.gpu_memory_gib or 0:.0f} GiB, trains in {precision}" if found.gpu else "no CUDA GPU"
    confined = ", ".join(found.confinement) or "none: variants run unconfined here, and their runs record this"
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    return [
        f"python       {found.python}; {packages}",
        f"processor    {found.cpu}, {found.cores} core{'' if found.cores == 1 else 's'}",
        f"memory       {found.memory_gib} GiB",
        f"GPU          {gpu}",
        f"disk         {found.disk_free_gib:.0f} GiB free",
        f"confinement  {confined}",
        f"matrix rate  {found.cpu_flops_per_s / 1e9:.0f} GFLOP/s on one thread"
        + (f", {found.gpu_flops_per_s / 1e12:.0f} TFLOP/s on the GPU" if found.gpu_flops_per_s else ""),
    ]


def outlook_lines(outlooks: Sequence[TrackOutlook]) -> list[str]:
    """One line for each reason why tracks cannot train here, and for each remark, with the names of these tracks."""
    found: dict[str, list[str]] = {}
    for outlook in outlooks:
        for reason in (*outlook.hindrances, *outlook.remarks):
            found.setdefault(reason, []).append(outlook.track)
    return [f"{reason}: {', '.join(tracks)}" for reason, tracks in found.items()]


def outlook_table(outlooks: Sequence[TrackOutlook]) -> Table:
    """A table of times on this machine, for each track: a run, and the shortest and longest screen and confirmation."""
    heads = ("track", "trains\nhere", "a run", "runs at\na time", "screen", "confirmation", "estimated\nfrom")
    table = new_table(None, heads, left=(heads[0], heads[1], heads[-1]), whole=heads[:2])
    for one in outlooks:
        ends = ((one.screen_first_s, one.screen_last_s), (one.first_look_s, one.last_look_s))
        stages = (
            "" if first is None or last is None else f"{duration(first)} to {duration(last)}" for first, last in ends
        )
        run = "" if one.run_s is None else duration(one.run_s)
        cells = (run, str(one.jobs), *stages, one.source or "")
        table.add_row(one.track, "yes" if one.runnable else "no", *cells, style=None if one.runnable else "dim")
    return table


PINNED = "pinned: the digests of its tokens are in the track's file"
NOT_PINNED = "not pinned: the digests of its tokens are not in the track's file, so nothing can be submitted"


def track_facts(track: Track) -> list[tuple[str, str]]:
    """(name, text) for each fact about a track."""
    rule = track.rule
    stored = f"compares the candidate with {rule.stored_runs} stored runs of the record; tests after {{}} runs"
    tests = "compares pairs of runs with the same seed; tests after {} pairs" if rule.design == "paired" else stored
    model, optim, budget, data = track.model, track.optim, track.budget, track.data
    experts = f", {model.num_experts} experts a layer, each token in {model.top_k}" if model.num_experts else ""
    embeddings = "tied" if model.tie_embeddings else "separate"
    processes = f"{track.processes} processes of " if track.processes else ""
    facts = {
        "model": f"width {model.dim}, {model.num_layers} layers, {model.num_heads} query heads, "
        f"{model.num_kv_heads} key-value heads, feed-forward {model.ffn_dim}{experts}, {model.vocab_size:,} tokens, "
        f"{embeddings} embeddings",
        "learning rates": f"Muon {optim.muon_lr:g}, embedding {optim.embed_lr:g}, head {optim.head_lr:g}, "
        f"vectors and thin matrices {optim.scalar_lr:g}",
        "budget": f"{budget.num_steps:,} steps of {budget.batch_sequences} x {budget.seq_len:,} tokens, "
        f"{budget.tokens:,} in all",
        "data": f"{data.title}; {PINNED if data.pinned else NOT_PINNED}",
        "device": f"{track.device}, {processes}{track.threads} thread{'' if track.threads == 1 else 's'} a run",
        "rule": tests.format(", ".join(map(str, rule.looks))),
        "a record needs": f"a gain above {rule.loss_per_statement:g} nats for each added statement, at a "
        f"false-accept rate of {rule.alpha:g} over all tests, and at most {1 + rule.max_slowdown:g} times the old "
        "record's time" + (f"; it must not be shown to lose on {' and '.join(rule.holds_on)}" if rule.holds_on else ""),
        "digest": track.digest,
    }
    return [*facts.items()]


def reported_table(track: Track) -> Table:
    """A table of results that others report for the system that the track reproduces."""
    _, *others = heads = ("what", "date", "val loss", "val acc", "perplexity", "train loss", "time")
    title = "reported by others, not measured here"
    table = new_table(title, heads, left=("what", "date"), whole=others)
    for row in track.reported:
        numbers = (row.val_loss, row.val_accuracy, row.perplexity, row.train_loss)
        forms = ("{:.4f}", "{:.2f} %", "{:.2f}", "{:.4f}")
        cells = ["" if n is None else form.format(n) for n, form in zip(numbers, forms, strict=True)]
        table.add_row(row.what, row.date, *cells, row.time or "")
    return table


def experts_table(recipe: str, runs: Sequence[FinishedRun]) -> Table | None:
    """A table of the share of dev tokens that each layer's router gives to each expert; None if there are no experts.

    All numbers are means over the runs.
    """
    layers = [run.training.experts for run in runs if run.training.experts is not None]
    if not layers or len(layers) < len(runs):
        return None
    heads = ("layer", "balance", "smallest", "largest", "all experts, in %")
    table = new_table(
        f"{recipe}: share of dev's tokens that each expert gets, as reported by the process with the variant's code",
        heads,
        left=heads[-1:],
    )
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
