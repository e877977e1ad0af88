"""Radii, hard cases, label dropout and the loss against their definitions in section 4."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.model import seeding
from spherectl.model.geometry import spherify
from spherectl.model.objective import (
    LossWeights,
    TrainingNoise,
    class_cosine,
    objective,
    training_noise,
)

pytestmark = pytest.mark.fast

SIGMA = math.tan(math.radians(80))
HARD_RATIO = math.tan(math.radians(85)) / SIGMA


def step(first: int = 0, batch: int = 64, **changes: Any) -> TrainingNoise:
    settings = {"batch": batch, "latent_shape": (4, 3), "hard_ratio": HARD_RATIO, "num_classes": 10} | changes
    return training_noise(7, first, torch.arange(batch) % 10, **settings)


def test_radii_follow_section_11_image_by_image() -> None:
    step_noise = step(first=128, hard_probability=0.0)
    images = torch.arange(128, 192)

    def radii(stream: int, k: int) -> Tensor:
        u = 0.001 + 0.999 * seeding.uniform(7, stream, images, 1)[:62, 0]
        values = torch.cat(((torch.arange(62) + u) / 62, torch.tensor([1.0, 0.0], dtype=u.dtype)))
        return values[seeding.words(7, seeding.SHUFFLE, torch.tensor([128]), 64, k)[0].argsort(stable=True)]

    r = radii(seeding.RADII, 0)
    assert torch.equal(step_noise.large, r)
    assert torch.equal(step_noise.small, 0.5 * r * radii(seeding.ANCHOR, 1))
    assert torch.equal(step_noise.noise, seeding.normal(7, seeding.TRAINING, images, 12).float().reshape(64, 4, 3))


def test_hard_cases_in_full_reach_the_hard_angle() -> None:
    step_noise = [step(first=64 * n, hard_cases="full") for n in range(40)]
    large = torch.cat([d.large for d in step_noise])
    beyond = large[large > 1]
    n = len(large)
    assert abs(len(beyond) / n - 0.1) < 4 * math.sqrt(0.1 * 0.9 / n)
    assert float(beyond.max()) > 0.95 * HARD_RATIO
    assert float(beyond.max()) <= HARD_RATIO


def test_labels_drop_with_their_probability_and_apart_in_every_call() -> None:
    step_noise = [step(first=64 * n) for n in range(40)]
    labels = torch.arange(64) % 10
    masks = []
    for pick in ("labels_encode", "labels_again"):
        chosen = torch.stack([getattr(d, pick) for d in step_noise])
        assert bool(((chosen == 10) | (chosen == labels)).all())
        masks.append(chosen == 10)
    decode = torch.stack([d.labels_decode for d in step_noise if d.labels_decode is not None])
    masks += [decode[:, :64] == 10, decode[:, 64:] == 10]
    n = masks[0].numel()
    for i, mask in enumerate(masks):
        assert abs(float(mask.float().mean()) - 0.1) < 4 * math.sqrt(0.09 / n)
        for other in masks[:i]:
            both = float((mask & other).float().mean())
            assert abs(both - 0.01) < 4 * math.sqrt(0.01 * 0.99 / n)  # independent


def test_a_batch_under_three_is_an_error() -> None:
    with pytest.raises(UsageError, match="at least 3"):
        step(batch=2)


class Distance:
    """A stand-in perceptual distance that can be written down: mean absolute difference."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def features(self, images: Tensor) -> list[Tensor]:
        self.seen.append(images)
        return [images]

    def compare(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        assert not others[0].requires_grad
        return (features[0] - others[0]).abs().mean()


def test_every_part_of_the_loss_written_out() -> None:
    images = torch.linspace(0, 1, 4 * 3 * 2 * 2, dtype=torch.float64).reshape(4, 3, 2, 2)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def encode(x: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return x.flatten(2).mT * scale + 0.1  # (B, 4, 3)

    def decode(v: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return (v.mT.reshape(-1, 3, 2, 2) * scale).tanh()

    step_noise = training_noise(0, 0, None, batch=4, latent_shape=(4, 3), hard_ratio=HARD_RATIO)
    weights, distance = LossWeights(10, 1, 5, 0.5, 0.1, 0.3), Distance()
    losses = objective(encode, decode, images, step_noise, sigma_max=SIGMA, weights=weights, perceptual=distance)

    z = encode(images * 2 - 1, None)
    v, e = spherify(z), step_noise.noise.double()

    def rotated(r: Tensor) -> Tensor:
        out = spherify(v + (r * SIGMA)[:, None, None] * e)
        return torch.where((r == 0)[:, None, None], v, out)

    large, small = decode(rotated(step_noise.large), None) / 2 + 0.5, decode(rotated(step_noise.small), None) / 2 + 0.5
    z_large = encode(large * 2 - 1, None)
    cos = torch.nn.functional.cosine_similarity(z_large.flatten(1), z.flatten(1))
    for got, expected in (
        (losses.rec, 10 * ((small - images) ** 2).mean() / 2),
        (losses.rec_perceptual, (small - images).abs().mean()),
        (losses.con, 5 * ((large - small) ** 2).mean() / 2),
        (losses.con_perceptual, 0.5 * (large - small).abs().mean()),
        (losses.latent, 0.1 * (1 - cos).mean()),
        (losses.centre, 0.3 * class_cosine(z, None)),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    parts = losses.rec + losses.rec_perceptual + losses.con + losses.con_perceptual + losses.latent + losses.centre
    torch.testing.assert_close(losses.total, parts)
    assert len(distance.seen) == 3  # x, x_small and x_large once each
    assert not losses.z_clean.requires_grad


def test_the_cosine_within_classes_is_the_mean_over_pairs_of_one_class() -> None:
    z = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 0, 1, 2, 0])  # one pair of class 1, six of class 0, none of class 2
    flat = z.flatten(1)

    def of(pairs: list[tuple[int, int]]) -> float:
        return sum(float(torch.cosine_similarity(flat[i], flat[j], dim=0)) for i, j in pairs) / len(pairs)

    within = [(0, 2), (0, 3), (0, 6), (2, 3), (2, 6), (3, 6), (1, 4)]
    assert float(class_cosine(z, labels)) == pytest.approx(of(within), abs=1e-6)
    everyone = [(i, j) for i in range(7) for j in range(i)]
    assert float(class_cosine(z, None)) == pytest.approx(of(everyone), abs=1e-6)
    assert float(class_cosine(3 * z, labels)) == pytest.approx(of(within), abs=1e-6)  # lengths do not matter
    assert float(class_cosine(z, torch.arange(7))) == 0


def test_the_cosine_within_classes_has_gradients_at_the_start_where_latents_are_zeros() -> None:
    z = torch.zeros(4, 2, 3, requires_grad=True)
    class_cosine(spherify(z), None).backward()
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())
