"""The table [sample]: how a model likes to be sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from spherectl.checks import MAX_GUIDANCE, MAX_STEPS
from spherectl.tables import Spec


class SampleSpec(Spec):
    """How the model likes to be sampled: the defaults of `spherectl sample`."""

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 4
    guidance: Annotated[float, Field(ge=1, le=MAX_GUIDANCE)] = 1.0
    guide: Literal["both", "encoder", "decoder"] = "both"
    noise: Literal["shared", "fresh"] = "shared"
    strength: Literal["constant", "decaying"] = "constant"
    noise_deg: Annotated[float, Field(ge=0, lt=90)] | Literal["training"] = "training"  # of a round, at most
