"""Patches in the spectrum: patterns of their period show, softness and patterns of other periods do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spherectl.data.datasets import ImageSet
from spherectl.evaluation.spectrum import line_powers, patch_lines

pytestmark = pytest.mark.fast


@pytest.fixture
def real(excerpt: tuple[ImageSet, ImageSet]) -> Tensor:
    return excerpt[1].gather(torch.arange(100))


def tiles(period: int, side: int = 32) -> Tensor:
    """A checkerboard-like pattern (side, side) that repeats every `period` pixels, about 0."""
    one = torch.randn(period, period, generator=torch.Generator().manual_seed(period))
    return (one - one.mean()).tile(side // period, side // period)


def with_pattern(images: Tensor, period: int, levels: float) -> Tensor:
    return (images.float() + levels * tiles(period)).round().clamp(0, 255).to(torch.uint8)


def test_a_pattern_has_all_its_power_on_the_lines_of_its_period() -> None:
    pattern = (128 + 20 * tiles(4)).round().clamp(0, 255).to(torch.uint8).expand(1, 3, 32, 32)
    on, beside = line_powers(pattern, 4)[0].tolist()
    assert on > 1
    assert beside < 1e-18 * on


def test_power_is_that_of_a_discrete_fourier_transform() -> None:
    """One wave of 8 cycles in 32 pixels: N^2 A^2 / 4 on each of its two lines' points, by Parseval."""
    wave = 100 + 50 * torch.cos(2 * torch.pi * 8 * torch.arange(32) / 32)  # its values are 150, 100, 50, 100
    pixels = wave.round().to(torch.uint8).expand(1, 3, 32, 32)
    points = 32 * 32 - 29 * 29  # of which either part is 8, 16 or 24
    assert line_powers(pixels, 4)[0, 0].item() == pytest.approx(2 * 32**2 * 50**2 / 4 / points)


@pytest.mark.parametrize(("levels", "least"), [(4, 1.03), (12, 1.2)])
def test_a_checkerboard_over_real_images_shows(real: Tensor, levels: float, least: float) -> None:
    found = patch_lines(line_powers(with_pattern(real, 4, levels), 4), line_powers(real, 4))
    assert found.power > least
    assert found.peak is not None
    assert found.peak > least


def test_a_pattern_of_another_period_is_no_patch(real: Tensor) -> None:
    """Period 32 / 3 has none of the lines 8, 16, 24."""
    wave = 10 * torch.cos(2 * torch.pi * 3 * torch.arange(32) / 32)
    striped = (real.float() * 0.8 + 25 + wave).round().clamp(0, 255).to(torch.uint8)
    plain = (real.float() * 0.8 + 25).round().clamp(0, 255).to(torch.uint8)
    found = patch_lines(line_powers(striped, 4), line_powers(plain, 4))
    assert found.power == pytest.approx(1, abs=0.05)


def test_softness_lowers_the_power_and_hides_no_pattern(real: Tensor) -> None:
    soft = torch.nn.functional.avg_pool2d(real.float(), 3, 1, 1)
    patterned = (soft + 12 * tiles(4)).round().clamp(0, 255).to(torch.uint8)
    powers = line_powers(real, 4)
    smooth, shown = (patch_lines(line_powers(each.to(torch.uint8), 4), powers) for each in (soft, patterned))
    assert smooth.power < 0.7
    assert smooth.peak is not None
    assert shown.peak is not None
    assert shown.peak > 1.5 * smooth.peak
