"""Samples, a row for each number of steps: the same noise above and below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spherectl import api
from spherectl.images import grid


def sample_rows(
    model: api.Model, steps: Sequence[int], count: int, *, seed: int = 0, guidance: float | None = None
) -> Tensor:
    """A grid of samples, classes in turn.

    Args:
        model: to sample from.
        steps: a row each.
        count: samples in a row.
        seed: of all rows.
        guidance: the guidance scale; None: the model's own.

    Returns:
        uint8 (3, H, W).

    Raises:
        UsageError: a number of steps out of range.
    """
    rows = [api.generate(model, count, steps=one, seed=seed, guidance=guidance) for one in steps]
    return grid(torch.cat([part.images for parts in rows for part in parts]), columns=count)
