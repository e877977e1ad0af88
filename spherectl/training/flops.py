"""Floating-point operations of training, for each image: of products alone, a multiplication and an addition being two.

The two transformers are counted in closed form, from their sizes: to run a step through torch's counter takes seconds
even on tensors without numbers, and loads torch's compiler. The tests hold both against each other. Of the perceptual
networks, which are convolutions of whatever shape, one pass is run and counted.

Letters: N tokens, D width, h hidden width of SwiGLU, d token channels, p patch size, K channels that leave D's
trunk, k in-context tokens. All counts are of one image.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from spherectl.features import imagenet
from spherectl.features.networks import build_network
from spherectl.features.store import find_feature_network, read_feature_header
from spherectl.model.vit import CHANNELS, CONV_HEAD_CHANNELS
from spherectl.recipe import SIZES, ModelSpec, Recipe, Size
from spherectl.registry import NETWORKS
from spherectl.training.perceptual import FeatureDistance, ImageNetDistance, PerceptualDistance

# Channels at the ends of VGG16's five stages.
LPIPS_CHANNELS = (64, 128, 256, 512, 512)

# A product in the forward pass is followed by two in the backward pass: its gradients to both factors.
PASSES = 3


def training_gflop(recipe: Recipe) -> float | None:
    """GFLOP (10^9 operations) of a training step for each image: forward and backward of the whole objective.

    None where the kind of network does not say (`registry.NetworkKind.gflop`).

    What is no product (norms, activations, optimiser, average) is left out, as is usual.

    Args:
        recipe: its number of classes is known.

    Raises:
        UsageError: the number of classes is still "auto", or the zoo has no such feature network.
        FileError: the feature network cannot be read.
    """
    gflop = NETWORKS[recipe.model.kind].gflop
    return None if gflop is None else gflop(recipe)


def sphere_gflop(recipe: Recipe) -> float:
    """`training_gflop` of a Sphere Encoder: E(x), D of two latents, E(x_large), and the perceptual part."""
    return step_gflop(recipe.model) + perceptual_gflop(recipe)


def step_gflop(spec: ModelSpec) -> float:
    """`sphere_gflop` without the perceptual part."""
    forward = 2 * encoder_flop(spec, spec.channels_per_token) + 2 * decoder_flop(spec)
    return both_ways_gflop(spec, forward)


def both_ways_gflop(spec: ModelSpec, forward: float) -> float:
    """GFLOP of forward and backward passes for each image.

    Args:
        spec: of networks that begin with a linear of patches.
        forward: operations of their forward passes.
    """
    patches = linear_flop(spec.tokens, CHANNELS * spec.patch**2, SIZES[spec.size].width)
    return (PASSES * forward - patches) / 1e9  # the images that come in need no gradient


def perceptual_gflop(recipe: Recipe, backward: int | None = None) -> float:
    """GFLOP of the perceptual part for each image of a step; 0 where the recipe leaves it out.

    The networks are frozen, so a backward pass costs as much as a forward pass, and the image itself has none.

    Args:
        recipe: names the networks.
        backward: decoded images whose features are compared with those of the image; None: a Sphere Encoder's x_small
            and x_large, as far as the weights of the loss ask for them.

    Raises:
        UsageError: the zoo has no such feature network.
        FileError: it cannot be read.
    """
    loss = recipe.loss
    if backward is None:
        backward = bool(loss.rec_perceptual) + bool(loss.con_perceptual)
    if loss.perceptual == "none" or not backward:
        return 0.0
    forward = 1 + backward
    return (forward + backward) * _features_gflop(loss.features, recipe.model.image_size)


def published_distance() -> PerceptualDistance:
    """VGG16 and ConvNeXt-Small in the paper's loss, as shapes alone."""
    from torchvision.models import convnext_small, vgg16

    with torch.device("meta"):
        lpips = imagenet.LpipsFeatures(vgg16(weights=None).features, [torch.empty(c) for c in LPIPS_CHANNELS])
        return ImageNetDistance(lpips, imagenet.ConvNextLogits(convnext_small(weights=None))).eval()


def encoder_flop(spec: ModelSpec, d: int) -> float:
    """E forward, with d channels a token at its end."""
    N, D = spec.tokens, SIZES[spec.size].width
    embed = linear_flop(N, CHANNELS * spec.patch**2, D) + linear_flop(N, D, D)
    return embed + trunk_flop(spec, SIZES[spec.size], d) + spec.encoder_mixer_blocks * _mixer_block(N, d)


def decoder_flop(spec: ModelSpec) -> float:
    """D forward, of one latent."""
    size = SIZES[spec.decoder_size or spec.size]
    N, D, p = spec.tokens, size.width, spec.patch
    embed = linear_flop(N, spec.channels_per_token, D) + spec.decoder_mixer_blocks * _mixer_block(N, D)
    if spec.pixel_head == "linear":
        K = CHANNELS * p**2
        head = linear_flop(spec.image_size**2, 3 * 3 * CHANNELS, CHANNELS)  # 3x3 over the image
    else:
        K = CONV_HEAD_CHANNELS
        head = linear_flop(N, 3 * 3 * K, K)  # 3x3 over the grid
        head += linear_flop(N, K, CHANNELS * (p + 2) ** 2)  # each place of the grid to (p + 2)^2 pixels
    return embed + trunk_flop(spec, size, K) + head


def trunk_flop(spec: ModelSpec, size: Size, channels: int) -> float:
    """Blocks and output linear, with the modulations of a label."""
    N, D, k = spec.tokens, size.width, spec.in_context_tokens
    blocks = size.blocks // (2 if spec.halve_depth else 1)
    longer = max(0, blocks - size.in_context_start) if k else 0
    modulation = linear_flop(1, D, D) if spec.classes else 0.0  # of one part: shift, scale or gate
    total = (blocks - longer) * _block(N, D) + longer * _block(N + k, D) + linear_flop(N, D, channels)
    return total + (6 * blocks + 2) * modulation


def _block(N: int, D: int) -> float:
    """Attention and SwiGLU over N tokens."""
    h = D * 8 // 3
    # Between the linears: q k^T and the weighted sum, N N D each.
    attention = linear_flop(N, D, 3 * D) + 2 * linear_flop(N, D, N) + linear_flop(N, D, D)
    return attention + linear_flop(N, D, 2 * h) + linear_flop(N, h, D)


def _mixer_block(N: int, channels: int) -> float:
    """Two linears over the tokens, two over the channels."""
    return 2 * linear_flop(channels, N, N) + 2 * linear_flop(N, channels, 2 * channels)


def linear_flop(rows: int, inputs: int, outputs: int) -> float:
    """A product of matrices."""
    return 2.0 * rows * inputs * outputs


@functools.cache
def _features_gflop(name: str, image_size: int) -> float:
    """One forward pass of the frozen networks over one image.

    Args:
        name: of a feature network; empty for the published pair.
        image_size: side of the image.
    """
    distance = _feature_distance(name) if name else published_distance()
    operations = 0.0

    def count(layer: Any, _: Any, out: Tensor) -> None:
        nonlocal operations
        operations += 2.0 * out.numel() * layer.weight[0].numel()  # each output is a sum over one row of the weights

    for module in distance.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        distance.features(torch.zeros(1, CHANNELS, image_size, image_size, device=next(distance.parameters()).device))
    return operations / 1e9


def _feature_distance(name: str) -> PerceptualDistance:
    """A feature network's distance, with whatever weights.

    Such networks are small enough to be run: as shapes alone they would load torch's compiler, which takes seconds.
    """
    header = read_feature_header(find_feature_network(name))
    return FeatureDistance(build_network(header["kind"], header["arguments"])).eval()
