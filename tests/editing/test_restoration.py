"""Closed forms against dense least squares, and the rounds that use them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spherectl.api import Model
from spherectl.editing.measurements import Blurred, Decimated, Masked, Measurement, Pooled, gaussian_kernel
from spherectl.editing.restoration import restore
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast

SIZE, WEIGHT = 8, 0.37


def a_mask(share: float = 0.5) -> Tensor:
    return (torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(3)) < share).double()


MEASUREMENTS: dict[str, Callable[[], Measurement]] = {
    "inpaint": lambda: Masked(a_mask()),
    "denoise": lambda: Masked(torch.ones(SIZE, SIZE, dtype=torch.float64)),
    "pooled": lambda: Pooled(2),
    "decimated": lambda: Decimated(2),
    "blurred": lambda: Blurred(gaussian_kernel(0.8).double(), (SIZE, SIZE)),
    "blurred sideways": lambda: Blurred(torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64), (SIZE, SIZE)),
}


def dense(measurement: Measurement) -> Tensor:
    """A as a matrix on one channel: (m, H W)."""
    units = torch.eye(SIZE * SIZE, dtype=torch.float64).reshape(-1, 1, SIZE, SIZE).expand(-1, 3, -1, -1)
    return measurement.apply(units.contiguous())[:, 0].flatten(1).T


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_closed_form_is_the_least_squares_solution(name: str) -> None:
    measurement, generator = MEASUREMENTS[name](), torch.Generator().manual_seed(0)
    truth, prior = torch.rand(2, 1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    y = measurement.apply(truth) + 0.1 * torch.randn(measurement.apply(truth).shape, generator=generator).double()
    if isinstance(measurement, Masked):
        y = measurement.mask * y
    a = dense(measurement)
    stacked = torch.cat((a, WEIGHT**0.5 * torch.eye(SIZE * SIZE, dtype=torch.float64)))
    found = measurement.nearest(y, prior, WEIGHT)
    for channel in range(3):
        target = torch.cat((y[0, channel].flatten(), WEIGHT**0.5 * prior[0, channel].flatten()))
        expected = torch.linalg.lstsq(stacked, target[:, None]).solution.reshape(SIZE, SIZE)
        assert (found[0, channel] - expected).abs().max() < 1e-10


def test_a_blur_spreads_a_point_by_its_kernel_and_wraps_round() -> None:
    kernel = torch.arange(1.0, 10).reshape(3, 3) / 45
    point = torch.zeros(1, 3, SIZE, SIZE)
    point[..., 0, 0] = 1
    seen = Blurred(kernel, (SIZE, SIZE)).apply(point)[0, 0]
    assert torch.allclose(seen.roll((1, 1), (0, 1))[:3, :3], kernel, atol=1e-6)
    assert seen.sum().item() == pytest.approx(1)


def test_holes_are_filled_from_their_edges() -> None:
    mask, y = torch.zeros(SIZE, SIZE), torch.full((1, 3, SIZE, SIZE), 0.9)
    mask[0, :2] = 1
    y[0, :, 0, 0], y[0, :, 0, 1] = 0.2, 0.6
    start = Masked(mask).start(y)
    assert torch.equal(start[0, :, 0, :2], y[0, :, 0, :2])
    assert torch.allclose(start[0, :, 1, :2], torch.tensor(0.4))  # both known ones are neighbours
    assert torch.allclose(start[0, :, :2, 2], torch.tensor(0.6))  # one is
    assert float(start.min()) > 0.199
    assert float(start.max()) < 0.601  # what stood in the holes plays no part
    assert not Masked(torch.zeros(SIZE, SIZE)).start(y).any()


@pytest.mark.parametrize("name", ["inpaint", "denoise"])
def test_a_tiny_weight_keeps_what_was_measured(name: str, garments: Model, originals: Tensor) -> None:
    side = originals.shape[-1]
    mask = torch.ones(side, side) if name == "denoise" else (torch.arange(side) % 2).float().expand(side, side)
    y = mask * originals
    *_, last = restore(garments, y, Masked(mask), count=2, noise_deg=30, weight=1e-6)
    assert torch.allclose(mask * last, y, atol=1e-4)


def test_mistakes_are_told(garments: Model, originals: Tensor) -> None:
    with pytest.raises(UsageError, match="weight: expected a finite number above 0"):
        next(restore(garments, originals, Masked(torch.ones(32, 32)), count=1, noise_deg=0, weight=0))
    with pytest.raises(UsageError, match="A kernel of 9 x 9 does not fit"):
        Blurred(torch.ones(9, 9), (8, 8))
