"""Training of feature networks: shifts, exact repetition, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spherectl.data.datasets import MemoryImages
from spherectl.errors import UsageError
from spherectl.features import fit
from spherectl.features.records import FitPlan
from spherectl.features.store import fingerprint

pytestmark = pytest.mark.fast

PLAN = FitPlan(
    kind="plain", arguments={"widths": [8, 16], "convolutions": [1, 1]}, seed=5, epochs=12, use="loss", batch_size=16
)


def bright_halves(count: int) -> MemoryImages:
    """Class 0 has a bright upper half, class 1 stripes in its lower half, both under noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 60, (count, 16, 16), generator=generator)
    labels = torch.arange(count) % 2
    pixels[labels == 0, :8] += 150
    pixels[labels == 1, 8:, ::3] += 150
    return MemoryImages(
        name="halves",
        root=Path(),
        class_names=("upper", "lower"),
        labels=labels,
        licence="none",
        image_size=16,
        pixels=pixels.to(torch.uint8),
    )


def moved(image: Tensor, rows: int, columns: int) -> Tensor:
    """`image` (C, H, W) moved by a loop over pixels, the plainest way."""
    out = torch.empty_like(image)
    _, height, width = image.shape
    for i in range(height):
        for j in range(width):
            out[:, i, j] = image[:, min(max(i - rows, 0), height - 1), min(max(j - columns, 0), width - 1)]
    return out


def test_shift_moves_each_image_by_its_own_offset_and_repeats_its_edge() -> None:
    dataset = torch.arange(1, 1 + 4 * 2 * 5 * 6, dtype=torch.uint8).reshape(4, 2, 5, 6)
    offsets = torch.tensor([[0, 0], [2, -1], [-2, 2], [1, 0]])
    expected = torch.stack([moved(p, int(r), int(c)) for p, (r, c) in zip(dataset, offsets, strict=True)])
    assert torch.equal(fit.shift(dataset, offsets), expected)
    counts = (fit.offsets(seed=1, images=torch.arange(2000), limit_px=2) + 2).flatten().bincount()
    assert len(counts) == 5, "from -2 to 2 pixels and none beyond"
    assert (counts - 800).abs().max() < 120  # a fair draw of 4000 from 5: standard deviation 25


def test_fit_learns_a_plain_task_and_leaves_a_frozen_network_without_batch_normalisation() -> None:
    fitted = fit.fit(PLAN, bright_halves(96))
    assert fit.measure_accuracy(fitted.network, bright_halves(96), batch_size=40) > 0.95
    assert fitted.images_seen == 12 * 96
    assert not any(p.requires_grad for p in fitted.network.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fitted.network.modules())
    for parameter in fitted.network.parameters():
        parameter.data.zero_()  # all logits are equal: class 0 for every image
    assert fit.measure_accuracy(fitted.network, bright_halves(9), batch_size=4) == 5 / 9


def test_the_same_plan_gives_the_same_network_whatever_torchs_generator_was_at() -> None:
    dataset, plan, seen = bright_halves(50), dataclasses.replace(PLAN, epochs=1), list[tuple[int, int]]()
    torch.manual_seed(1)
    first = fit.fit(plan, dataset, lambda done, total, _: seen.append((done, total)))
    assert seen == [(16, 48), (32, 48), (48, 48)]
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = fit.fit(plan, dataset)
    assert fingerprint(first.network) == fingerprint(again.network)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = fit.fit(dataclasses.replace(plan, seed=6), dataset)
    assert fingerprint(first.network) != fingerprint(other.network)
    with pytest.raises(UsageError, match="at least 16 images, one step; halves has 15"):
        fit.fit(PLAN, bright_halves(15))
