"""Generation: rounds of decode, encode, add noise, decode, with classifier-free guidance (section 5 of the method).

Free functions over two callables, so that any pair of networks can be sampled:
encode(x, y) -> z, images (B, 3, H, W) in [-1, 1] to latents before f; decode(v, y) -> x, points on the sphere to
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spherectl.model.geometry import at_least_float32, perturb, spherify
from spherectl.sampling import Guide, Strength

PAIRED = 16  # up to so many images, guidance computes both calls of a network as one

Network = Callable[[Tensor, Tensor | None], Tensor]
Noise = Callable[[int], Tensor]  # round k -> e_k, shaped like the latents


# s_k = 1, or 1 - k / T
def round_strength(k: int, steps: int, strength: Strength) -> float:
    """Share of sigma_max that round k of `steps` adds, k = 1 .. steps - 1."""
    return 1.0 if strength == "constant" else 1.0 - k / steps


# decoder: x = clamp(D(z, 0) + w' (D(z, y) - D(z, 0)), -1, 1); encoder: z = E(x, 0) + w' (E(x, y) - E(x, 0))
# w' = w for one of them, sqrt(w) for both
def guided(encode: Network, decode: Network, null: Tensor, scale: float, guide: Guide) -> tuple[Network, Network]:
    """Wrap both callables in classifier-free guidance.

    Args:
        encode, decode: the plain networks.
        null: (B,) labels of the null class.
        scale: guidance scale w; 1 returns the callables as they are.
        guide: which of the two is guided.
    """
    if scale == 1.0:
        return encode, decode
    w = math.sqrt(scale) if guide == "both" else scale

    def pair(network: Network, x: Tensor, y: Tensor | None) -> Tensor:
        """Without the class and with it; of few images in one call, whose every operation then has twice the work."""
        if y is None or len(x) > PAIRED:
            free, bound = network(x, null), network(x, y)
        else:
            free, bound = network(torch.cat((x, x)), torch.cat((null, y))).chunk(2)
        return free + w * (bound - free)

    def guided_encode(x: Tensor, y: Tensor | None) -> Tensor:
        return pair(encode, x, y)

    def guided_decode(v: Tensor, y: Tensor | None) -> Tensor:
        return pair(decode, v, y).clamp(-1, 1)

    return (encode if guide == "decoder" else guided_encode, decode if guide == "encoder" else guided_decode)


# e ~ N(0, I); z = f(e); x = D(z, y); then T - 1 rounds of z = f(f(E(x, y)) + s_k sigma_max e_k); x = D(z, y)
def generate(
    encode: Network,
    decode: Network,
    initial: Tensor,
    y: Tensor | None,
    *,
    steps: int,
    sigma_max: float,
    noise: Noise,
    strength: Strength = "constant",
) -> Tensor:
    """Generate images.

    Args:
        encode, decode: networks, guided or not.
        initial: (B, ...) Gaussian noise, one latent an image.
        y: (B,) labels or None.
        steps: T >= 1; each step is one pass of the decoder.
        sigma_max: tan(angle_max) of the model.
        noise: e_k for round k = 1 .. T - 1; the same for every k where the noise is shared.
        strength: constant, or falling linearly with k.

    Returns:
        (B, 3, H, W) images in [0, 1].
    """
    x = decode(spherify(initial), y)
    for k in range(1, steps):
        s = round_strength(k, steps, strength)
        x = decode(perturb(spherify(encode(x, y)), s * sigma_max, noise(k)), y)
    return to_unit(x)


# image = clamp(x / 2 + 1/2, 0, 1)
def to_unit(x: Tensor) -> Tensor:
    """Images from [-1, 1] to [0, 1], clamped; float32 at least, so that no level is lost to half precision."""
    return (at_least_float32(x) / 2 + 0.5).clamp(0, 1)
