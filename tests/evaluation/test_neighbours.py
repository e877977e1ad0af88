"""Nearest training images against closed forms, plain loops and brute force."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spherectl.data.datasets import ImageSet, MemoryImages
from spherectl.errors import UsageError
from spherectl.evaluation import neighbours
from spherectl.evaluation.neighbours import (
    BY_FEATURES,
    BY_PIXELS,
    CROWD,
    SHIFT,
    SHIFTS,
    Neighbours,
    aligned_distances,
    find_neighbours,
    shrink,
    survey,
)

pytestmark = pytest.mark.fast


def blobs(count: int, size: int, seed: int) -> Tensor:
    """Smooth coloured images, uint8 (count, 3, size, size)."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def as_set(pixels: Tensor) -> ImageSet:
    return MemoryImages(
        name="made",
        root=Path(),
        class_names=(),
        labels=torch.zeros(len(pixels), dtype=torch.int64),
        licence="none",
        image_size=pixels.shape[-1],
        pixels=pixels,
    )


def corners(images: Tensor) -> Tensor:
    """Features whose sums are exact in float32 whatever the batch: means of 16 parts, (B, 48)."""
    return F.adaptive_avg_pool2d(images.float(), 4).flatten(1)


def find(
    images: Tensor,
    train: Tensor,
    embed: Callable[[Tensor], Tensor] = corners,
    *,
    features: Tensor | None = None,
    mirrored: bool = False,
) -> Neighbours:
    training = survey(as_set(train), embed, features, lambda _: None)
    gather = images.__getitem__
    return find_neighbours(training, len(images), gather, embed, mirrored=mirrored, tell=lambda _: None)


@pytest.mark.parametrize("levels", [0, 1, 40])
def test_distance_of_a_brighter_image_is_the_difference(levels: int) -> None:
    image = noise((3, 12, 12), 0) // 2
    distances, placements = aligned_distances(image + levels, image[None])
    assert distances.tolist() == [levels]
    assert levels > 0 or SHIFTS[placements[0]] == (0, 0)


@pytest.mark.parametrize("shift", [SHIFTS[0], (0, 0), SHIFTS[-1]])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_moved_image_is_at_zero_whatever_came_in_at_its_edges(shift: tuple[int, int], mirrored: bool) -> None:
    scene = noise((3, 24, 24), 1)
    other = noise((3, 20, 20), 2)
    other[:, SHIFT:-SHIFT, SHIFT:-SHIFT] = scene[:, 4:20, 4:20]  # its own edges are not compared
    top, left = (SHIFT - by for by in shift)
    image = scene[:, top : top + 20, left : left + 20]
    image = image.flip(-1) if mirrored else image
    distances, placements = aligned_distances(image, torch.stack([other, noise((3, 20, 20), 3)]), mirrored)
    assert distances[0] == 0
    assert placements[0] == SHIFTS.index(shift) + mirrored * len(SHIFTS)
    assert distances[1] > 20
    assert not mirrored or aligned_distances(image, other[None])[0] > 20


def test_distances_are_those_of_plain_loops() -> None:
    image, others = blobs(1, 14, 0)[0], blobs(3, 14, 1)
    others[1] = (others[1].int() + noise((3, 14, 14), 4).int() // 8).clamp(max=255).to(torch.uint8)
    a, inner = image.double().numpy(), 14 - 2 * SHIFT
    expected = []
    for other in others.double().numpy():
        core = other[:, SHIFT : SHIFT + inner, SHIFT : SHIFT + inner]
        found = []
        for down, right in SHIFTS:
            top, left = SHIFT + down, SHIFT + right
            rest = a[:, top : top + inner, left : left + inner] - core
            squares = np.array(
                [
                    [
                        rest[:, y : y + 2, x : x + 2].mean((1, 2)),
                        (rest[:, y, x] - rest[:, y, x + 1] - rest[:, y + 1, x] + rest[:, y + 1, x + 1]) / 4,
                    ]
                    for y in range(inner - 1)
                    for x in range(inner - 1)
                ]
            )  # (81, 2, 3)
            found.append((squares**2).mean((0, 2)))
        means, details = min(found, key=lambda pair: pair[0])
        expected.append(math.sqrt(max(means - details, means / 2)))
    assert aligned_distances(image, others)[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_independent_noise_counts_little() -> None:
    """Its means over 4 pixels have a quarter of its variance, the half of which is taken off: sigma / sqrt 8."""
    generator = torch.Generator().manual_seed(0)
    image = blobs(1, 32, 5)[0] // 2 + 64
    noisy = (image + 12 * torch.randn(image.shape, generator=generator)).round().clamp(0, 255).to(torch.uint8)
    distance = aligned_distances(noisy, image[None])[0].item()
    assert distance == pytest.approx(12 / math.sqrt(8), rel=0.1)
    # Structure of the same root mean square is not taken for noise: 17 levels in half of the image.
    step = torch.zeros_like(image)
    step[:, 16:] = 17
    assert aligned_distances(image + step, image[None])[0].item() > 10


def test_of_few_training_images_the_nearest_are_those_of_brute_force() -> None:
    train, images = blobs(40, 20, 0), blobs(9, 20, 1)
    found = find(images, train)
    for row, image in enumerate(images):
        distances, placements = aligned_distances(image, train)
        nearest = int(distances.argmin())
        assert found.pixel_index[row] == nearest
        assert found.pixel_distance[row] == distances[nearest]
        assert tuple(found.shift[row].tolist()) == SHIFTS[placements[nearest]]
        assert found.crowd_distance[row] == pytest.approx(float(distances.sort().values[1 : 1 + CROWD].mean()))
    apart = torch.cdist(corners(images).double(), corners(train).double())
    assert torch.equal(found.feature_index, apart.argmin(1))
    torch.testing.assert_close(found.feature_distance, apart.amin(1), rtol=1e-5, atol=0)


def test_both_searches_find_what_brute_force_finds_among_many(excerpt: tuple[ImageSet, ImageSet]) -> None:
    train, test = excerpt[0].gather(torch.arange(300)), excerpt[1].gather(torch.arange(0, 100, 2))
    assert len(train) > 3 * (BY_PIXELS + BY_FEATURES)
    found = find(test, train)
    least = torch.stack([aligned_distances(image, train)[0].amin() for image in test])
    assert (found.pixel_distance >= least).all()
    assert (found.pixel_distance == least).double().mean() >= 0.98
    apart = torch.cdist(corners(test).double(), corners(train).double())
    torch.testing.assert_close(found.feature_distance, apart.amin(1), rtol=1e-5, atol=0)


def test_each_search_finds_copies_without_the_other(excerpt: tuple[ImageSet, ImageSet]) -> None:
    train = excerpt[0].gather(torch.arange(300))
    copies = torch.arange(0, 300, 7)
    moved = train[copies].roll((2, -1), (2, 3))  # the border of 2 is black, so nothing is lost
    blind = find(moved, train, lambda images: torch.zeros(len(images), 2))
    assert torch.equal(blind.pixel_index, copies)
    assert not blind.pixel_distance.any()
    assert (blind.shift == torch.tensor([2, -1])).all()
    own = find(train[copies], train)
    assert torch.equal(own.feature_index, copies)
    assert not own.feature_distance.any()


def test_numbers_do_not_depend_on_what_else_is_looked_at_nor_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_COLUMNS", 256)
    train, images = blobs(600, 16, 0), blobs(140, 16, 1)  # several batches, several blocks
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = find(images, train)
        torch.set_num_threads(2)
        more = find(images, train)
    finally:
        torch.set_num_threads(threads)
    order = torch.tensor([139, 5, 77])
    few = find(images[order], train)
    for name in vars(whole):
        assert torch.equal(getattr(more, name), getattr(whole, name)), name
        assert torch.equal(getattr(few, name), getattr(whole, name)[order]), name


def test_large_images_are_compared_as_small_copies() -> None:
    size, scale = 64, 2
    train = noise((30, 3, size, size), 0)
    moved = train[7].roll((2 * scale, -scale), (1, 2))
    found = find(moved[None], train)
    assert found.pixel_index.tolist() == [7]
    assert found.pixel_distance.tolist() == [0]  # whole pixels of the copy, and the wrapped edge is not compared
    assert found.shift.tolist() == [[2, -1]]
    means = train[:2].float().unfold(2, scale, scale).unfold(3, scale, scale).mean((-2, -1))
    assert torch.equal(shrink(train[:2]), means.round().to(torch.uint8))


def test_features_at_hand_are_taken_as_they_are() -> None:
    train, images = blobs(30, 16, 0), blobs(4, 16, 1)
    calls = []

    def embed(some: Tensor) -> Tensor:
        calls.append(len(some))
        return corners(some)

    found, expected = find(images, train, embed, features=corners(train)), find(images, train)
    assert calls == [4]
    for name in vars(expected):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_features_that_do_not_fit_are_refused() -> None:
    train, images = blobs(30, 16, 0), blobs(4, 16, 1)
    with pytest.raises(UsageError, match=r"Expected finite features \(30, D\), one row an image, got \(29, 48\)"):
        find(images, train, features=corners(train)[1:])
    with pytest.raises(UsageError, match="training images' width, 47, got 48"):
        find(images, train, features=corners(train)[:, 1:])
