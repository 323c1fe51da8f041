"""Durations as people write them: `90m`, `2h`, `1h30m`, `45s`."""

from __future__ import annotations

import re

from harness.core.errors import LlmbenchError

UNITS = {"h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds of `90m`, `2h`, `1h30m`, `45s`. Raises LlmbenchError for anything else, and for no time at all."""
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    found = () if parts is None else parts.groups(default="0")
    seconds = sum(float(count) * unit for count, unit in zip(found, UNITS.values(), strict=bool(found)))
    if seconds == 0:
        raise LlmbenchError(f"'{text}' is no time; write it as 90m, 2h, 1h30m or 45s")
    return seconds
