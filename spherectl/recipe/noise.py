"""The table [noise]: strengths of training's noise, as angles."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from spherectl.recipe.limits import Probability
from spherectl.tables import Spec

RADIANS_PER_DEGREE = math.pi / 180


class NoiseSpec(Spec):
    """The noise of training, as angles (section 2 and 4 of the description)."""

    angle_deg: Annotated[float, Field(gt=0, lt=90)] = 80.0
    hard_case_probability: Probability = 0.1
    hard_cases: Literal["reference", "full"] = "reference"  # one draw decides and places, or two

    @property
    def sigma_max(self) -> float:
        """Largest usual strength, tan(angle_max)."""
        return math.tan(self.angle_deg * RADIANS_PER_DEGREE)

    @property
    def hard_ratio(self) -> float:
        """Strength at angle_hard = min(angle_max + 5, 89) degrees, in units of sigma_max; at least 1."""
        hard_deg = max(min(self.angle_deg + 5.0, 89.0), self.angle_deg)
        return math.tan(hard_deg * RADIANS_PER_DEGREE) / self.sigma_max
