"""What became of each candidate of a campaign, as rows that tables, documents and pictures share."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Literal, cast

from harness.core.errors import LlmbenchError
from harness.core.schema import Count, Strict
from harness.lab.arms import Arms, contest_seeds
from harness.lab.contest import decide_trained
from harness.lab.history import Judged
from harness.lab.store import RunStore
from harness.lab.studies.campaign import Campaign
from harness.lab.studies.screening import BEFORE, Contestant
from harness.rule.verdict import Stage, Verdict

Outcome = Literal[
    "accepted", "rejected", "undecided", "not_started", "refused", "unreadable", "in_record", "crashed"
]  # fmt: skip
LEFT: tuple[Outcome, ...] = ("undecided", "not_started", "unreadable")
"""Outcomes with which something is left to do."""


class CampaignRow(Strict):
    """One candidate. Numbers are those of its last verdict, in nats per token; None where it has none."""

    name: str
    outcome: Outcome
    """`refused` cannot start on this track or conflicts with the record; `in_record` is a part of it."""
    record: str | None
    """The recipe that it met last."""
    candidate: str | None
    stage: Stage | None
    reasons: tuple[str, ...]
    gain: float | None
    ci_low: float | None
    """Of a confirmation: the interval of all looks."""
    ci_high: float | None
    noise: float | None
    """Of a screen: the deviation of its mean gain by chance, as the track declares the noise of a pair."""
    p_value: float | None
    price: float | None
    """What the gain must exceed."""
    statements: int | None
    """That it adds."""
    pairs: Count
    runs: Count
    """Of the candidate that are there, of both stages."""
    judged_before: bool
    """Whether this verdict was there before the campaign, so that nothing was trained for it."""
    submission: str | None
    """Folder that holds the outcome; None where it is not filed."""
    note: str
    """Why there is no verdict, or why it was not filed."""


def campaign_rows(campaign: Campaign) -> list[CampaignRow]:
    """A row for each candidate, the largest gain first, those without one last."""
    rows = [_row(campaign, contestant) for contestant in campaign.contestants]
    return sorted(rows, key=lambda row: math.inf if row.gain is None else -row.gain)


def _row(campaign: Campaign, one: Contestant) -> CampaignRow:
    outcome: Outcome = "not_started"
    note = one.note
    if one.state in ("passed", "confirming"):
        outcome, note = "undecided", "passed the screen; there was no time to confirm it"
    elif one.state == "screening":
        outcome, note = "undecided", "there was no time for its next look"
    elif one.state == "waiting":
        note = "there was no time to screen it"
    else:
        outcome = cast(Outcome, one.state)
    verdict = one.contest.verdict if one.contest and one.state not in ("waiting", "refused", "crashed") else None
    before = one.earlier[0] if one.note == BEFORE else None
    arms = one.candidate.arms if one.candidate else None
    if before is not None and before.record is not None:
        arms, verdict = Arms(before.record, before.candidate), _verdict_of(campaign, before)
    if verdict is not None and outcome == "undecided" and verdict.next_look and not note:
        note = "there was no time for its next look"
    numbers = {
        name: getattr(verdict, name, None) for name in ("stage", "gain", "ci_low", "ci_high", "p_value")
    }  # fmt: skip
    if verdict is None and before is not None:
        numbers |= {"stage": before.stage, "gain": before.gain}
    last = verdict or before
    noise, screened = campaign.track.rule.noise_nats, numbers["stage"] == "screen"
    return CampaignRow(
        **numbers,
        name=one.name,
        outcome=outcome,
        record=arms.record if arms else None,
        candidate=arms.candidate if arms else None,
        reasons=last.reasons if last else (),
        noise=noise / math.sqrt(last.pairs) if last and last.pairs and screened and noise else None,
        price=verdict.margin if verdict else None,
        statements=verdict.added_statements if verdict else None,
        pairs=last.pairs if last else 0,
        runs=_count_runs(campaign.store, arms) if arms else 0,
        judged_before=before is not None,
        submission=one.submission or None,
        note="" if before is not None else note,
    )


def _verdict_of(campaign: Campaign, judged: Judged) -> Verdict | None:
    """A verdict that was there before: as it is filed, or by its stored runs; None where those are gone."""
    if judged.number is not None and (found := campaign.board.find(judged.number)):
        return found.verdict
    with suppress(LlmbenchError):  # a variant's file has changed or is gone
        verdict = decide_trained(campaign.store, Arms(judged.record or "", judged.candidate)).verdict
        deciding = (verdict.decision, verdict.stage, verdict.reasons[:1])
        if deciding == (judged.decision, judged.stage, judged.reasons[:1]):
            return verdict
    return None


def _count_runs(store: RunStore, arms: Arms) -> int:
    """Runs of the candidate that are kept, of both stages."""
    stages: tuple[Stage, ...] = ("screen", "confirmation") if arms.has_screen(store.track.rule) else ("confirmation",)
    count = 0
    with suppress(LlmbenchError):  # a variant's file has changed or is gone
        for stage in stages:
            seeds = contest_seeds(store.project, store.track, arms, stage)
            count += sum(store.find(store.identify(arms.candidate, seed)) is not None for seed in seeds)
    return count
