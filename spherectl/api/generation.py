"""`spherectl.generate`: settings and classes checked, then images in finished batches, each with its own noise."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from spherectl.api.inputs import Classes, listed_classes
from spherectl.api.model import Model
from spherectl.checks import MAX_BATCH, check_seed, check_whole
from spherectl.classes import parse_classes
from spherectl.images import to_pil
from spherectl.model import sampler, seeding
from spherectl.model.devices import finish
from spherectl.recipe import SampleSpec
from spherectl.sampling import Guide, NoiseKind, Strength, options


@dataclass(frozen=True)
class Generated:
    """One finished batch.

    Attributes:
        images: (B, 3, H, W) in [0, 1], float32 (float64 of a model in float64), on the CPU.
        labels: (B,) class numbers, the null class being `num_classes`; None for unconditional models.
        indices: (B,) each image's number in the run, which with the seed decides its noise.

    >>> import spherectl
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> batch = next(spherectl.generate(model, 2, classes="bag", steps=1))
    >>> batch.labels
    tensor([8, 8])
    """

    images: Tensor
    labels: Tensor | None
    indices: Tensor

    def __len__(self) -> int:
        """Images in it."""
        return len(self.indices)

    def pil(self) -> list[Image.Image]:
        """The images as PIL images.

        >>> import spherectl
        >>> model = spherectl.load("fashion-mnist", device="cpu")
        >>> [image.size for batch in spherectl.generate(model, 3, steps=1) for image in batch.pil()]
        [(32, 32), (32, 32), (32, 32)]
        """
        return to_pil(self.images)


def generate(
    model: Model,
    count: int = 16,
    *,
    classes: Classes = None,
    steps: int | None = None,
    guidance: float | None = None,
    guide: Guide | None = None,
    noise: NoiseKind | None = None,
    strength: Strength | None = None,
    noise_deg: float | Literal["training"] | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Iterator[Generated]:
    """Generate images, in finished batches.

    Image i depends on the seed, i, its class and the settings. In float32 on a CPU it does not depend on `batch` or
    `count`, unless the model is compiled.

    Args:
        model: from `load`.
        count: images in all.
        classes: numbers or names, one or several, taken in turn; None: all classes in turn.
        steps: passes of the decoder; None takes the model's own [sample] table here and below.
        guidance: scale of classifier-free guidance; 1 is off.
        guide: the network that guidance acts on: "both", "encoder" or "decoder".
        noise: "shared", the same in all rounds, or "fresh" in each.
        strength: of the rounds' noise: "constant", or "decaying".
        noise_deg: largest angle of the rounds' noise, in degrees below 90, or "training", the largest usual one there.
        seed: 64-bit seed.
        batch: images computed together.

    Yields:
        `Generated` batches in order.

    Raises:
        UsageError: an unknown class, or a setting out of range; before anything is computed.

    >>> import spherectl
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> batches = spherectl.generate(model, 5, classes=["sneaker", "bag"], steps=2, batch=4)
    >>> [batch.labels.tolist() for batch in batches]
    [[7, 8, 7, 8], [7]]
    """
    given: dict[str, Any] = {"steps": steps, "guidance": guidance, "guide": guide}
    given |= {"noise": noise, "strength": strength, "noise_deg": noise_deg}
    settings = sample_settings(model, **given)
    count, batch = check_whole(count, "count", 1), check_whole(batch, "batch", 1, MAX_BATCH)
    seed = check_seed(seed)
    labels = spread_classes(model, count, classes)
    return _batches(model, labels, count, settings, seed, batch)


def sample_settings(model: Model, **changes: Any) -> SampleSpec:
    """The model's [sample] table with some settings changed, checked; None leaves a setting as it is.

    Raises:
        UsageError: a value of another type or out of range, or guidance of an unconditional model.
    """
    known = {option.name: option for option in options()}
    given = {
        name: known[name].check(value) if name in known else value
        for name, value in changes.items()
        if value is not None
    }
    settings: SampleSpec = model.recipe.replace(sample=given).sample
    model.check_guidance(settings.guidance)
    return settings


def spread_classes(model: Model, count: int, classes: Classes) -> Tensor | None:
    """(count,) labels: the asked classes in turn, so that they share the images evenly; None where there are none."""
    if classes is None:
        numbers = list(range(model.num_classes))
    else:
        numbers = parse_classes(listed_classes(classes), model.class_names, model.num_classes, model.name)
    if model.num_classes == 0:
        return None
    return torch.tensor(numbers)[torch.arange(count) % len(numbers)]


def _batches(
    model: Model, labels: Tensor | None, count: int, settings: SampleSpec, seed: int, batch: int
) -> Iterator[Generated]:
    for start in range(0, count, batch):
        indices = torch.arange(start, min(start + batch, count))
        computed = indices
        if model.compiled:  # for one size: the last batch is filled up with its first image
            computed = torch.cat((indices, indices[:1].expand(min(batch, count) - len(indices))))
        chosen = None if labels is None else labels[computed]
        images = sample_indices(model, computed, chosen, settings, seed)[: len(indices)]
        yield Generated(images, None if chosen is None else chosen[: len(indices)], indices)


@torch.no_grad()
def sample_indices(model: Model, indices: Tensor, labels: Tensor | None, settings: SampleSpec, seed: int) -> Tensor:
    """Images of given numbers in a run.

    Args:
        model: from `load`.
        indices: (B,) image numbers.
        labels: (B,) classes, or None.
        settings: from `sample_settings`.
        seed: of the run.

    Returns:
        (B, 3, H, W) float32 in [0, 1] on the CPU.
    """
    where, shape = indices.to(model.device), model.latent_shape
    y = None if labels is None else labels.to(model.device)
    noise, networks = seeding.noise, model.networks
    if model.watch is not None:
        timed, wait = model.watch.timed, finish(model.device)
        noise = timed("noise", noise, wait)
        networks = (timed("encoder", networks[0], wait), timed("decoder", networks[1], wait))

    @functools.cache
    def round_noise(k: int) -> Tensor:
        return noise(seed, seeding.ROUND, where, shape, k)

    if y is not None:
        networks = sampler.guided(*networks, torch.full_like(y, model.num_classes), settings.guidance, settings.guide)
    images = sampler.generate(
        *networks,
        noise(seed, seeding.INITIAL, where, shape),
        y,
        steps=settings.steps,
        sigma_max=model.recipe.round_sigma(settings),
        noise=lambda k: round_noise(1 if settings.noise == "shared" else k),
        strength=settings.strength,
    )
    return images.cpu()
