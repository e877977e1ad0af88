"""Small convolutional classifiers whose insides serve as features: one kind for a loss, another for scores.

Letters: B batch, C channels, H and W image sides, h and w feature sides, K classes, D width of the embedding.

All take images in [0, 1] as they are, so that the convolutions' zero padding is black, as the images' own border
is. While a network learns, every convolution is followed by batch normalisation; `fold` then multiplies the learned
statistics into the convolutions, and what is stored and used frozen has convolutions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ZERO_GUARD = 1e-10  # length of a feature vector at and below which its unit vector is no longer one


@runtime_checkable
class FeatureNetwork(Protocol):
    """What the perceptual loss and the scores need of a network. Images are float (B, 3, H, W) in [0, 1]."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        ...

    def stages(self, images: Tensor) -> list[Tensor]:
        """Features (B, C, h, w) at the end of each stage, finest first."""
        ...

    def embed(self, images: Tensor) -> Tensor:
        """The vector (B, D) that the logits are a linear map of."""
        ...


class Convolution(nn.Module):
    """A 3x3 convolution, padded to keep the size, and while it learns the batch normalisation after it.

    Args:
        inputs, outputs: channels.
        stride: 1, or 2 to halve the size.
        norm: True to normalise (and have no bias), False for a plain convolution with a bias.
        kernel: side of the kernel, odd.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, norm: bool, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=not norm)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        return cast("Tensor", self.norm(self.conv(x)))


class PlainNetwork(nn.Module):
    """Stages of 3x3 convolutions with SiLU after each and 2x2 max pooling between stages, as VGG has them.

    SiLU rather than ReLU because gradients flow through these features into a generator: they are smooth, and no
    position has all its channels at exactly 0, where the direction of a feature vector would have no gradient.

    Args:
        num_classes: K.
        widths: channels of each stage.
        convolutions: how many convolutions each stage has.
        norm: True while learning, False once folded.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, ...] = (32, 64, 128),
        convolutions: tuple[int, ...] = (1, 2, 2),
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        inputs, stages = 3, []
        for width, count in zip(widths, convolutions, strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [Convolution(inputs, width, norm=norm), nn.SiLU()]
                inputs = width
            stages.append(nn.Sequential(*layers))
        self.body = nn.ModuleList(stages)
        self.head = nn.Linear(inputs, num_classes)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The output of each stage, before it is pooled."""
        features: list[Tensor] = []
        x = images  # (B, 3, H, W)
        for index, stage in enumerate(self.body):
            x = stage(F.max_pool2d(x, 2) if index else x)  # (B, widths[index], H / 2^index, W / 2^index)
            features.append(x)
        return features

    def embed(self, images: Tensor) -> Tensor:
        """The last stage averaged over space."""
        return self.stages(images)[-1].mean((2, 3))  # (B, D)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return cast("Tensor", self.head(self.embed(images)))  # (B, K)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the size or the width changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: bool) -> None:
        super().__init__()
        self.first = Convolution(inputs, outputs, stride=stride, norm=norm)
        self.second = Convolution(outputs, outputs, norm=norm)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity() if same else Convolution(inputs, outputs, stride=stride, norm=norm, kernel=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


class ResidualNetwork(nn.Module):
    """A small residual network: a convolution, then stages of blocks, each at half the size of what came before.

    Args:
        num_classes: K.
        widths: channels of each stage; the last is D.
        blocks: residual blocks of each stage.
        norm: True while learning, False once folded.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, ...] = (32, 64, 128),
        blocks: tuple[int, ...] = (2, 2, 2),
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.stem = Convolution(3, widths[0], norm=norm)
        inputs, stages = widths[0], []
        for width, count in zip(widths, blocks, strict=True):
            layers: list[nn.Module] = []
            for index in range(count):
                layers.append(ResidualBlock(inputs, width, stride=1 if index else 2, norm=norm))
                inputs = width
            stages.append(nn.Sequential(*layers))
        self.body = nn.ModuleList(stages)
        self.head = nn.Linear(inputs, num_classes)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The output of each stage."""
        features: list[Tensor] = []
        x = F.relu(self.stem(images))  # (B, widths[0], H, W)
        for stage in self.body:
            x = stage(x)  # (B, its width, h / 2, w / 2)
            features.append(x)
        return features

    def embed(self, images: Tensor) -> Tensor:
        """The last stage averaged over space."""
        return self.stages(images)[-1].mean((2, 3))  # (B, D)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return cast("Tensor", self.head(self.embed(images)))  # (B, K)


KINDS: dict[str, Callable[..., nn.Module]] = {"plain": PlainNetwork, "residual": ResidualNetwork}


def build_network(kind: str, arguments: dict[str, Any], *, norm: bool = False) -> nn.Module:
    """A network of a registered kind.

    Args:
        kind: a key of `KINDS`.
        arguments: keyword arguments of that class but `norm`; lists (from JSON) do for tuples.
        norm: True to train it, False for the folded form.

    Raises:
        KeyError: no such kind.
    """
    return KINDS[kind](**arguments, norm=norm)


def normalise_channels(features: Tensor, eps: float = ZERO_GUARD) -> Tensor:
    """Each position's feature vector divided by its length: (B, C, h, w), the same shape.

    `eps` stands inside the root: a vector of zeros stays zeros and has a finite gradient, where a plain norm has NaN.
    """
    # Times rsqrt rather than over sqrt: the backward of a product is a third quicker.
    return features * (features.square().sum(1, keepdim=True) + eps**2).rsqrt()


def fold(trained: nn.Module, folded: nn.Module) -> nn.Module:
    """Write a trained network into one built with `norm=False`, batch normalisation multiplied into the convolutions.

    With running mean m, variance q, scale g and shift b, the normalised convolution g (W x - m) / sqrt(q + eps) + b is
    the convolution with weights W g / sqrt(q + eps) and bias b - m g / sqrt(q + eps). Computed in float64.

    Args:
        trained: a network of `build_network(..., norm=True)`.
        folded: the same network of `build_network(..., norm=False)`; changed in place.

    Returns:
        `folded` in eval mode; its outputs equal those of `trained` in eval mode up to rounding.
    """
    sources, state = dict(trained.named_modules()), trained.state_dict()
    for name, target in folded.named_modules():
        if not isinstance(target, Convolution):
            continue
        source = cast("Convolution", sources[name])
        norm = cast("nn.BatchNorm2d", source.norm)
        mean, variance = cast("Tensor", norm.running_mean).double(), cast("Tensor", norm.running_var).double()
        factor = norm.weight.double() / torch.sqrt(variance + norm.eps)
        state[f"{name}.conv.weight"] = (source.conv.weight.double() * factor[:, None, None, None]).float()
        state[f"{name}.conv.bias"] = (norm.bias.double() - mean * factor).float()
    folded.load_state_dict({key: value for key, value in state.items() if ".norm." not in key})
    return folded.eval()
