"""The sphere: f, noise as an angle, the great-circle path (section 2 of the method, arXiv 2602.15030), effective rank.

Shapes: B batch; a latent is one vector of length L whatever its axes are, (B, N, d) for the transformer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-6


def at_least_float32(x: Tensor) -> Tensor:
    """x itself in float32 or float64, else x in float32: statistics and losses are never computed in less."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


# f(z) = z / sqrt(mean(z^2) + 1e-6), the mean over all entries of one latent
def spherify(z: Tensor) -> Tensor:
    """Project latents onto the sphere of RMS 1, that is of norm sqrt(L).

    Args:
        z: (B, ...) latents; all axes but the first belong to one point.

    Returns:
        Same shape; float32 for half-precision input, else the dtype of `z`.
    """
    z = at_least_float32(z)
    power = z.square()
    while power.dim() > 1:  # one axis at a time: a sum's order then never depends on batch or threads
        power = power.mean(-1)
    return z * (power + EPSILON).rsqrt().reshape(-1, *[1] * (z.dim() - 1))


# sigma = tan(angle): f(v + sigma e) is v rotated by about that angle: e is nearly orthogonal to v and of its norm
def strength(angle_deg: float) -> float:
    """Noise strength sigma of an angle in degrees, 0 <= angle_deg < 90."""
    return math.tan(math.radians(angle_deg))


# f(v + sigma e); v itself where sigma is exactly 0
def perturb(v: Tensor, sigma: Tensor | float, e: Tensor) -> Tensor:
    """Rotate points on the sphere by noise.

    Args:
        v: (B, ...) points on the sphere.
        sigma: strength, one number or (B,).
        e: noise of v's shape.
    """
    s = torch.as_tensor(sigma, dtype=v.dtype, device=v.device).expand(v.shape[0])
    s = s.reshape(-1, *[1] * (v.dim() - 1))
    return torch.where(s == 0, v, spherify(v + s * e))


# slerp over the whole latent: (sin((1-t) w) a + sin(t w) b) / sin w, w the angle between a and b
def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Points on the great circle from a (t = 0) to b (t = 1).

    Args:
        a, b: (B, ...) points on the sphere; each latent is one vector.
        t: one number or (B,).

    Returns:
        (B, ...) points of a's norm; where a and b (nearly) coincide or oppose, linear interpolation put back on the
        sphere.
    """
    shape, a, b = a.shape, a.flatten(1), b.flatten(1)
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device).expand(len(a))[:, None]
    cos = (a * b).sum(-1, keepdim=True) / (a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True))
    omega = cos.clamp(-1, 1).acos()
    near = omega.sin().abs() < 1e-6
    sin = torch.where(near, 1.0, omega.sin())
    arc = (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / sin
    chord = torch.lerp(a, b, t)
    return torch.where(near, spherify(chord), arc).reshape(shape)


# exp(-sum p ln p), p the eigenvalues of the second-moment matrix X^T X / n (Roy and Vetterli, EUSIPCO 2007)
def effective_rank(unit: Tensor, gram: Tensor | None = None) -> float:
    """How many directions points on a sphere use: 1 on one line, L spread evenly over all, never more than n.

    Args:
        unit: (n, L) rows of length 1.
        gram: unit @ unit.T, where it is known already.
    """
    count, width = unit.shape
    # The nonzero eigenvalues of X^T X and X X^T are the same, and sum to the n unit lengths.
    if count <= width:
        smaller = unit @ unit.T if gram is None else gram  # (n, n)
    else:
        smaller = unit.T @ unit  # (L, L)
    eigenvalues = torch.linalg.eigvalsh(smaller.to("cpu", torch.float64) / count)
    return math.exp(float(torch.special.entr(eigenvalues.clamp(min=0)).sum()))
