"""The outcome of each candidate of a campaign, as rows for tables, documents and pictures."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import Literal, cast

from harness.core.errors import LlmbenchError
from harness.core.schema import Count, Strict
from harness.lab.arms import Arms, Entry, contest_seeds
from harness.lab.contest import decide_trained
from harness.lab.executor import LocalExecutor
from harness.lab.history import Judged
from harness.lab.ray.cluster import RayExecutor
from harness.lab.store import RunStore
from harness.lab.studies.campaign import Campaign
from harness.lab.studies.screening import BEFORE, Contestant, State
from harness.rule.verdict import Stage, Verdict

Outcome = Literal[
    "accepted", "rejected", "undecided", "not_started", "refused", "unreadable", "in_record", "crashed"
]  # fmt: skip
LEFT: tuple[Outcome, ...] = ("undecided", "not_started", "unreadable")
"""Outcomes that are not final: the same command goes on with them."""


class CampaignRow(Strict):
    """One candidate, and the numbers of its last verdict, which are None without a verdict.

    Gains are in nats per token.
    """

    name: str
    outcome: Outcome
    """`refused`: the candidate cannot start on this track, or conflicts with the record. `in_record`: it is a part of
    the record."""
    record: str | None
    """Recipe of the record that the candidate was compared with last."""
    candidate: str | None
    stage: Stage | None
    reasons: tuple[str, ...]
    gain: float | None
    ci_low: float | None
    """After a confirmation: lower end of the gain's interval, which is valid for all tests of the confirmation."""
    ci_high: float | None
    noise: float | None
    """After a screen: the standard deviation that the track's noise alone gives to a mean gain over so many pairs."""
    p_value: float | None
    price: float | None
    """Price of the candidate's code, which the gain must exceed."""
    statements: int | None
    """Number of statements that the candidate adds."""
    pairs: Count
    runs: Count
    """Number of the candidate's stored runs, from screen and confirmation together."""
    judged_before: bool
    """Whether the verdict is older than the campaign. The campaign then trained nothing for it."""
    submission: str | None
    """Folder of the submission with the outcome; None if the outcome was not submitted."""
    note: str
    """Why there is no verdict, or why the verdict was not submitted."""


def campaign_rows(campaign: Campaign) -> list[CampaignRow]:
    """One row for each candidate: the largest gain first, candidates without a measured gain last."""
    rows = [_row(campaign, contestant) for contestant in campaign.contestants]
    return sorted(rows, key=lambda row: math.inf if row.gain is None else -row.gain)


NO_TIME: dict[State, tuple[Outcome, str]] = {
    "waiting": ("not_started", "the time budget ended before its screen"),
    "screening": ("undecided", "the time budget ended before there were enough runs to decide"),
    "passed": ("undecided", "it passed the screen; the time budget ended before its confirmation"),
    "confirming": ("undecided", "it passed the screen; the time budget ended before its confirmation"),
}
"""A contestant's state at the end of a campaign -> its outcome, and a note."""


def _row(campaign: Campaign, one: Contestant) -> CampaignRow:
    outcome, note = NO_TIME.get(one.state) or (cast(Outcome, one.state), one.note)
    verdict = one.contest.verdict if one.contest and outcome in ("accepted", "rejected", "undecided") else None
    arms = one.candidate.arms if one.candidate else None
    before, store = one.earlier[0] if note == BEFORE else None, campaign.store
    if before is not None:
        store = _store_of(store, one.entry, before.entry or one.entry)
        arms, note = Arms(before.record or "", before.candidate), ""
        verdict = _verdict_of(campaign, store, before)
    last = verdict or before
    if verdict is not None and not note:
        late = outcome == "undecided" and verdict.next_look is not None
        note = NO_TIME["screening"][1] if late else "; ".join(verdict.details)
    noise = campaign.track.rule.noise_nats if last and last.stage == "screen" else None
    return CampaignRow(
        name=one.name,
        outcome=outcome,
        record=arms.record if arms else None,
        candidate=arms.candidate if arms else None,
        stage=last.stage if last else None,
        reasons=last.reasons if last else (),
        gain=last.gain if last else None,
        ci_low=verdict.ci_low if verdict else None,
        ci_high=verdict.ci_high if verdict else None,
        noise=noise / math.sqrt(last.pairs) if last and last.pairs and noise else None,
        p_value=verdict.p_value if verdict else None,
        price=verdict.margin if verdict else None,
        statements=verdict.added_statements if verdict else None,
        pairs=last.pairs if last else 0,
        runs=_count_runs(store, arms) if arms else 0,
        judged_before=before is not None,
        submission=one.submission or None,
        note=note,
    )


def _store_of(store: RunStore, own: Entry, other: Entry) -> RunStore:
    """The store in which the runs of the entry `other` are found.

    An entry is a request to judge a candidate, with its options. `other` may have another number of jobs or another
    executor than `own`, the entry for which `store` was made.
    """
    if (own.jobs, own.executor) == (other.jobs, other.executor):
        return store
    if other.executor == "local":
        return replace(store, jobs=other.jobs or LocalExecutor.room(store.track), executor=LocalExecutor)
    return replace(store, executor=RayExecutor)


def _verdict_of(campaign: Campaign, store: RunStore, judged: Judged) -> Verdict | None:
    """An older verdict: read from its submission or, if it was not submitted, recomputed from its stored runs.

    None if these runs are gone.
    """
    if judged.number is not None and (found := campaign.board.find(judged.number)):
        return found.verdict
    with suppress(LlmbenchError):  # a variant was changed or deleted
        verdict = decide_trained(store, Arms(judged.record or "", judged.candidate)).verdict
        deciding = (verdict.decision, verdict.stage, verdict.reasons[:1])
        if deciding == (judged.decision, judged.stage, judged.reasons[:1]):
            return verdict
    return None


def _count_runs(store: RunStore, arms: Arms) -> int:
    """Number of the candidate's stored runs, from screen and confirmation together."""
    stages: tuple[Stage, ...] = ("screen", "confirmation") if arms.has_screen(store.track.rule) else ("confirmation",)
    count = 0
    with suppress(LlmbenchError):  # a variant was changed or deleted
        for stage in stages:
            seeds = contest_seeds(store.project, store.track, arms, stage)
            count += sum(store.find(store.identify(arms.candidate, seed)) is not None for seed in seeds)
    return count
