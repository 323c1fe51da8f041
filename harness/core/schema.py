"""The base class of every schema, and the types that many fields share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness.core.errors import one_line

LONGEST_LINE = 1000  # characters

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, AfterValidator(lambda text: one_line(text, LONGEST_LINE))]
"""Text from elsewhere, for people: its unprintable characters are escaped, what is beyond LONGEST_LINE is cut off."""
Recipe = Annotated[str, Field(pattern=r"^base(\+[a-z][a-z0-9_]*)*$", max_length=1000)]
"""`base`, or `base+first+second`."""
VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
TrackName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Base of every schema: frozen, no unknown keys, no coercion, no NaN and no infinity."""

    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, extra="forbid", strict=True, allow_inf_nan=False
    )
