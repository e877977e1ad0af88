"""Layers against their formulas, written out entry by entry."""

from __future__ import annotations

import math

import pytest
import torch

from spherectl.model.layers import (
    Mixer,
    MixerBlock,
    RMSNorm,
    SwiGLU,
    modulate,
    position_embedding,
    rotary_table,
    rotate,
)

pytestmark = pytest.mark.fast


def ramp(*shape: int) -> torch.Tensor:
    return torch.linspace(-1, 2, math.prod(shape), dtype=torch.float64).cos().reshape(shape)


def fill(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(ramp(*p.shape))


def test_rms_norm() -> None:
    norm = RMSNorm(6).double()
    fill(norm)
    x = ramp(2, 3, 6)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected, rtol=1e-13, atol=0)
    assert RMSNorm(6, scale=False).weight is None


def test_rms_norm_in_bfloat16_has_float32_statistics() -> None:
    x = (ramp(2, 3, 6) * 100).bfloat16()
    expected = RMSNorm(6)(x.float()).bfloat16()
    assert torch.equal(RMSNorm(6).bfloat16()(x), expected)


def test_swiglu_and_its_hidden_width() -> None:
    layer = SwiGLU(768)
    assert layer.w3.in_features == 2048  # floor(768 * 8 / 3)
    small = SwiGLU(4).double()
    fill(small)
    x = ramp(1, 2, 4)
    a, b = (x @ small.w12.weight.T + small.w12.bias).split(10, -1)
    expected = (a * torch.sigmoid(a) * b) @ small.w3.weight.T + small.w3.bias
    torch.testing.assert_close(small(x), expected, rtol=1e-12, atol=1e-13)


def test_modulate() -> None:
    x, shift, scale = ramp(2, 3, 4), ramp(2, 4), ramp(2, 4) + 1
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale[:, None]) + shift[:, None], rtol=1e-13, atol=0)


def test_rotary_turns_the_first_half_by_the_row_and_the_second_by_the_column() -> None:
    grid, head = 3, 8
    table = rotary_table(grid, head)
    assert table.dtype == torch.float32
    x = ramp(1, grid * grid + 2, 2, head)
    got = rotate(x, table.double())
    assert torch.equal(got[:, :2], x[:, :2])  # in-context tokens stay
    for token in range(grid * grid):
        for half, index in ((0, token // grid), (1, token % grid)):
            for i in range(head // 4):
                angle = index * 10000 ** (-2 * i / (head / 2))
                j = half * head // 2 + 2 * i
                x0, x1 = x[0, token + 2, :, j], x[0, token + 2, :, j + 1]
                c, s = math.cos(angle), math.sin(angle)
                torch.testing.assert_close(got[0, token + 2, :, j], x0 * c - x1 * s, rtol=0, atol=1e-6)
                torch.testing.assert_close(got[0, token + 2, :, j + 1], x1 * c + x0 * s, rtol=0, atol=1e-6)


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


def test_mixer_block_mixes_tokens_then_channels() -> None:
    block = MixerBlock(3, 2).double()
    fill(block)
    x = ramp(1, 3, 2)

    def two(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        first, _, second = layer.mix
        hidden = x @ first.weight.T + first.bias
        return (hidden * torch.sigmoid(hidden)) @ second.weight.T + second.bias

    tokens = x + block.alpha1 * two(block.tok_mixer, block.norm1(x).transpose(1, 2)).transpose(1, 2)
    expected = tokens + block.alpha2 * two(block.chn_mixer, block.norm2(tokens))
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-13)
