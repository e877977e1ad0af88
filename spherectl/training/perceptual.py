"""The perceptual part P of the training loss (section 4 of the method's description), chosen by `loss.perceptual`.

A distance here is a module with these calls, all on float images (B, 3, H, W) in [0, 1]:

    features(images)            what is compared of them
    compare(features, others)   a scalar, the mean over the batch
    targets(images)             features without gradient
    distance(images, targets)   compare(features(images), targets); gradients flow to `images` alone
    forward(a, b)               distance(a, targets(b))

The frozen networks run in whatever autocast is on. What is computed from their features is float32, or float64 where
the images are (then the module must be in float64 too).

Letters: B batch, C channels, h and w feature sides.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from spherectl.errors import UsageError
from spherectl.features import imagenet
from spherectl.features.networks import ZERO_GUARD, FeatureNetwork, normalise_channels
from spherectl.features.store import find_feature_network, load_feature_network, read_feature_header
from spherectl.model import kernels
from spherectl.model.geometry import at_least_float32
from spherectl.progress import Progress
from spherectl.recipe import LossSpec


class PerceptualDistance(nn.Module):
    """Base of the distances: features of both sides, and a distance of features."""

    def features(self, images: Tensor) -> list[Tensor]:
        """What is compared, of images (B, 3, H, W) in [0, 1]; the first axis of each is B."""
        raise NotImplementedError

    def compare(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        """Mean distance over the batch, a scalar."""
        raise NotImplementedError

    def targets(self, images: Tensor) -> list[Tensor]:
        """Features of the images to compare with, without gradients."""
        with torch.no_grad():
            return self.features(at_least_float32(images))

    def with_pooled(self, weight: float) -> PerceptualDistance:
        """This distance with another weight of what does not ask where; itself where it has no such part."""
        del weight
        return self

    def distance(self, images: Tensor, targets: list[Tensor]) -> Tensor:
        """Mean distance of `images` to the images whose `targets` these are: a scalar."""
        return self.compare(self.features(at_least_float32(images)), targets)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Mean distance of `images` to `others`, which get no gradient: a scalar."""
        return self.distance(images, self.targets(others))


class FeatureDistance(PerceptualDistance):
    """Distance in a small frozen network: LPIPS without learned weights, and beside it what does not ask where.

    With f_s the output of stage s, brought to length 1 over its channels at each position, and g_s the mean of the
    output over its positions, brought to length 1 after that,
    P(a, b) = mean over stages s, images and positions of |f_s(a) - f_s(b)|^2, from 0 to 4,
              + w * mean over stages and images of |g_s(a) - g_s(b)|^2.
    Where a decoder cannot know the place of an edge or a thread, the first part asks for a blur, the second for as many
    edges and threads as there are.

    Args:
        network: a frozen `FeatureNetwork`.
        pooled_weight: w.
    """

    def __init__(self, network: nn.Module, pooled_weight: float = 0.0) -> None:
        super().__init__()
        self.network, self.pooled_weight = network, pooled_weight

    def with_pooled(self, weight: float) -> FeatureDistance:
        """The distance in the same network with another w; itself where it is the same."""
        return self if weight == self.pooled_weight else FeatureDistance(self.network, weight)

    def features(self, images: Tensor) -> list[Tensor]:
        """Each stage's output, (B, C, h, w), in the network's precision; if w > 0, then their means, (B, C, 1, 1)."""
        stages = cast("FeatureNetwork", self.network).stages(images)
        if not self.pooled_weight:
            return stages
        return stages + [at_least_float32(stage).mean((2, 3), keepdim=True) for stage in stages]

    def compare(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        """Squared distances of unit vectors, averaged over stages."""
        distances = torch.stack([_unit_distance(a, b) for a, b in zip(features, others, strict=True)])
        if not self.pooled_weight:
            return distances.mean()
        placed, pooled = distances.chunk(2)
        return placed.mean() + self.pooled_weight * pooled.mean()


class ImageNetDistance(PerceptualDistance):
    """P = (1.0 LPIPS + 0.1 mean squared difference of ConvNeXt-Small logits) / 1.1, as published.

    Args:
        lpips: the five stages of LPIPS.
        logits: ConvNeXt-Small.
    """

    LPIPS_WEIGHT, LOGITS_WEIGHT = 1.0, 0.1

    def __init__(self, lpips: imagenet.LpipsFeatures, logits: imagenet.ConvNextLogits) -> None:
        super().__init__()
        self.lpips, self.logits = lpips, logits

    def features(self, images: Tensor) -> list[Tensor]:
        """Five stages (B, C, h, w), then logits (B, 1000)."""
        return [*self.lpips(images), self.logits(images)]

    def compare(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        """The weighted mean of the two distances."""
        lpips = torch.stack([_squared(a, b) for a, b in zip(features[:-1], others[:-1], strict=True)]).sum()
        logits = (features[-1] - others[-1]).square().mean()
        return (self.LPIPS_WEIGHT * lpips + self.LOGITS_WEIGHT * logits) / (self.LPIPS_WEIGHT + self.LOGITS_WEIGHT)


def build_perceptual(
    loss: LossSpec, image_size: int, device: torch.device | str, progress: Progress | None = None
) -> PerceptualDistance | None:
    """The distance that a recipe's `loss.perceptual` names, frozen and on the device; None for "none".

    Args:
        loss: the recipe's [loss] table.
        image_size: side of the model's images in pixels.
        device: where the networks go.
        progress: called with bytes done and bytes in all while a network's file is fetched.

    Raises:
        UsageError: the zoo has no such feature network, or it cannot take images of this size.
        SpherectlError: a network's file is not here and cannot be fetched; the hint says where to put it.
        FileError: a file is damaged.
    """
    if loss.perceptual == "none":
        return None
    distance: PerceptualDistance
    if loss.features:
        path = find_feature_network(loss.features)
        trained_px = read_feature_header(path)["image_size"]
        if trained_px != image_size:
            raise UsageError(
                f"loss.perceptual: {loss.features} was trained on {trained_px} px; model.image_size is {image_size}.",
                "Use --set loss.perceptual=lpips+convnext, which takes any size.",
            )
        distance = FeatureDistance(load_feature_network(path), loss.pooled)
    else:
        if image_size < imagenet.SMALLEST_PX:
            raise UsageError(
                f"loss.perceptual: LPIPS needs at least {imagenet.SMALLEST_PX} px; model.image_size is {image_size}.",
                "Use --set loss.perceptual=none.",
            )
        distance = ImageNetDistance(*imagenet.load_published(progress))
    # Channels last: a third off the time of the small network's convolutions on a CPU; what GPUs prefer too.
    frozen = distance.requires_grad_(False).eval().to(device)
    return frozen.to(memory_format=torch.channels_last)


def _unit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared differences of the unit vectors at the positions of (B, C, h, w), averaged over images and positions."""
    if a.device.type == "cpu" and a.dtype == b.dtype == torch.bfloat16 and not b.requires_grad and kernels.available():
        return cast("Tensor", _UnitDistance.apply(a, b)).mean()
    return _squared(*(normalise_channels(at_least_float32(one)) for one in (a, b)))


class _UnitDistance(torch.autograd.Function):
    """In one pass over bfloat16 features: (B, C, h, w) twice to (B, h, w) float32; gradients to the first alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        a, b = (one.permute(0, 2, 3, 1).contiguous() for one in (a, b))  # as they lie already after a convolution
        distances = torch.empty(a.shape[:3])
        inverse = torch.empty(*a.shape[:3], 2)
        kernels.call("unit_distance_forward", distances.numel(), a.shape[3], ZERO_GUARD**2, a, b, distances, inverse)
        ctx.save_for_backward(a, b, inverse)
        return distances

    @staticmethod
    def backward(ctx: Any, ddistances: Tensor) -> tuple[Tensor, None]:
        a, b, inverse = ctx.saved_tensors
        da, rows = torch.empty_like(a), ddistances.numel()
        kernels.call("unit_distance_backward", rows, a.shape[3], a, b, inverse, ddistances.contiguous(), da)
        return da.permute(0, 3, 1, 2), None


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared differences of (B, C, h, w), summed over channels, averaged over images and positions."""
    return (a - b).square().sum(1).mean()
