"""The training objective of section 4, over any encode and decode callables, and one part of ours beside its five.

Shapes: B batch (all processes together), images (B, 3, H, W), latents (B, ...) whose entries after the first axis form
one point of the sphere. Images are in [0, 1] here; the callables see and return [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spherectl.errors import UsageError
from spherectl.model import seeding
from spherectl.model.geometry import at_least_float32, perturb, spherify
from spherectl.model.sampler import Network

COSINE_GUARD = 1e-8


class Perceptual(Protocol):
    """A perceptual distance by features, so that those of one image serve in several distances."""

    def features(self, images: Tensor) -> list[Tensor]:
        """What is compared of (B, 3, H, W) images in [0, 1]."""

    def compare(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        """Mean distance over the batch, a scalar."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the five parts, in the order of section 4, and of a sixth, `centre`, which is ours and off.

    >>> import spherectl
    >>> spherectl.LossWeights(latent=0.2).con
    0.5
    """

    rec: float = 1.0
    rec_perceptual: float = 1.0
    con: float = 0.5
    con_perceptual: float = 0.5
    latent: float = 0.1
    centre: float = 0.0


@dataclass(frozen=True)
class TrainingNoise:
    """Everything random in one training step.

    Attributes:
        large: (B,) r_large, in units of sigma_max.
        small: (B,) r_small.
        noise: (B, ...) e, shaped like the latents.
        labels_encode: (B,) labels after dropout for z = E(x, y); None for unconditional networks.
        labels_decode: (2 B,) the same for D([v_large; v_small]).
        labels_again: (B,) the same for z_large = E(x_large, y).

    >>> import spherectl
    >>> noise = spherectl.training_noise(0, 0, None, batch=8, latent_shape=(16, 8), hard_ratio=1.5)
    >>> noise.noise.shape, noise.labels_encode
    (torch.Size([8, 16, 8]), None)
    """

    large: Tensor
    small: Tensor
    noise: Tensor
    labels_encode: Tensor | None = None
    labels_decode: Tensor | None = None
    labels_again: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """Weighted parts, their sum, and what they were computed from.

    Attributes:
        total, rec, rec_perceptual, con, con_perceptual, latent, centre: scalars; the parts sum to `total`.
        x_large, x_small: (B, 3, H, W) decoded images in [-1, 1].
        z_large, z_clean: (B, ...) latents before f; `z_clean` without gradient.

    >>> import spherectl, torch
    >>> model = spherectl.load("fashion-mnist", device="cpu", dtype="float32").train()
    >>> y = torch.arange(4)
    >>> noise = spherectl.training_noise(0, 0, y, batch=4, latent_shape=(64, 8), hard_ratio=1.5, num_classes=10)
    >>> losses = spherectl.objective(model.encoder, model.decoder, torch.rand(4, 3, 32, 32), noise, sigma_max=5.67)
    >>> bool(torch.isclose(losses.total, losses.rec + losses.con + losses.latent))
    True
    """

    total: Tensor
    rec: Tensor
    rec_perceptual: Tensor
    con: Tensor
    con_perceptual: Tensor
    latent: Tensor
    centre: Tensor
    x_large: Tensor
    x_small: Tensor
    z_large: Tensor
    z_clean: Tensor


def objective(
    encode: Network,
    decode: Network,
    images: Tensor,
    noise: TrainingNoise,
    *,
    sigma_max: float,
    weights: LossWeights | None = None,
    perceptual: Perceptual | None = None,
) -> Losses:
    """One step's loss, of section 4; call `.total.backward()`.

    Args:
        encode: (B, 3, H, W) in [-1, 1] and labels to latents before f.
        decode: points on the sphere and labels to images in [-1, 1].
        images: (B, 3, H, W) in [0, 1].
        noise: from `training_noise`, or one's own.
        sigma_max: tan(angle_max).
        weights: defaults to those of the CIFAR-10 recipe.
        perceptual: distance P; None leaves both perceptual parts out.

    >>> import spherectl, torch
    >>> encode, decode = torch.nn.Linear(12, 8), torch.nn.Linear(8, 12)
    >>> noise = spherectl.training_noise(0, 0, None, batch=4, latent_shape=(8,), hard_ratio=1.5)
    >>> losses = spherectl.objective(
    ...     lambda x, y: encode(x.flatten(1)),
    ...     lambda v, y: decode(v).tanh().reshape(-1, 3, 2, 2),
    ...     torch.rand(4, 3, 2, 2),
    ...     noise,
    ...     sigma_max=5.67,
    ... )
    >>> losses.total.backward()
    """
    w = weights or LossWeights()
    # 1. z = E(x, y); v = f(z)
    z = encode(images * 2 - 1, noise.labels_encode)
    v = spherify(z)
    z_clean = z.detach()
    # 3. v_large = f(v + r_large sigma_max e); v_small with the same e
    v_large = perturb(v, noise.large * sigma_max, noise.noise.to(v.dtype))
    v_small = perturb(v, noise.small * sigma_max, noise.noise.to(v.dtype))
    # 4. x_large, x_small = D([v_large; v_small], [y; y])
    x_large, x_small = decode(torch.cat((v_large, v_small)), noise.labels_decode).chunk(2)
    # 5. z_large = E(x_large, y)
    z_large = encode(x_large, noise.labels_again)
    # 6. the five parts, on images in [0, 1], in float32 at least
    large01, small01 = at_least_float32(x_large) / 2 + 0.5, at_least_float32(x_small) / 2 + 0.5
    target01 = at_least_float32(images).to(small01.dtype)
    zero = small01.new_zeros(())
    rec = w.rec * F.smooth_l1_loss(small01, target01)
    con = w.con * F.smooth_l1_loss(large01, small01.detach())
    rec_p = con_p = zero
    if perceptual is not None and (w.rec_perceptual or w.con_perceptual):
        small = perceptual.features(small01)  # of x_small once: compared with x, and compared to by x_large
        if w.rec_perceptual:
            with torch.no_grad():
                target = perceptual.features(target01)
            rec_p = w.rec_perceptual * perceptual.compare(small, target)
        if w.con_perceptual:
            still = [features.detach() for features in small]
            con_p = w.con_perceptual * perceptual.compare(perceptual.features(large01), still)
    latent = w.latent * (1 - cosine(z_large, z_clean)).mean()
    centre = w.centre * class_cosine(v, noise.labels_encode) if w.centre else zero
    total = rec + rec_p + con + con_p + latent + centre
    return Losses(total, rec, rec_p, con, con_p, latent, centre, x_large, x_small, z_large, z_clean)


# a.b / max(|a| |b|, 1e-8), over the whole latent: at the start values z is exactly 0
def cosine(a: Tensor, b: Tensor) -> Tensor:
    """(B,) cosines between (B, ...) latents."""
    a, b = at_least_float32(a).flatten(1), at_least_float32(b).flatten(1)
    # sqrt has no finite gradient at 0, where the guard decides anyway: keep the product of squares away from it.
    norms = (a.square().sum(-1) * b.square().sum(-1)).clamp_min(COSINE_GUARD**2).sqrt()
    return (a * b).sum(-1) / norms


# mean over i != j with y_i = y_j of v_i.v_j / (|v_i| |v_j|): its expectation is the squared length of a class's mean
def class_cosine(v: Tensor, labels: Tensor | None) -> Tensor:
    """Mean cosine between the latents of a class, which weighs down the part that all of them share.

    Sampling begins at points without that part, so a decoder that relied on it in training makes worse images of them.

    Args:
        v: (B, ...) points on the sphere, or latents before f.
        labels: (B,), the null class a class like the others; None: all of one class.

    Returns:
        A scalar from -1 to 1; 0 where no two images share a class.
    """
    directions = F.normalize(at_least_float32(v).flatten(1), dim=1, eps=COSINE_GUARD)
    with torch.autocast(v.device.type, enabled=False):
        cosines = directions @ directions.T
    same = torch.ones_like(cosines) if labels is None else (labels[:, None] == labels).to(cosines)
    same = same.fill_diagonal_(0)
    return (cosines * same).sum() / same.sum().clamp_min(1)


# {(i + u_i) / (B - 2)}, i = 0 .. B - 3, one exact 1, one exact 0, shuffled; u_i in [0.001, 1)
def stratified(u: Tensor, order: Tensor) -> Tensor:
    """Radii in [0, 1], stratified over the batch.

    Args:
        u: (B,) uniforms in (0, 1); the first B - 2 are used.
        order: (B,) permutation.

    Returns:
        (B,) in the dtype of `u`.
    """
    inner = len(u) - 2
    steps = (torch.arange(inner, device=u.device) + (0.001 + 0.999 * u[:inner])) / inner
    return torch.cat((steps, u.new_ones(1), u.new_zeros(1)))[order]


# r = 1 + u (tan(angle_hard) / sigma_max - 1) with probability p; one u decides and places, unless a second is given
def with_hard_cases(r: Tensor, u: Tensor, hard_ratio: float, probability: float, place: Tensor | None = None) -> Tensor:
    """Replace some radii by ones beyond 1.

    Args:
        r: (B,) radii.
        u: (B,) uniforms that decide.
        hard_ratio: tan(angle_hard) / sigma_max.
        probability: share of hard cases.
        place: (B,) uniforms that place; None: `u`, as in the published implementation.
    """
    return torch.where(u <= probability, 1 + (u if place is None else place) * (hard_ratio - 1), r)


def training_noise(
    seed: int,
    first_image: int,
    labels: Tensor | None,
    *,
    batch: int,
    latent_shape: tuple[int, ...],
    hard_ratio: float,
    part: tuple[int, int] | None = None,
    num_classes: int = 0,
    hard_probability: float = 0.1,
    hard_cases: str = "reference",
    label_dropout: float = 0.1,
    device: torch.device | str = "cpu",
) -> TrainingNoise:
    """Everything random in the step that starts at image `first_image`: the same on any device or process.

    Args:
        seed: of the run.
        first_image: images seen before this step, over all processes.
        labels: class labels of the images in `part`, or None for unconditional networks.
        batch: B, at least 3, over all processes.
        latent_shape: shape of one latent, (N, d).
        hard_ratio: tan(angle_hard) / sigma_max.
        part: first image of the batch that is wanted, and the one after the last; None: all B. A process or micro-batch
            gets what the whole batch would have given it.
        num_classes: the null class's label.
        hard_probability: share of hard cases.
        hard_cases: "reference" (one number decides and places) or "full" (two numbers).
        label_dropout: probability of the null class, decided anew for each call of a network.
        device: of the result.

    Raises:
        UsageError: a batch under 3, which has no room for the two exact radii and a third.

    >>> import spherectl
    >>> spherectl.training_noise(0, 0, None, batch=4, latent_shape=(16, 8), hard_ratio=1.5).large.shape
    torch.Size([4])
    """
    if batch < 3:
        raise UsageError(f"The global batch must be at least 3 to stratify the noise; got {batch}.")
    start, stop = part or (0, batch)
    on_mps = torch.device(device).type == "mps"  # which has no float64
    source = "cpu" if on_mps else device
    images = torch.arange(first_image, first_image + batch, device=source)
    own = images[start:stop]

    def radii(stream: int, shuffle_round: int) -> Tensor:
        u = seeding.uniform(seed, stream, images, 1)[:, 0]
        order = seeding.permutation(seed, seeding.SHUFFLE, first_image, batch, shuffle_round, source)
        return stratified(u, order)[start:stop]

    r = radii(seeding.RADII, 0)
    small = 0.5 * r * radii(seeding.ANCHOR, 1)
    u = seeding.uniform(seed, seeding.HARD, own, 2)
    large = with_hard_cases(r, u[:, 0], hard_ratio, hard_probability, u[:, 1] if hard_cases == "full" else None)
    if on_mps:
        large, small = large.float(), small.float()
    noise = seeding.noise(seed, seeding.TRAINING, own, latent_shape)
    moved = large.to(device), small.to(device), noise.to(device)
    if labels is None or num_classes == 0:
        return TrainingNoise(*moved)

    def dropped(stream: int, word: int) -> Tensor:
        return seeding.with_null(seed, stream, own, labels, num_classes, label_dropout, word)

    decode_labels = torch.cat((dropped(seeding.DROP_D, 0), dropped(seeding.DROP_D, 1)))
    return TrainingNoise(*moved, dropped(seeding.DROP_E, 0), decode_labels, dropped(seeding.DROP_E2, 0))
