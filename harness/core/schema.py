"""The base class of every schema, and the types that many fields share."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness.core.errors import LlmbenchError, one_line

LONGEST_LINE = 1000  # characters

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, AfterValidator(lambda text: one_line(text, LONGEST_LINE))]
"""Text that may come from others: unprintable characters are escaped, and it is cut to LONGEST_LINE characters."""
Recipe = Annotated[str, Field(pattern=r"^base(\+[a-z][a-z0-9_]*)*$", max_length=1000)]
"""Name of a recipe, such as `base`, or `base+first+second` with two variants."""
VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
TrackName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Base class of all schemas. Its objects are immutable. Unknown keys, values of a wrong type and NaN are errors."""

    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, extra="forbid", strict=True, allow_inf_nan=False
    )


UNITS = {"h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds in a text such as `90m`, `2h`, `1h30m` or `45s`. Raises LlmbenchError for other forms and for zero."""
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    found = () if parts is None else parts.groups(default="0")
    seconds = sum(float(count) * unit for count, unit in zip(found, UNITS.values(), strict=bool(found)))
    if seconds == 0:
        raise LlmbenchError(f"'{text}' is not a duration above zero; write it as 90m, 2h, 1h30m or 45s")
    return seconds
