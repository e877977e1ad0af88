"""Layers against their formulas, written out entry by entry."""

from __future__ import annotations

import math

import pytest
import torch

from spherectl.model.layers import (
    Mixer,
    RMSNorm,
    position_embedding,
)

pytestmark = pytest.mark.fast


def ramp(*shape: int) -> torch.Tensor:
    return torch.linspace(-1, 2, math.prod(shape), dtype=torch.float64).cos().reshape(shape)


def test_rms_norm_in_bfloat16_has_float32_statistics() -> None:
    x = (ramp(2, 3, 6) * 100).bfloat16()
    expected = RMSNorm(6)(x.float()).bfloat16()
    assert torch.equal(RMSNorm(6).bfloat16()(x), expected)


def test_position_embedding_has_columns_first_then_rows() -> None:
    grid, width = 3, 8
    got = position_embedding(grid, width)[0]
    for token in range(grid * grid):
        for half, index in ((0, token % grid), (1, token // grid)):
            for i in range(width // 4):
                angle = index * 10000 ** (-2 * i / (width / 2))
                assert float(got[token, half * 4 + i]) == pytest.approx(math.sin(angle), abs=1e-6)
                assert float(got[token, half * 4 + 2 + i]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_fresh_mixer_is_its_norm_alone() -> None:
    mixer = Mixer(5, 4, 2, norm_scale=False).double()
    x = ramp(2, 5, 4)
    torch.testing.assert_close(mixer(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(), rtol=1e-13, atol=0)
