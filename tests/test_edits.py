"""The editing functions of the top level against the steps they are made of; the commands' tests compare with these."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import spherectl
from spherectl import api
from spherectl.editing import interpolation, measurements, restoration, rounds, stitching
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def model(tiny_run) -> api.Model:
    return spherectl.load(tiny_run, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_encode_is_the_models_in_batches(model, images):
    together = model.encode(images, [1, 2, 3, 4])
    assert torch.equal(spherectl.encode(model, images, [1, 2, 3, 4], batch=3), together)


def test_edit_is_rounds_under_another_class(model, images):
    *_, expected = rounds.rounds(model, images, [7, 8, 7, 8], count=2, noise_deg=50.0, guidance=2.0, seed=3)
    found = spherectl.edit(model, images, ["sneaker", "bag", 7, 8], steps=2, noise_deg=50.0, guidance=2.0, seed=3)
    assert torch.equal(found, expected)
    own = rounds.class_change(model)
    *_, expected = rounds.rounds(model, images, [7] * 4, count=own.pop("steps"), **own)
    assert torch.equal(spherectl.edit(model, images, "sneaker"), expected)


def test_harmonize_is_rounds_from_two_halves(model, images):
    a, b = images.chunk(2)
    mask = stitching.layout_mask("diagonal", 32)
    expected = rounds.harmonise(model, a, b, mask, count=2)[-1]
    assert torch.equal(spherectl.harmonize(model, a, b, layout="diagonal", steps=2), expected)
    assert torch.equal(spherectl.harmonize(model, a, b, mask=mask, steps=2), expected)


@pytest.mark.parametrize(("ends", "frames"), [(2, 5), (4, 3)])
def test_interpolate_decodes_the_points_between(model, images, ends, frames):
    latents, labels = model.encode(images[:ends], [1, 2, 3, 4][:ends]), [1, 2, 3, 4][:ends]
    points, mixed = interpolation.between(latents, labels, frames, 10)
    found = spherectl.interpolate(model, images[:ends], labels, frames=frames, batch=2)
    assert len(found) == frames ** (ends // 2)
    assert torch.allclose(found, model.decode(points, mixed), atol=1e-6)
    corners = found[[0, frames - 1, -frames, -1]] if ends == 4 else found[[0, -1]]
    assert torch.allclose(corners, model.reconstruct(images[:ends], labels), atol=1e-5)


def test_restore_measures_as_the_task_says(model, images):
    kernel = measurements.gaussian_kernel(1.0)
    holes = torch.zeros(32, 32)
    holes[4:9, 4:9] = 1
    for task, given, how, y in (
        ("inpaint", {"missing": holes}, measurements.Masked(1 - holes), images * (1 - holes)),
        ("denoise", {"sigma": 25.0}, measurements.Masked(torch.ones(1, 1, 32, 32)), images),
        ("upscale", {"scale": 2, "by": "decimate"}, measurements.Decimated(2), images[:, :, ::2, ::2]),
        ("deblur", {"blur": 1.0}, measurements.Blurred(kernel, (32, 32)), images),
    ):
        own = restoration.settings(model, task, given.get("sigma"))
        settings = {"noise_deg": own["noise_deg"], "weight": own["lambda"], "classes": 3, "seed": 1}
        *_, expected = restoration.restore(model, y, how, count=2, **settings)
        shown = images if task == "inpaint" else y
        assert torch.equal(spherectl.restore(model, shown, task, rounds=2, classes=3, seed=1, **given), expected), task


def test_what_does_not_fit_is_refused(model, images):
    with pytest.raises(UsageError, match="Expected two images or four, got 3"):
        spherectl.interpolate(model, images[:3])
    with pytest.raises(UsageError, match=r"mask: expected \(32, 32\) of values from 0 to 1"):
        spherectl.harmonize(model, images, images, mask=torch.full((32, 32), 2.0))
    with pytest.raises(UsageError, match="Which pixels are missing"):
        spherectl.restore(model, images, "inpaint")
