"""Paths between latents and between classes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from spherectl.api import Model
from spherectl.editing.interpolation import class_weights, line_shares, path, square, square_shares

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("spherical", [True, False])
def test_a_path_keeps_to_the_sphere_and_its_ends_are_the_latents(
    spherical: bool, garments: Model, originals: Tensor
) -> None:
    a, b = garments.encode(originals[:2])
    frames = path(a, b, 9, spherical=spherical)
    assert torch.equal(frames[0], a)
    assert torch.equal(frames[-1], b)
    assert torch.allclose(frames.square().mean((1, 2)).sqrt(), torch.ones(9), atol=1e-5)
    steps = [
        float(torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0))
        for x, y in itertools.pairwise(frames)
    ]
    if spherical:
        assert max(steps) - min(steps) < 1e-4  # every step rotates by the same angle


def test_ends_decode_to_the_reconstructions(garments: Model, originals: Tensor) -> None:
    a, b = garments.encode(originals[:2])
    decoded = garments.decode(path(a, b, 4))
    reconstructed = garments.reconstruct(originals[:2])
    assert torch.equal(decoded[0], reconstructed[0])
    assert torch.equal(decoded[-1], reconstructed[1])


def test_a_squares_corners_and_sides(garments: Model, originals: Tensor) -> None:
    corners = garments.encode(originals)
    found = square(corners, 3, 5)
    assert found.shape == (3, 5, 64, 8)
    assert torch.equal(torch.stack((found[0, 0], found[0, -1], found[-1, 0], found[-1, -1])), corners)
    assert torch.equal(found[0], path(corners[0], corners[1], 5))
    assert torch.equal(found[:, 0], path(corners[0], corners[2], 3))


def test_mixed_classes_are_mixed_embeddings_and_a_whole_class_is_its_label(garments: Model, originals: Tensor) -> None:
    weights = class_weights([3, 8], line_shares(3), garments.num_classes)
    assert weights.tolist()[1][3] == weights.tolist()[1][8] == 0.5
    latents = garments.encode(originals[:1]).expand(3, -1, -1)
    decoded = garments.decode(latents, weights)
    assert torch.allclose(decoded[::2], garments.decode(latents[:2], [3, 8]), atol=1e-5)
    table = garments.network.decoder.y_embedder.embedding_table.weight
    with torch.no_grad():
        kept = table[3].clone()
        table[3] = (table[3] + table[8]) / 2
        middle = garments.decode(latents[:1], [3])
        table[3] = kept
    assert torch.allclose(decoded[1:2], middle, atol=1e-5)
    assert not torch.allclose(decoded[1:2], decoded[:1], atol=1e-2)


def test_shares_of_a_square_are_bilinear() -> None:
    shares = square_shares(3, 3)
    assert torch.allclose(shares.sum(1), torch.ones(9))
    assert shares[4].tolist() == [0.25] * 4
    assert shares[1].tolist() == [0.5, 0.5, 0, 0]
    assert shares[[0, 2, 6, 8]].tolist() == torch.eye(4).tolist()
