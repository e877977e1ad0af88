"""PSNR in closed form, SSIM against the published definition with scipy's filter, LPIPS against the package."""

from __future__ import annotations

import lpips as package
import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.evaluation import reconstruction
from spherectl.evaluation.metrics import METRICS
from spherectl.features import imagenet
from spherectl.images import psnr


@pytest.fixture
def shown() -> tuple[Tensor, Tensor]:
    """Three smooth images (3, 3, 40, 44) and the same with more and more noise, uint8."""
    generator = torch.Generator().manual_seed(0)
    down, right = torch.linspace(0, 255, 40)[:, None], torch.linspace(0, 255, 44)
    smooth = torch.stack([down.expand(40, 44), right.expand(40, 44), 255 - down * right / 255])
    originals = torch.stack([smooth, smooth.flip(1), smooth.roll(1, 0)])
    noise = torch.randn(originals.shape, generator=generator) * torch.tensor([2.0, 10, 60])[:, None, None, None]
    return originals.to(torch.uint8), (originals + noise).clamp(0, 255).to(torch.uint8)


def flat(level: int, count: int = 1, side: int = 32) -> Tensor:
    return torch.full((count, 3, side, side), level, dtype=torch.uint8)


@pytest.mark.fast
def test_psnr_of_constant_errors_is_the_closed_form_up_to_100_db() -> None:
    compare = METRICS["psnr"].compare
    assert compare is not None
    originals = flat(100, count=4)
    others = torch.cat([flat(101), flat(74), flat(100), flat(100)])  # 1 level, -26 levels, in 32 pixels by 51, equal
    others[2, :, 0] = 151
    found = compare(torch.device("cpu"))(originals, others)
    assert found.dtype == torch.float64
    expected = [20 * np.log10(255), 20 * np.log10(255 / 26), 20 * np.log10(5) + 10 * np.log10(32), 100]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14)
    torch.testing.assert_close(psnr(to_float(originals), to_float(others))[:3], found[:3])


def published_ssim(a: Tensor, b: Tensor) -> float:
    """Equation 13 of Wang et al. (2004) at each pixel of one image, by scipy's Gaussian, mirrored at the borders."""

    def smooth(values: np.ndarray) -> np.ndarray:  # a window of 11: 5 pixels to a side
        return scipy.ndimage.gaussian_filter(values, sigma=1.5, radius=5, mode="mirror", axes=(1, 2))

    x, y = (to_float(image).double().numpy() for image in (a, b))
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    cov = smooth(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(index.mean())


@pytest.mark.fast
def test_ssim_is_the_published_one(shown: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_PIXELS", 40 * 44 * 2)  # in two pieces
    found = reconstruction.ssim(*shown)
    assert found.shape == (3,)
    assert found.dtype == torch.float64
    expected = [published_ssim(a, b) for a, b in zip(*shown, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert 0.99 > found[0] > found[1] > found[2] > 0


@pytest.mark.fast
def test_ssim_of_equal_images_is_1_and_of_flat_ones_the_closed_form(shown: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(reconstruction.ssim(shown[0], shown[0]), torch.ones(3).double(), rtol=0, atol=1e-12)
    x, y = 51 / 255, 204 / 255
    closed = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)  # no variance: the light alone
    assert reconstruction.ssim(flat(51), flat(204)).item() == pytest.approx(closed, rel=1e-6)


class Known(nn.Module):
    """Two stages that are known: the images, and twice the images at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(()))
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.batches.append(len(images))
        return [images, 2 * nn.functional.avg_pool2d(images, 2)]


@pytest.mark.fast
def test_lpips_sums_channels_and_stages_and_averages_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_PIXELS", 32 * 32 * 2)
    network = Known()
    originals, others = flat(0, count=3), torch.cat([flat(51), flat(0), flat(255)])
    others[1, :, :16] = 255  # half of the image
    found = reconstruction.lpips(network, originals, others)  # type: ignore[arg-type]
    assert found.dtype == torch.float64
    # 3 channels of d^2 at the first stage and of (2 d)^2 at the second
    np.testing.assert_allclose(found.numpy(), [15 * 0.04, 15 * 0.5, 15], rtol=1e-6)
    assert network.batches == [2, 2, 1, 1]


@pytest.mark.slow
def test_lpips_of_each_image_is_the_packages(shown: tuple[Tensor, Tensor]) -> None:
    """The package's heads on one random trunk in both."""
    torch.manual_seed(0)
    theirs = package.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    stages = (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5)
    network = imagenet.LpipsFeatures(nn.Sequential(*(layer for s in stages for layer in s)), imagenet.lpips_heads())
    found = reconstruction.lpips(network.eval(), *shown)
    a, b = (2 * to_float(some) - 1 for some in shown)
    with torch.no_grad():
        expected = theirs(a, b).flatten().double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert 0 < found[0] < found[1] < found[2]
    assert reconstruction.lpips(network, shown[0], shown[0]).tolist() == [0, 0, 0]


@pytest.mark.fast
def test_images_smaller_than_a_score_can_see_are_refused_by_it_alone() -> None:
    with pytest.raises(UsageError, match="SSIM needs images of at least 11 pixels a side; these are 10 x 10"):
        reconstruction.ssim(flat(0, side=10), flat(0, side=10))
    with pytest.raises(UsageError, match="LPIPS needs images of at least 16 pixels a side; these are 15 x 15"):
        reconstruction.lpips(Known(), flat(0, side=15), flat(0, side=15))  # type: ignore[arg-type]
    assert reconstruction.ssim(flat(9, side=11), flat(9, side=11)).item() == pytest.approx(1)
