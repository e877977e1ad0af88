"""Counter-based randomness: Philox-4x32-10 (Salmon et al., SC 2011) in torch integer arithmetic.

Random numbers depend on the seed, the purpose (stream), the image and the round, and on nothing else: not on batch,
device, process, worker or micro-batch. Key = (seed mod 2^32, seed div 2^32); counter = (j, i, k, stream) with j the
block of four words, i the image, k the round.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Streams: what the words are for.
INITIAL, ROUND, TRAINING, RADII, ANCHOR, HARD, DROP_E, DROP_D, DROP_E2, AUGMENT, ORDER, SHUFFLE = range(12)
START = 12  # start values of weights: i = the parameter's place in the model, k = the piece of it
MEASUREMENT = 13  # what measuring an image leaves to chance: k = 0 the missing pixels, 1 the noise
TIMES = 14  # of a diffusion model's training
FITTED = 15  # points of a Gaussian that is fitted to latents
PROJECTION = 16  # a figure's random projection (k = 0), and its uniform points (k = 1)

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox-4x32.

    Args:
        counter: four int64 tensors that broadcast together, each word in [0, 2^32).
        key: two words in [0, 2^32).

    Returns:
        Four int64 tensors of the broadcast shape, words in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64, so that the low and (masked) high halves are those of the unsigned product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(seed: int, stream: int, images: Tensor, count: int, round: int = 0) -> Tensor:
    """The first `count` words of each image's stream.

    Args:
        seed: 64-bit seed.
        stream: one of the constants above.
        images: (n,) int64 image numbers i in [0, 2^32).
        count: words wanted for each image.
        round: k, the round of sampling (0 where there is none).

    Returns:
        (n, count) int64, words in [0, 2^32), on the device of `images`.
    """
    block = torch.arange(-(-count // 4), device=images.device)[None, :]  # (1, J)
    image = images.long()[:, None]  # (n, 1)
    rest = torch.zeros_like(block)
    out = philox((block, image, rest + round, rest + stream), (seed & _MASK, seed >> 32 & _MASK))
    return torch.stack(torch.broadcast_tensors(*out), dim=-1).flatten(1)[:, :count]  # (n, J, 4) -> (n, count)


def uniform(seed: int, stream: int, images: Tensor, count: int, round: int = 0) -> Tensor:
    """(n, count) float64 uniforms u = (w + 1/2) / 2^32, strictly inside (0, 1). Arguments as for `words`."""
    return (words(seed, stream, images, count, round).double() + 0.5) / 2.0**32


def normal(seed: int, stream: int, images: Tensor, count: int, round: int = 0) -> Tensor:
    """(n, count) float64 normals by Box and Muller: r cos t, r sin t with r = sqrt(-2 ln u0), t = 2 pi u1."""
    u = uniform(seed, stream, images, count + count % 2, round)
    radius, angle = (-2.0 * u[:, 0::2].log()).sqrt(), (2.0 * math.pi) * u[:, 1::2]
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)  # (n, count/2, 2)
    return pairs.flatten(1)[:, :count]


def noise(seed: int, stream: int, images: Tensor, shape: tuple[int, ...], round: int = 0) -> Tensor:
    """Normals for latents: (n, *shape) float32, filled row by row.

    Drawn in float64 on the CPU or CUDA (MPS has no float64: drawn on the CPU there), then cast.
    """
    source = images.cpu() if images.device.type == "mps" else images
    drawn = normal(seed, stream, source, math.prod(shape), round).float()
    return drawn.to(images.device).reshape(len(images), *shape)


def permutation(
    seed: int, stream: int, index: int, n: int, round: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """(n,) int64 permutation of 0..n-1: stable argsort of the n words of counter image `index`."""
    return words(seed, stream, torch.full((1,), index, device=device), n, round)[0].argsort(stable=True)


def with_null(
    seed: int, stream: int, images: Tensor, labels: Tensor, null: int, probability: float, word: int = 0
) -> Tensor:
    """Labels (n,) of images (n,), each replaced by the null class with a probability; `word` of the stream decides."""
    chosen = uniform(seed, stream, images, word + 1)[:, word] < probability
    return torch.where(chosen.to(labels.device), null, labels)
