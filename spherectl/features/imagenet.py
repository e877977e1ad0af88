"""The two ImageNet networks of the published loss: LPIPS on VGG16, and the logits of ConvNeXt-Small.

LPIPS (Zhang et al., CVPR 2018), version 0.1: features of five stages of VGG16, each position's vector brought to
length 1, differences squared, weighted by learned non-negative weights (from the package `lpips`), summed over
channels, averaged over space, summed over stages. The networks' weights are torchvision's IMAGENET1K_V1 files, fetched
once into the cache and checked against their SHA-256 (whose first digits torchvision writes into their names).

Letters: B batch, C channels, H and W image sides, h and w feature sides.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl.errors import FileError, UsageError
from spherectl.features.networks import normalise_channels
from spherectl.features.records import Source
from spherectl.features.records.lpips_convnext import CONVNEXT_SMALL, VGG16
from spherectl.fetch import fetch_url
from spherectl.model.formats.pickles import read_tensors
from spherectl.progress import Progress

# Ends of relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 in torchvision's `vgg16().features`.
_VGG_STAGE_ENDS = (4, 9, 16, 23, 30)

# VGG16 halves its images four times before the last stage.
SMALLEST_PX = 16

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONVNEXT_SIDE = 224

_AGAIN = "Remove it, then fetch or install it again."


class LpipsFeatures(nn.Module):
    """Weighted unit features of VGG16; the squared distance of two images in them is LPIPS.

    Squared differences are summed over channels, averaged over positions and summed over stages.

    Args:
        trunk: torchvision's `vgg16().features`.
        heads: five weights (C,), at least 0.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: nn.Sequential, heads: list[Tensor]) -> None:
        super().__init__()
        bounds = zip((0, *_VGG_STAGE_ENDS), _VGG_STAGE_ENDS, strict=False)
        self.trunk = nn.ModuleList(trunk[start:end] for start, end in bounds)
        # The paper's weights multiply squared differences, so their roots multiply the features.
        for index, head in enumerate(heads):
            self.register_buffer(f"root{index}", head.clamp(min=0).sqrt()[:, None, None])
        # LPIPS's scaling layer, for images in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] at their own size to five (B, C, h, w)."""
        features: list[Tensor] = []
        x = (2 * images - 1 - self.shift) / self.scale  # (B, 3, H, W)
        for index, stage in enumerate(self.trunk):
            x = stage(x)  # (B, C, H / 2^index, W / 2^index)
            unit = normalise_channels(x.to(images.dtype))  # the trunk may have run in bfloat16
            features.append(unit * cast("Tensor", getattr(self, f"root{index}")))
        return features


class ConvNextLogits(nn.Module):
    """ImageNet logits of ConvNeXt-Small for images in [0, 1] of any size.

    Args:
        network: torchvision's `convnext_small()`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1000)."""
        side = (_CONVNEXT_SIDE, _CONVNEXT_SIDE)
        resized = F.interpolate(images, side, mode="bilinear", align_corners=False, antialias=True)  # (B, 3, 224, 224)
        return cast("Tensor", self.network((resized - self.mean) / self.std)).to(images.dtype)  # (B, 1000)


def load_published(progress: Progress | None = None) -> tuple[LpipsFeatures, ConvNextLogits]:
    """Both networks, from the cache or from the network (553 and 201 MB).

    Args:
        progress: called with bytes done and bytes in all while a file is fetched.

    Raises:
        UsageError: the package `lpips` is not installed.
        SpherectlError: a file is not here and cannot be fetched; the hint says where to put it.
        FileError: a file is damaged.
    """
    return load_lpips(progress), convnext_logits(_fetch(CONVNEXT_SMALL, progress))


def load_lpips(progress: Progress | None = None) -> LpipsFeatures:
    """The half of `load_published` that LPIPS needs, from the cache or from the network (553 MB).

    Args:
        progress: called with bytes done and bytes in all while the file is fetched.

    Raises:
        UsageError: the package `lpips` is not installed.
        SpherectlError: the file is not here and cannot be fetched; the hint says where to put it.
        FileError: the file is damaged.
    """
    heads = lpips_heads()  # first: it fails at once where the file may take minutes
    return lpips_features(_fetch(VGG16, progress), heads)


def lpips_features(vgg16: Path, heads: list[Tensor]) -> LpipsFeatures:
    """`LpipsFeatures` with the weights of torchvision's VGG16 file.

    Raises:
        FileError: the file is damaged or holds other weights.
    """
    from torchvision.models import vgg16 as build

    with torch.device("meta"):  # no memory and no time for weights that the file replaces
        trunk = build(weights=None).features
    whole = read_tensors(vgg16, _AGAIN)  # its classifier, nine tenths of it, is dropped
    prefix = "features."
    _fill(trunk, {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}, vgg16)
    return LpipsFeatures(trunk, heads).eval().requires_grad_(False)


def convnext_logits(weights: Path) -> ConvNextLogits:
    """`ConvNextLogits` with the weights of torchvision's ConvNeXt-Small file.

    Raises:
        FileError: the file is damaged or holds other weights.
    """
    from torchvision.models import convnext_small

    with torch.device("meta"):
        network = convnext_small(weights=None)
    _fill(network, read_tensors(weights, _AGAIN), weights)
    return ConvNextLogits(network).eval().requires_grad_(False)


def lpips_heads() -> list[Tensor]:
    """The five learned weights (C,) of LPIPS 0.1 on VGG16, from the package `lpips`, which is not imported.

    Raises:
        UsageError: the package is not installed.
    """
    found = importlib.util.find_spec("lpips")
    if found is None or not found.submodule_search_locations:
        raise UsageError(
            'LPIPS, a score and a part of loss.perceptual = "lpips+convnext", needs the package lpips, '
            "which is not installed.",
            "Install it with spherectl's extra: pip install 'spherectl[perceptual]'.",
        )
    path = Path(next(iter(found.submodule_search_locations))) / "weights" / "v0.1" / "vgg.pth"
    state = read_tensors(path, _AGAIN)
    return [state[f"lin{index}.model.1.weight"].flatten() for index in range(len(_VGG_STAGE_ENDS))]


def _fetch(source: Source, progress: Progress | None) -> Path:
    """The file in the cache, fetched if it is not there."""
    return fetch_url(source.url, source.sha256, f"torchvision/{source.url.rpartition('/')[2]}", progress)


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    except RuntimeError:
        raise FileError(f"{path} holds other weights than {type(module).__name__} needs.", _AGAIN) from None
