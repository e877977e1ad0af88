"""The published perceptual networks, with random weights in torchvision's layout, against `lpips` and torchvision."""

from __future__ import annotations

from pathlib import Path

import lpips
import pytest
import torch
from torch import Tensor, nn

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.features import imagenet
from spherectl.recipe import LossSpec
from spherectl.training.perceptual import ImageNetDistance, build_perceptual
from tests.published import resized

HEAD_WIDTHS = (64, 128, 256, 512, 512)


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
def test_lpips_alone_needs_vgg16_alone(
    vgg16_file: Path,
    served: tuple[imagenet.Source, imagenet.Source],
    images: tuple[Tensor, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(imagenet, "CONVNEXT_SMALL", imagenet.Source(f"{served[1].url}.nothing", "0" * 64))
    network = imagenet.load_lpips()
    assert [path.name for path in (tmp_path / "cache" / "torchvision").glob("[!.]*")] == [vgg16_file.name]
    expected = imagenet.lpips_features(vgg16_file, imagenet.lpips_heads())(images[1])
    assert all(torch.equal(a, b) for a, b in zip(network(images[1]), expected, strict=True))


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


@pytest.mark.slow
def test_a_black_image_has_a_finite_gradient(vgg16_file: Path) -> None:
    """With no light and no bias every ReLU gives 0: a plain norm has no gradient there."""
    features = imagenet.lpips_features(vgg16_file, [torch.ones(width) for width in HEAD_WIDTHS])
    for layer in features.trunk.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias.data.zero_()  # type: ignore[union-attr]
    grey = (features.shift / 2 + 0.5).expand(1, 3, 32, 32).clone().requires_grad_()  # the scaling layer makes it 0
    targets = [torch.ones_like(f) for f in features(torch.rand(1, 3, 32, 32))]
    sum((a - b).square().mean() for a, b in zip(features(grey), targets, strict=True)).backward()  # type: ignore[union-attr]
    assert grey.grad is not None
    assert torch.isfinite(grey.grad).all()


@pytest.mark.fast
@pytest.mark.parametrize("side", [32, 224, 256])
def test_convnext_sees_images_as_torchvisions_transforms_make_them(side: int) -> None:
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(imagenet.ConvNextLogits(nn.Identity())(images), resized(images), rtol=0, atol=1e-6)


@pytest.mark.fast
def test_heads_of_the_package_are_five_and_not_negative() -> None:
    heads = imagenet.lpips_heads()
    assert [tuple(head.shape) for head in heads] == [(width,) for width in HEAD_WIDTHS]
    assert all((head >= 0).all() for head in heads)  # else their roots could not stand for them


@pytest.mark.fast
def test_without_the_package_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"needs the package lpips.*spherectl\[perceptual\]"):
        build_perceptual(LossSpec(perceptual="lpips+convnext"), 32, "cpu")


@pytest.mark.fast
def test_offline_the_sentence_says_which_file_from_where_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPHERECTL_CACHE", str(tmp_path))
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    with pytest.raises(SpherectlError) as caught:
        imagenet.load_published()
    assert caught.value.exit_code == 1
    for part in (imagenet.VGG16.url, str(tmp_path / "torchvision" / "vgg16-397923af.pth")):
        assert part in str(caught.value)


@pytest.mark.fast
def test_weights_that_are_damaged_or_of_another_network_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    for content in (b"", b"PK\x03\x04 cut short", b"\x80\x02garbage"):
        path.write_bytes(content)
        with pytest.raises(FileError, match="not a readable file of weights"):
            imagenet.lpips_features(path, [])
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="holds other weights"):
        imagenet.lpips_features(path, [])
    torch.save([1, 2], path)
    with pytest.raises(FileError, match="no state dict"):
        imagenet.convnext_logits(path)


@pytest.mark.fast
def test_lpips_refuses_images_that_its_last_stage_could_not_see() -> None:
    with pytest.raises(UsageError, match="at least 16 px"):
        build_perceptual(LossSpec(perceptual="lpips+convnext"), 8, "cpu")
