"""The sphere against its closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from spherectl.model.geometry import effective_rank, perturb, slerp, spherify, strength
from spherectl.model.sampler import to_unit

pytestmark = pytest.mark.fast


def points(n: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.linspace(-2, 3, n * 5 * 4, dtype=dtype).sin().reshape(n, 5, 4)


def test_spherify_takes_half_precision_to_float32() -> None:
    z = points(dtype=torch.float32).bfloat16()
    assert spherify(z).dtype == torch.float32
    assert torch.equal(spherify(z), spherify(z.float()))


def test_large_latents_do_not_depend_on_batch_or_threads() -> None:
    z = torch.linspace(-3, 7, 4 * 1024 * 128).cos().reshape(4, 1024, 128)
    before, together = torch.get_num_threads(), spherify(z)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(spherify(z[2:3]), together[2:3])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("degrees", [0, 30, 45, 80, 89])
def test_strength_is_the_tangent(degrees: float) -> None:
    e, v = torch.zeros(1, 1, 1000, dtype=torch.float64), torch.zeros(1, 1, 1000, dtype=torch.float64)
    v[0, 0, 0] = e[0, 0, 1] = math.sqrt(1000)  # orthogonal, of norm sqrt(L)
    rotated = perturb(v, strength(degrees), e)
    cos = float((rotated * v).sum() / (rotated.norm() * v.norm()))
    assert math.degrees(math.acos(min(cos, 1))) == pytest.approx(degrees, abs=1e-3)


def test_perturb_keeps_the_point_itself_where_the_strength_is_zero() -> None:
    v = points() * 3  # not on the sphere, so that projecting it would show
    out = perturb(v, torch.tensor([0.0, 1.0, 0.0]), points())
    assert torch.equal(out[0], v[0])
    assert torch.equal(out[2], v[2])
    torch.testing.assert_close(out[1], spherify(v[1:2] + points()[1:2])[0])


def test_slerp_meets_its_ends_and_moves_at_constant_speed_and_between_equal_points_is_the_point() -> None:
    # Exactly of RMS 1: the 1e-6 in f leaves norms that differ in the sixth digit, and so would the speed.
    a, b = (z / z.square().mean((1, 2), keepdim=True).sqrt() for z in (points(), points().flip(0) + 0.3))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.0, 0.5, 1.0])), a, rtol=1e-6, atol=1e-6)

    def angle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        cos = (x * y).flatten(1).sum(-1) / (x.flatten(1).norm(dim=-1) * y.flatten(1).norm(dim=-1))
        return cos.clamp(-1, 1).acos()

    torch.testing.assert_close(angle(a, slerp(a, b, 0.25)), 0.25 * angle(a, b), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        slerp(a, b, 0.4).square().mean(dim=(1, 2)), torch.ones(3, dtype=a.dtype), rtol=1e-5, atol=0
    )


def test_to_unit_clamps_and_widens() -> None:
    out = to_unit(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0]).bfloat16())
    assert out.dtype == torch.float32
    assert out.tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("width", [16, 400])
def test_the_rank_is_the_exponential_of_the_entropy(width: int) -> None:
    shares = (0.5, 0.3, 0.2)
    directions = torch.eye(width)[torch.tensor([0] * 50 + [1] * 30 + [2] * 20)]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(directions) == pytest.approx(expected)
    assert effective_rank(directions, directions @ directions.T) == pytest.approx(expected)
