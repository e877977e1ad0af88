"""Geometry against step-by-step computations and torchvision; bytes and floats against their closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image

from spherectl.data.transforms import adm_crop, as_tensor, fit_crop, fit_pad, pad_to, to_float, to_grey, to_uint8
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast

ALL_BYTES = torch.arange(256, dtype=torch.uint8)
SIDES = [31, 64, 65, 100]


def noise_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8))


def test_levels_change_exactly_at_the_half_or_at_the_whole():
    # floor(255 x + 1/2) goes from k to k + 1 at x = (k + 1/2) / 255; a millionth of a level on either side decides.
    for rule in ("round", "floor"):
        assert torch.equal(to_uint8(to_float(ALL_BYTES), rule), ALL_BYTES), "there and back"
    k = torch.arange(255, dtype=torch.float64)
    assert torch.equal(to_uint8((k + 0.5 - 1e-6) / 255), k.to(torch.uint8))
    assert torch.equal(to_uint8((k + 0.5 + 1e-6) / 255), (k + 1).to(torch.uint8))
    assert torch.equal(to_uint8((k + 1 - 1e-6) / 255, "floor"), k.to(torch.uint8))
    assert torch.equal(to_uint8((k + 1) / 255, "floor"), (k + 1).to(torch.uint8))
    noise = torch.tensor([-1e-6, 1 + 1e-6], dtype=torch.float64)  # of rounding, outside the range
    assert to_uint8(noise).tolist() == [0, 255]


def test_bfloat16_is_computed_in_float32():
    # In their own precision 255 x keeps 8 bits, and most bfloat16 in [0, 1] would miss their level.
    images = torch.linspace(0, 1, 10_001).bfloat16()
    assert torch.equal(to_uint8(images), to_uint8(images.double()))
    assert (to_uint8(images) != (255 * images + 0.5).floor().to(torch.uint8)).any()


@pytest.mark.parametrize("bad", [-2e-6, 1 + 2e-6, float("nan")])
def test_out_of_range_is_an_error(bad):
    images = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    images[1, 2, 3, 0] = bad
    with pytest.raises(UsageError, match=r"floats in \[0, 1\]"):
        to_uint8(images)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 4), (4, 5), (8, 8), (7, 1), (3, 8)])
def test_pad_geometry_and_pillows_grey(width, height):
    image = noise_image(width, height)
    expected = np.asarray(image)
    assert all((as_tensor(image)[c].numpy() == expected[..., c]).all() for c in range(3))
    assert torch.equal(to_grey(as_tensor(image)[None])[0], as_tensor(image.convert("L").convert("RGB")))
    padded = fit_pad(image, 8)
    top, left = (8 - height) // 2, (8 - width) // 2
    assert torch.equal(padded[:, top : top + height, left : left + width], as_tensor(image))
    assert padded.sum() == as_tensor(image).sum(), "black around it"
    assert torch.equal(pad_to(as_tensor(image)[None].expand(2, -1, -1, -1), 8), padded[None].expand(2, -1, -1, -1))
    with pytest.raises(UsageError, match=f"9 x {height} pixels does not fit 8 x 8"):
        fit_pad(noise_image(9, height), 8)


@pytest.mark.parametrize(("width", "height"), list(itertools.product(SIDES, SIDES)))
def test_training_crop_is_torchvisions(width, height):
    # Oracle: torchvision on Pillow images, resize shorter side then centre crop; nearest at <= 64 px, bicubic above.
    image = noise_image(width, height)
    for size, mode in ((32, "NEAREST"), (64, "NEAREST"), (65, "BICUBIC"), (96, "BICUBIC")):
        oracle = tv.Compose([tv.Resize(size, getattr(tv.InterpolationMode, mode)), tv.CenterCrop(size)])
        assert torch.equal(fit_crop(image, size), as_tensor(oracle(image)))


@pytest.mark.parametrize(
    ("width", "height", "size", "steps", "crop"),
    [
        # sizes after each box step, after the bicubic step, then left and top: by hand from section 4
        (100, 75, 32, [(50, 37)], ((43, 32), 5, 0)),
        (75, 100, 32, [(37, 50)], ((32, 43), 0, 5)),
        (257, 131, 32, [(128, 65), (64, 32)], ((64, 32), 16, 0)),
        (63, 200, 32, [], ((32, 102), 0, 35)),
        (20, 30, 32, [], ((32, 48), 0, 8)),
        (64, 64, 32, [(32, 32)], ((32, 32), 0, 0)),
        (32, 32, 32, [], ((32, 32), 0, 0)),
    ],
)
def test_adm_crop_step_by_step(width, height, size, steps, crop):
    image = expected = noise_image(width, height)
    for step in steps:
        expected = expected.resize(step, Image.Resampling.BOX)
    shape, left, top = crop
    expected = np.asarray(expected.resize(shape, Image.Resampling.BICUBIC))[top : top + size, left : left + size]
    assert torch.equal(adm_crop(image, size), torch.from_numpy(expected.copy()).permute(2, 0, 1))
