"""What measuring leaves to chance, and how far an image is from explaining a measurement."""

from __future__ import annotations

import pytest
import torch

from spherectl import api
from spherectl.editing.measurements import Masked, Pooled, kernel_of, measured, misfit, random_mask
from spherectl.editing.restoration import DEFAULTS, TASKS, settings
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast


def test_masks_have_their_share_and_are_each_image_s_own() -> None:
    masks = random_mask(3, 64, 0.3, seed=1)
    assert masks.shape == (3, 1, 64, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert float(masks.mean()) == pytest.approx(0.7, abs=0.02)
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(random_mask(2, 64, 0.3, seed=1, first_index=1), masks[1:])
    assert not torch.equal(random_mask(3, 64, 0.3, seed=2), masks)
    assert random_mask(1, 8, 0.0).all()


def test_noise_has_its_levels_and_is_grey_where_the_camera_is() -> None:
    x = torch.full((2, 3, 64, 64), 0.5)
    how = Masked(torch.ones(1, 1, 64, 64))
    noise = 255 * (measured(x, how, sigma=20) - x)
    assert float(noise.std()) == pytest.approx(20, rel=0.05)
    assert float((noise[:, 0] * noise[:, 1]).mean()) == pytest.approx(0, abs=20)
    grey = 255 * (measured(x, how, sigma=20, grey=True) - x)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert float(grey.std()) == pytest.approx(20, rel=0.05)
    assert torch.equal(measured(x[1:], how, sigma=20, first_index=1), measured(x, how, sigma=20)[1:])
    assert torch.equal(measured(x, Pooled(2)), torch.full((2, 3, 32, 32), 0.5))


def test_noise_and_missing_pixels_are_drawn_apart() -> None:
    """Were they the same words, noise would tell which pixels are missing."""
    mask = random_mask(1, 64, 0.5)[0, 0]
    noise = measured(torch.zeros(1, 3, 64, 64), Masked(torch.ones(1, 1, 64, 64)), sigma=255, grey=True)[0, 0]
    assert abs(float(torch.corrcoef(torch.stack((mask.flatten(), noise.flatten())))[0, 1])) < 0.05


def test_the_misfit_is_over_what_was_measured() -> None:
    mask = torch.zeros(4, 4)
    mask[:, :2] = 1
    x = torch.zeros(2, 3, 4, 4)
    y = x.clone()
    y[0, :, :, 0] = 10 / 255
    assert misfit(Masked(mask), x, y).tolist() == pytest.approx([10 / 2**0.5, 0])
    assert misfit(Pooled(2), torch.full((1, 3, 4, 4), 0.2), torch.zeros(1, 3, 2, 2)).item() == pytest.approx(51)


def test_a_kernel_is_a_image_s_luminance() -> None:
    pixels = torch.zeros(3, 3, 5, dtype=torch.uint8)
    pixels[:, 1, 1:4] = 100
    kernel = kernel_of(pixels)
    assert kernel.shape == (3, 5)
    assert kernel[1].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0])
    with pytest.raises(UsageError, match="The kernel is black"):
        kernel_of(torch.zeros(3, 3, 3, dtype=torch.uint8))


def test_settings_are_the_task_s_unless_the_model_has_its_own(garments: api.Model) -> None:
    own = api.Model(garments.network, dict(garments.header), name="own", device=garments.device)
    for task in TASKS:
        assert settings(own, task) == DEFAULTS[task]
    own.header["editing"] = {"restore": {"denoise": {"lambda": 3.0, "rounds": 5}}}
    expected = DEFAULTS["denoise"] | {"lambda": 3.0, "rounds": 5}
    assert settings(own, "denoise") == expected
    assert settings(own, "deblur") == DEFAULTS["deblur"]
    assert settings(own, "denoise", 25.0) == expected | {"lambda": 0.75}  # lambda goes with the noise's square
    assert settings(own, "denoise", 50.0) == expected
    assert settings(own, "upscale", 25.0) == DEFAULTS["upscale"]
