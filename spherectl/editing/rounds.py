"""Rounds of encoding and decoding that start from images (section 6).

Without noise they pull any image towards images that the model makes; with noise and a class they change its class.

Letters: B images, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from spherectl.api import Classes, Images, Model
from spherectl.api.inputs import as_images
from spherectl.checks import MAX_GUIDANCE, MAX_INDEX, MAX_STEPS, check_choice, check_number, check_seed, check_whole
from spherectl.editing.stitching import stitch
from spherectl.model import sampler, seeding
from spherectl.model.geometry import perturb, spherify, strength
from spherectl.sampling import Guide

# Settings for changing a class where a model's header has no table editing.to_class: the best of docs/editing.md.
TO_CLASS: dict[str, float] = {"noise_deg": 70.0, "guidance": 3.0, "steps": 4}


# z = f(f(E(x, y)) + tan(a) e_k); x = D(z, y); at 0 degrees z = f(E(x, y))
def rounds(
    model: Model,
    images: Images,
    classes: Classes = None,
    *,
    count: int,
    noise_deg: float = 0.0,
    noise: Literal["shared", "fresh"] = "shared",
    guidance: float = 1.0,
    guide: Guide = "both",
    seed: int = 0,
    first_index: int = 0,
    first_round: int = 1,
) -> Iterator[Tensor]:
    """Encode and decode for several rounds; each round takes the image of the last one, unclamped and unrounded.

    Args:
        model: from `spherectl.load`.
        images: B, as for `Model.encode`.
        classes: one for all or for each image, numbers or names; None: the null class. It need not be the image's own.
        count: rounds, at least 1.
        noise_deg: angle by which each round rotates the latents at random, from 0 to below 90.
        noise: "shared", the same in all rounds, or "fresh" in each.
        guidance: scale of classifier-free guidance; 1 is off.
        guide: which network it acts on.
        seed: of the noise.
        first_index: number of the first image; with the seed it decides an image's noise.
        first_round: number of the first round, which decides fresh noise; for a caller that goes on after other rounds.

    Yields:
        After each round (B, 3, H, W) float32 in [0, 1]. The first without noise and guidance is the reconstruction.

    Raises:
        UsageError: an argument is out of range; before anything is computed.
    """
    count = check_whole(count, "count", 1, MAX_STEPS)
    noise_deg = check_number(noise_deg, "noise_deg", 0, below=90)
    guidance = check_number(guidance, "guidance", 1, MAX_GUIDANCE)
    noise, guide = check_choice(noise, ("shared", "fresh"), "noise"), check_choice(guide, get_args(Guide), "guide")
    seed = check_seed(seed)
    first_index = check_whole(first_index, "first_index", 0, MAX_INDEX)
    first_round = check_whole(first_round, "first_round", 1, MAX_STEPS)
    model.check_guidance(guidance)
    images = as_images(images, model.recipe)
    y = model.labels(classes, len(images))
    networks: tuple[sampler.Network, sampler.Network] = (model.network.encoder, model.network.decoder)
    if y is not None:
        networks = sampler.guided(*networks, _null_like(y, model.num_classes), guidance, guide)
    indices = torch.arange(first_index, first_index + len(images), device=model.device)

    def rotate(v: Tensor, k: int) -> Tensor:
        if noise_deg == 0:
            return v
        noise_round = 1 if noise == "shared" else first_round + k - 1
        return perturb(
            v, strength(noise_deg), seeding.noise(seed, seeding.ROUND, indices, tuple(v.shape[1:]), noise_round)
        )

    return _rounds(networks, (images.to(model.device) * 2 - 1).to(model.dtype), y, count, rotate)


@torch.no_grad()
def _rounds(
    networks: tuple[sampler.Network, sampler.Network],
    x: Tensor,
    y: Tensor | None,
    count: int,
    rotate: Callable[[Tensor, int], Tensor],
) -> Iterator[Tensor]:
    encode, decode = networks
    dtype = x.dtype
    for k in range(1, count + 1):
        x = decode(rotate(spherify(encode(x, y)), k).to(dtype), y)
        yield sampler.to_unit(x).cpu()
        x = x.to(dtype)


def _null_like(y: Tensor, null: int) -> Tensor:
    """The null class for each image, in the form of `y`: labels or weights."""
    if not y.is_floating_point():
        return torch.full_like(y, null)
    weights = torch.zeros_like(y)
    weights[:, null] = 1
    return weights


def decode(model: Model, latents: Tensor, classes: Classes = None, *, steps: int = 1) -> Tensor:
    """Images of latents, (B, 3, H, W) float32 in [0, 1] on the CPU.

    Args:
        model: from `spherectl.load`.
        latents: (B, N, d).
        classes: one for each; None: the null class.
        steps: 1 decodes; each further one is a round of encoding and decoding without noise.
    """
    steps = check_whole(steps, "steps", 1, MAX_STEPS)
    images = model.decode(latents, classes).cpu()
    if steps > 1:
        *_, images = rounds(model, images, classes, count=steps - 1)
    return images


def class_change(model: Model) -> dict[str, Any]:
    """The settings by which a model changes classes: noise_deg, guidance, steps."""
    own: dict[str, Any] = model.header.get("editing", {}).get("to_class", {})
    return TO_CLASS | own


def harmonise(model: Model, a: Tensor, b: Tensor, mask: Tensor, *, count: int, **options: object) -> list[Tensor]:
    """Stitch images and let rounds with the null class remove the seam.

    Args:
        model: from `spherectl.load`.
        a, b: (B, 3, H, W) in [0, 1].
        mask: (H, W) in [0, 1]; 1 shows a (`stitching.layout_mask`).
        count: rounds.
        options: of `rounds`, such as `noise_deg`.

    Returns:
        The stitched images, then those after each round.
    """
    stitched = stitch(a, b, mask)
    return [stitched, *rounds(model, stitched, None, count=count, **options)]  # type: ignore[arg-type]


# D(f(f(E(x, y)) + tan(a) e))
def through_noise(
    model: Model, images: Tensor, angles_deg: Sequence[float], classes: Classes = None, seed: int = 0
) -> list[Tensor]:
    """Reconstructions through noise of several angles: how far a latent can be rotated and still show its image.

    Args:
        model: from `spherectl.load`.
        images: (B, 3, H, W) in [0, 1].
        angles_deg: each from 0, the plain reconstruction, to below 90.
        classes: of the images; None: the null class.
        seed: of the noise, which is the same for all angles.
    """
    return [next(rounds(model, images, classes, count=1, noise_deg=angle, seed=seed)) for angle in angles_deg]
