"""The published perceptual networks, with random weights in torchvision's layout, against `lpips` and torchvision."""

from __future__ import annotations

from pathlib import Path

import lpips
import pytest
import torch
from torch import Tensor, nn

from spherectl.errors import FileError, UsageError
from spherectl.features import imagenet
from spherectl.recipe import LossSpec
from spherectl.training.perceptual import ImageNetDistance, build_perceptual
from tests.published import resized


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """Two batches (2, 3, 40, 40) in [0, 1]: smooth, and with noise."""
    generator = torch.Generator().manual_seed(3)
    ramp = torch.linspace(0, 1, 40)
    smooth = torch.stack([ramp[:, None].expand(40, 40), ramp.expand(40, 40), ramp.flip(0)[:, None] * ramp])
    a = torch.stack([smooth, smooth.flip(1)])
    return a, (a + 0.3 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


@pytest.mark.slow
def test_published_distance_from_a_server_equals_lpips_and_torchvision(
    lpips_module: lpips.LPIPS,
    convnext: nn.Module,
    served: tuple[imagenet.Source, imagenet.Source],
    images: tuple[Tensor, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`lpips+convnext` as a recipe asks for it: fetched over HTTP, checked, loaded, and P by its formula."""
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path / "cache"))
    told: list[tuple[int, int]] = []
    distance = build_perceptual(
        LossSpec(perceptual="lpips+convnext"), 40, "cpu", lambda done, total: told.append((done, total))
    )
    assert isinstance(distance, ImageNetDistance)
    fetched = {p.name: p.stat().st_size for p in (tmp_path / "cache" / "torchvision").glob("[!.]*")}
    assert fetched.keys() == {source.url.rpartition("/")[2] for source in served}
    assert {total for done, total in told if done == total} == set(fetched.values())

    a, b = (p[:1] for p in images)
    with torch.no_grad():
        theirs = lpips_module(2 * a - 1, 2 * b - 1).mean()
        logits = (convnext(resized(a)) - convnext(resized(b))).square().mean()
        expected = (theirs + 0.1 * logits) / 1.1
        assert logits > 0.1 * theirs  # both parts are seen in the sum
    torch.testing.assert_close(distance(a, b), expected, rtol=1e-5, atol=1e-6)
    assert distance(b, b).item() == 0.0


@pytest.mark.slow
def test_lpips_and_its_gradient_equal_the_packages(
    lpips_module: lpips.LPIPS, vgg16_file: Path, images: tuple[Tensor, Tensor]
) -> None:
    a, b = (p.double() for p in images)
    features = imagenet.lpips_features(vgg16_file, imagenet.lpips_heads()).double()
    double = lpips_module.double()
    try:
        ours, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
        pairs = zip(features(ours), features(b), strict=True)
        mine = sum((p - q).square().sum(1).mean((1, 2)) for p, q in pairs)
        other = double(2 * theirs - 1, 2 * b - 1).flatten()
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)
        mine.sum().backward()  # type: ignore[union-attr]
        other.sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)
    finally:
        lpips_module.float()


@pytest.mark.fast
@pytest.mark.parametrize("side", [32, 224, 256])
def test_convnext_sees_images_as_torchvisions_transforms_make_them(side: int) -> None:
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(imagenet.ConvNextLogits(nn.Identity())(images), resized(images), rtol=0, atol=1e-6)


@pytest.mark.fast
def test_without_the_package_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"needs the package lpips.*spherectl\[perceptual\]"):
        build_perceptual(LossSpec(perceptual="lpips+convnext"), 32, "cpu")
    monkeypatch.undo()
    with pytest.raises(UsageError, match="at least 16 px"):
        build_perceptual(LossSpec(perceptual="lpips+convnext"), 8, "cpu")


@pytest.mark.fast
def test_weights_that_are_damaged_or_of_another_network_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(FileError, match="not a readable file of weights"):
        imagenet.lpips_features(path, [])
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="holds other weights"):
        imagenet.lpips_features(path, [])
    torch.save([1, 2], path)
    with pytest.raises(FileError, match="no state dict"):
        imagenet.convnext_logits(path)
