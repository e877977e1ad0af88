"""A model's result goes back into the image that it was made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from spherectl.api import Model
from spherectl.editing.fitting import fit, put_back

pytestmark = pytest.mark.fast


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(28, 28), (32, 32), (20, 9), (70, 32), (32, 71)])
def test_what_a_model_leaves_as_it_is_comes_back_into_its_place_exactly(
    width: int, height: int, garments: Model
) -> None:
    """The images are grey, as the model's; padded or cropped, none is resized."""
    levels = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    image = Image.fromarray(levels).convert("RGB")
    fitted = fit(image, garments.recipe)
    assert fitted.pixels.shape == (3, 32, 32)
    assert torch.equal(pixels_of(put_back(fitted.pixels, fitted)), pixels_of(image))
    # A result goes into the part that the model saw, there only where it is asked for, and nowhere else.
    where = Image.new("L", image.size)
    left, top, right, _ = fitted.box
    where.paste(255, (left, top, right, top + 3))
    made = pixels_of(put_back(255 - fitted.pixels, fitted, where))
    expected = pixels_of(image)
    expected[:, top : top + 3, left:right] = 255 - expected[:, top : top + 3, left:right]
    assert torch.equal(made, expected)
