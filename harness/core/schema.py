"""The base class of every schema, and the types that many fields share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Base of every schema: frozen, no unknown keys, no coercion, no NaN and no infinity."""

    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, extra="forbid", strict=True, allow_inf_nan=False
    )
