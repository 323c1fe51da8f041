"""Sorts the rows of a file, one for each run, into record and candidate, and finds out which runs are pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from harness.core.errors import LlmbenchError, did_you_mean
from harness.core.track import LONGEST_QUOTE

MOST_NAMED = 8
"""Largest number of names or seeds that one sentence lists."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names in a file (of arms, columns or a tag), as the user gave them; None for a name that was not given."""

    record_arm: str | None = None
    candidate_arm: str | None = None
    arm_column: str | None = None
    seed_column: str | None = None
    value_column: str | None = None
    tag: str | None = None

    def refuse_others(self, used: Sequence[str], what: str) -> None:
        """Raises LlmbenchError if the user gave a name that is not in `used`, the names that are needed for `what`."""
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in used:
                raise LlmbenchError(f"--{field.name.replace('_', '-')} does not apply to {what}; leave it out")


class Row(NamedTuple):
    """The number of one run, with its seed and the name of its arm (one of the two sides that are compared)."""

    arm: str
    seed: int | None
    """None if the name of the run's folder has no seed."""
    value: float
    place: str
    """Where the row was read, for messages, such as `line 3`."""


class Read(NamedTuple):
    """A file's content as fields of `Numbers`, and notes on how it was read."""

    content: dict[str, Any]
    notes: tuple[str, ...] = ()


def as_float(number: float) -> float:
    """A JSON number as a float. A whole number that is too large for a float becomes infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def quote(text: str) -> str:
    """`text` in quotes, cut to LONGEST_QUOTE characters."""
    return f"'{text[:LONGEST_QUOTE]}{'…' if len(text) > LONGEST_QUOTE else ''}'"


def listed(items: Sequence[object]) -> str:
    """The items as a list in words, such as `'a', 'b' and 3 more`."""
    shown = ", ".join(quote(str(item)) for item in items[:MOST_NAMED])
    return shown if len(items) <= MOST_NAMED else f"{shown} and {len(items) - MOST_NAMED} more"


def sort_rows(rows: Sequence[Row], names: Names, options: Mapping[str, Any]) -> Read:
    """Sort rows into record and candidate, each in the order of its seeds.

    Equal seeds are paired unless `options` say otherwise. `options` are the fields of `Numbers` that the user gave.
    Raises LlmbenchError if it is not clear which rows are the record's, or if one run of a pair is missing.
    """
    if not rows:
        raise LlmbenchError("there are no runs below the first line; write one run in each line")
    fixed = options.get("target") is not None
    arms, notes = _arms(rows, names, fixed)
    content: dict[str, Any] = {}
    repeated: list[str] = []
    for arm, own in arms.items():
        known = [row for row in own if row.seed is not None]
        if len(known) < len(own) and options.get("paired") is not False and not fixed:
            nameless = next(row for row in own if row.seed is None)
            raise LlmbenchError(f"{nameless.place} has no seed in its name; name it like seed1, or use --unpaired")
        if len(known) == len(own):
            own = sorted(own, key=lambda row: row.seed or 0)
            content[f"{arm}_seeds"] = [row.seed for row in own]
        content[arm] = [row.value for row in own]
        repeated += _repeated(own)
    notes += repeated
    if len(arms) < 2:
        return Read(content, tuple(notes))
    paired, note = _pairing(arms, options, repeated=bool(repeated))
    return Read({**content, "paired": paired}, (*notes, note))


def _arms(rows: Sequence[Row], names: Names, fixed: bool) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each role (`record` or `candidate`) that the file has, and notes on the names of these two arms."""
    there: dict[str, list[Row]] = {}
    for row in rows:
        there.setdefault(row.arm, []).append(row)
    for option, name in (("--record-arm", names.record_arm), ("--candidate-arm", names.candidate_arm)):
        if name is not None and name not in there:
            raise LlmbenchError(
                f"{option} {name}: there is no such arm{did_you_mean(name, there)}; the arms are {listed([*there])}"
            )
    record, candidate = _one_role([*there], names) if fixed else _two_roles([*there], names, rows[0].place)
    notes = []
    if candidate not in (None, "candidate") or record not in (None, "record"):
        notes.append(f"candidate {quote(str(candidate))}" + ("" if record is None else f", record {quote(record)}"))
    if left_out := [arm for arm in there if arm not in (record, candidate)]:
        notes.append(f"arms left out: {listed(left_out)}")
    roles = {"record": record, "candidate": candidate}
    return {role: there[arm] for role, arm in roles.items() if arm is not None}, notes


def _one_role(arms: Sequence[str], names: Names) -> tuple[None, str]:
    """For a comparison with a target, which has no record: None, and the name of the candidate in the file."""
    if names.record_arm is not None:
        raise LlmbenchError("--record-arm and a target cannot be combined; leave one of them out")
    if names.candidate_arm is None and len(arms) > 1:
        raise LlmbenchError(
            f"only one arm (version) can be compared with a target, and the file has {listed(arms)}; choose one, such "
            f"as --candidate-arm {arms[-1]}"
        )
    return None, names.candidate_arm or arms[0]


def _two_roles(arms: Sequence[str], names: Names, place: str) -> tuple[str | None, str | None]:
    """The names that record and candidate have in the file; None for one that the file does not have."""
    record, candidate = names.record_arm, names.candidate_arm
    if record is not None and record == candidate:
        raise LlmbenchError(f"--record-arm and --candidate-arm are both {quote(record)}; name two arms")
    if len(arms) == 1:
        if arms[0] not in ("record", "candidate"):
            raise LlmbenchError(
                f"{place}: {quote(arms[0])} is the only arm (version), so there is nothing to compare; add the runs "
                f"of a second arm, or give --target"
            )
        return ("record", None) if arms[0] == "record" else (None, "candidate")
    rest = [arm for arm in arms if arm not in (record, candidate)]
    if record is None and ("record" in rest or (candidate is not None and len(rest) == 1)):
        record = "record" if "record" in rest else rest[0]
        rest.remove(record)
    if candidate is None and record is not None and len(rest) == 1:
        candidate = rest[0]
    if record is None and len(arms) == 2:
        raise LlmbenchError(
            f"the arms are {listed(arms)}; say which one is the record, for example --record-arm {arms[0]}"
        )
    if record is None or candidate is None:
        own = record or arms[0]
        other = candidate or next(arm for arm in arms if arm != own)
        raise LlmbenchError(
            f"there are {len(arms)} arms, {listed(arms)}; choose two, for example --record-arm {own} "
            f"--candidate-arm {other}"
        )
    return record, candidate


def _repeated(rows: Sequence[Row]) -> list[str]:
    """A list with a note on the first seed that occurs twice in an arm; empty if no seed occurs twice."""
    first: dict[int, Row] = {}
    for row in rows:
        if row.seed is not None and row.seed in first:
            before = first[row.seed].place
            return [
                f"seed {row.seed} occurs twice in arm {quote(row.arm)}, in {before} and {row.place}; keep one of them"
            ]
        if row.seed is not None:
            first[row.seed] = row
    return []


def _pairing(arms: Mapping[str, Sequence[Row]], options: Mapping[str, Any], *, repeated: bool) -> tuple[bool, str]:
    """Whether equal seeds are paired, and a note that says why."""
    asked, looks = options.get("paired"), options.get("looks")
    seeds = {arm: {row.seed for row in rows} for arm, rows in arms.items()}
    common = seeds["record"] & seeds["candidate"]
    if asked is False:
        return False, "not paired, as you asked"
    if repeated:
        return bool(asked or looks), "not paired, because a seed is repeated"
    if not asked and not looks:
        if options.get("sigma") is not None:
            return False, "not paired, because the standard deviation of single values is given"
        if not common:
            return False, "not paired, because no seed is in both arms"
    for arm, other in (("record", "candidate"), ("candidate", "record")):
        if missing := sorted(seed for seed in seeds[other] - seeds[arm] if seed is not None):
            which = (
                f"seed {missing[0]} is"
                if len(missing) == 1
                else f"seeds {', '.join(map(str, missing[:MOST_NAMED]))} are"
            )
            more = f" (and {len(missing) - MOST_NAMED} more)" if len(missing) > MOST_NAMED else ""
            raise LlmbenchError(
                f"{which}{more} missing from arm {quote(arms[arm][0].arm)}, but a pair needs a run of each arm; add "
                f"what is missing, or use --unpaired"
            )
    return True, f"paired by seed: {len(common)} seed{'' if len(common) == 1 else 's'} in both arms"
