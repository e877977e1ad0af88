"""Rounds against the model's own calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spherectl.api import Model
from spherectl.editing.rounds import harmonise, rounds, through_noise
from spherectl.editing.stitching import LAYOUTS, layout_mask, stitch
from spherectl.errors import UsageError
from spherectl.model import seeding
from spherectl.model.geometry import spherify, strength

pytestmark = pytest.mark.fast


def test_the_first_round_without_noise_is_the_reconstruction(garments: Model, originals: Tensor) -> None:
    (once,) = rounds(garments, originals, count=1)
    assert torch.equal(once, garments.reconstruct(originals))
    (of_class,) = rounds(garments, originals, ["bag"] * 4, count=1)
    assert torch.equal(of_class, garments.reconstruct(originals, ["bag"] * 4))


def test_rounds_go_on_from_the_last_image(garments: Model, originals: Tensor) -> None:
    first, second, third = rounds(garments, originals, count=3)
    assert torch.allclose(second, garments.reconstruct(first), atol=1e-5)  # but for the clamp and the way to [0, 1]
    assert torch.allclose(third, garments.reconstruct(second), atol=1e-5)


@torch.no_grad()
def test_noise_turns_by_the_asked_angle_and_guidance_is_as_the_method_says(garments: Model, originals: Tensor) -> None:
    model, y, null = garments.network, torch.full((4,), 7), torch.full((4,), 10)
    (found,) = rounds(garments, originals, y, count=1, noise_deg=60, guidance=2.0, guide="both", seed=5)
    w, x = 2.0**0.5, originals * 2 - 1
    z = model.encoder(x, null)
    z = z + w * (model.encoder(x, y) - z)
    e = seeding.noise(5, seeding.ROUND, torch.arange(4), (64, 8), 1)
    v = spherify(spherify(z) + strength(60) * e)
    free = model.decoder(v, null)
    expected = (free + w * (model.decoder(v, y) - free)).clamp(-1, 1) / 2 + 0.5
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-5)


def test_a_images_noise_is_its_own_and_shared_or_fresh(garments: Model, originals: Tensor) -> None:
    together = list(rounds(garments, originals, count=2, noise_deg=50, noise="fresh", seed=1))
    alone = list(rounds(garments, originals[2:3], count=2, noise_deg=50, noise="fresh", seed=1, first_index=2))
    assert all(torch.equal(a[2:3], b) for a, b in zip(together, alone, strict=True))
    shared = list(rounds(garments, originals, count=2, noise_deg=50, seed=1))
    assert torch.equal(shared[0], together[0])
    assert not torch.equal(shared[1], together[1])


def test_an_angle_of_nothing_is_the_reconstruction_and_more_noise_changes_more(
    garments: Model, originals: Tensor
) -> None:
    found = through_noise(garments, originals, (0, 30, 60, 80))
    assert torch.equal(found[0], garments.reconstruct(originals))
    errors = [float((one - found[0]).square().mean()) for one in found]
    assert errors == sorted(errors)
    assert errors[1] > 0


def test_mistakes_are_told_before_anything_is_computed(garments: Model, originals: Tensor) -> None:
    with pytest.raises(UsageError, match="count: expected a whole number from 1"):
        rounds(garments, originals, count=0)
    with pytest.raises(UsageError, match="noise_deg: expected a finite number from 0 below 90, got 90"):
        rounds(garments, originals, count=1, noise_deg=90)
    wrong_ones = {"guidance": float("nan"), "noise": "loud", "guide": "dog", "seed": -1, "first_index": 2**32}
    for name, wrong in wrong_ones.items():
        with pytest.raises(UsageError, match=f"{name}: expected"):
            rounds(garments, originals, count=1, **{name: wrong})
    with pytest.raises(UsageError, match="shoes"):
        rounds(garments, originals, ["shoes"] * 4, count=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [6, 7])
def test_layouts_split_a_square_in_halves(layout: str, size: int) -> None:
    mask = layout_mask(layout, size)  # type: ignore[arg-type]
    assert set(mask.unique().tolist()) == {0, 1}
    assert abs(float(mask.mean()) - 0.5) <= 1 / size
    first = {"left-right": (3, 0), "top-bottom": (0, 3), "diagonal": (5, 0), "anti-diagonal": (0, 0)}[layout]
    second = {"left-right": (3, 5), "top-bottom": (5, 3), "diagonal": (0, 5), "anti-diagonal": (5, 5)}[layout]
    assert (mask[first], mask[second]) == (1, 0)


def test_harmonising_begins_with_the_stitched_images_and_knows_no_class(garments: Model, originals: Tensor) -> None:
    a, b, mask = originals[:2], originals[2:], layout_mask("left-right", 32)
    stitched, *after = harmonise(garments, a, b, mask, count=2)
    assert torch.equal(stitched, stitch(a, b, mask))
    assert torch.equal(stitched[..., :16], a[..., :16])
    assert torch.equal(stitched[..., 16:], b[..., 16:])
    assert torch.equal(after[0], garments.reconstruct(stitched))
    assert len(after) == 2
