"""The perceptual part of the loss: by name, against its formula, its gradients and its arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from spherectl.errors import UsageError
from spherectl.features import store
from spherectl.features.networks import build_network
from spherectl.model import kernels
from spherectl.recipe import LossSpec
from spherectl.training.perceptual import FeatureDistance, build_perceptual

pytestmark = pytest.mark.fast

ARGUMENTS = {"num_classes": 3, "widths": [4, 6, 8], "convolutions": [1, 1, 1]}


class Given(nn.Module):
    """A network whose stages are the image itself, and the image halved."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def stages(self, images: Tensor) -> list[Tensor]:
        return [images * self.weight, nn.functional.avg_pool2d(images, 2) * self.weight]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network("plain", ARGUMENTS).eval().requires_grad_(False)


@pytest.fixture
def shown() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 4, 3, 32, 32, generator=generator).unbind(0)
    return a, b


def test_distance_of_hand_made_features_is_the_formula() -> None:
    # One image of constant (3, 4, 0) / 10 and one of (0, 0, 1) / 10: unit vectors (0.6, 0.8, 0) and (0, 0, 1),
    # |difference|^2 = 0.36 + 0.64 + 1 = 2 in both stages; the second pair is equal: the mean over images is 1.
    a = torch.tensor([[0.3, 0.4, 0.0], [0.2, 0.2, 0.2]])[:, :, None, None].expand(2, 3, 4, 4)
    b = torch.tensor([[0.0, 0.0, 0.1], [0.4, 0.4, 0.4]])[:, :, None, None].expand(2, 3, 4, 4)
    assert FeatureDistance(Given())(a, b).item() == pytest.approx(1.0, rel=1e-6)


def test_distance_is_two_minus_two_cosines(network: nn.Module, shown: tuple[Tensor, Tensor]) -> None:
    a, b = shown
    pairs = zip(network.stages(a), network.stages(b), strict=True)  # type: ignore[operator]
    stages = [(2 - 2 * torch.cosine_similarity(p, q, dim=1)).mean() for p, q in pairs]
    distance = FeatureDistance(network)
    torch.testing.assert_close(distance(a, b), torch.stack(stages).mean(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert distance(a, a).item() == 0.0


def test_the_pooled_part_is_two_minus_two_cosines_of_means(network: nn.Module, shown: tuple[Tensor, Tensor]) -> None:
    a, b = shown
    pairs = zip(network.stages(a), network.stages(b), strict=True)  # type: ignore[operator]
    stages = [(2 - 2 * torch.cosine_similarity(p.mean((2, 3)), q.mean((2, 3)), dim=1)).mean() for p, q in pairs]
    pooled = FeatureDistance(network, 3.0)(a, b) - FeatureDistance(network)(a, b)
    torch.testing.assert_close(pooled, 3 * torch.stack(stages).mean(), rtol=1e-4, atol=1e-6)
    assert FeatureDistance(network, 3.0)(a, a).item() == 0.0
    assert FeatureDistance(network, 0.5).with_pooled(3.0)(a, b) == FeatureDistance(network, 3.0)(a, b)


def test_precomputed_targets_serve_as_the_images_do(network: nn.Module, shown: tuple[Tensor, Tensor]) -> None:
    a, b = shown
    distance = FeatureDistance(network)
    targets = distance.targets(b.requires_grad_())
    assert not any(target.requires_grad for target in targets)
    assert [len(target) for target in targets] == [4, 4, 4]
    assert torch.equal(distance.distance(a, targets), distance(a, b))


@pytest.mark.parametrize("pooled_weight", [0.0, 2.0])
def test_gradients_reach_the_first_images_alone_and_are_right(network: nn.Module, pooled_weight: float) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 1, 3, 8, 8, generator=generator, dtype=torch.float64).unbind(0)
    distance = FeatureDistance(network.double(), pooled_weight)
    a.requires_grad_()
    b.requires_grad_()
    targets = distance.targets(b)
    # Finite differences of the distance, along one random direction.
    direction = torch.randn(a.shape, generator=generator, dtype=torch.float64)
    (slope,) = torch.autograd.grad(distance.distance(a, targets), a)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (distance.distance(a + s * direction, targets) for s in (step, -step))
    assert float((slope * direction).sum()) == pytest.approx(float((ahead - behind) / (2 * step)), rel=1e-6)
    distance(a, b).backward()
    assert b.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_arithmetic_is_float32_under_autocast_and_float64_for_float64(
    network: nn.Module, shown: tuple[Tensor, Tensor]
) -> None:
    a, b = shown
    distance = FeatureDistance(network)
    exact = distance(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = distance(a.bfloat16(), b.bfloat16())
        features = [[stage.float() for stage in distance.features(one.bfloat16().float())] for one in (a, b)]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(distance.compare(*features).item(), rel=1e-6)
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)
    double = distance.double()(a.double(), b.double())
    assert double.dtype == torch.float64
    assert double.item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_recipe_chooses_the_distance_by_name(
    network: nn.Module, shown: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.save_feature_network(tmp_path / "net", network, "plain", ARGUMENTS, {"image_size": 32})
    assert build_perceptual(LossSpec(perceptual="none"), 32, "cpu") is None
    distance = build_perceptual(LossSpec(perceptual="features:net"), 32, "cpu")
    assert torch.equal(cast("Tensor", distance(*shown)), FeatureDistance(network)(*shown))  # type: ignore[misc]
    assert not cast("nn.Module", distance).training
    both = build_perceptual(LossSpec(perceptual="features:net", pooled=2.0), 32, "cpu")
    assert torch.equal(cast("Tensor", both(*shown)), FeatureDistance(network, 2.0)(*shown))  # type: ignore[misc]
    with pytest.raises(UsageError, match=r"net was trained on 32 px; model\.image_size is 64"):
        build_perceptual(LossSpec(perceptual="features:net"), 64, "cpu")
    with pytest.raises(
        UsageError,
        match=r"no feature network 'other'.*zoo: emoji-features, emoji-scorer, fashion-features, fashion-scorer",
    ):
        build_perceptual(LossSpec(perceptual="features:other"), 32, "cpu")


@pytest.mark.skipif(not kernels.available(), reason=f"kernels: {kernels.explain()}")
@pytest.mark.parametrize("channels", [3, 16, 40, 128])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_kernel_for_bfloat16_features_does_as_float32_does(channels: int, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 3, channels, 5, 7, generator=generator).bfloat16().unbind(0)
    a[0, :, 1, 2] = b[1, :, 3, 4] = a[2, :, 0, 0] = b[2, :, 0, 0] = 0  # as after a ReLU
    a[1, :, 0, 1] = b[1, :, 0, 1]
    quick, exact = (one.contiguous(memory_format=layout).requires_grad_() for one in (a.clone(), a.float()))
    distance = FeatureDistance(Given())
    found, expected = distance.compare([quick], [b]), distance.compare([exact], [b.float()])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (3 * found).backward()
    (3 * expected).backward()
    assert quick.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(quick.grad.float(), exact.grad, rtol=2**-8, atol=1e-7)
    # Where the other side wants a gradient too, it gets one.
    (slope,) = torch.autograd.grad(distance.compare([b], [quick]), quick)
    assert slope.abs().sum() > 0
