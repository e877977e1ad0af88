"""Rounds and guidance over callables whose result can be written down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spherectl.model.geometry import spherify
from spherectl.model.sampler import generate, guided, round_strength, to_unit

pytestmark = pytest.mark.fast

NULL = torch.tensor([9, 9])
Y = torch.tensor([1, 2])


def encode(x: Tensor, y: Tensor | None) -> Tensor:
    assert y is not None
    return x.flatten(1)[:, None] * 2 + y[:, None, None]


def decode(v: Tensor, y: Tensor | None) -> Tensor:
    assert y is not None
    return (v[:, 0] * 0.2 + 0.05 * y[:, None]).reshape(-1, 3, 2, 2)


def ramp(shift: float = 0) -> Tensor:
    return (torch.linspace(-2, 3, 24, dtype=torch.float64) + shift).sin().reshape(2, 1, 12)


def test_strength_is_constant_or_falls() -> None:
    assert [round_strength(k, 4, "constant") for k in (1, 2, 3)] == [1, 1, 1]
    assert [round_strength(k, 4, "decaying") for k in (1, 2, 3)] == [0.75, 0.5, 0.25]


def test_one_step_is_one_pass_of_the_decoder() -> None:
    out = generate(encode, decode, ramp(), Y, steps=1, sigma_max=5.0, noise=lambda _: pytest.fail("no round, no noise"))
    torch.testing.assert_close(out, (decode(spherify(ramp()), Y) / 2 + 0.5).clamp(0, 1))


def test_rounds_written_out() -> None:
    asked: list[int] = []

    def noise(k: int) -> Tensor:
        asked.append(k)
        return ramp(k)

    out = generate(encode, decode, ramp(), Y, steps=3, sigma_max=5.0, noise=noise, strength="decaying")
    x = decode(spherify(ramp()), Y)
    x = decode(spherify(spherify(encode(x, Y)) + (1 - 1 / 3) * 5.0 * ramp(1)), Y)
    x = decode(spherify(spherify(encode(x, Y)) + (1 - 2 / 3) * 5.0 * ramp(2)), Y)
    torch.testing.assert_close(out, to_unit(x))
    assert asked == [1, 2]


def test_scale_one_is_the_plain_call() -> None:
    assert guided(encode, decode, NULL, 1.0, "both") == (encode, decode)


@pytest.mark.parametrize(("guide", "scale"), [("encoder", 1.7), ("decoder", 1.7), ("both", math.sqrt(1.7))])
def test_guidance_extrapolates_from_the_null_class(guide: str, scale: float) -> None:
    e, d = guided(encode, decode, NULL, 1.7, guide)  # type: ignore[arg-type]
    x, v = ramp().reshape(2, 3, 2, 2), ramp() * 3
    free, full = encode(x, NULL), encode(x, Y)
    torch.testing.assert_close(e(x, Y), full if guide == "decoder" else free + scale * (full - free))
    free, full = decode(v, NULL), decode(v, Y)
    expected = full if guide == "encoder" else (free + scale * (full - free)).clamp(-1, 1)
    torch.testing.assert_close(d(v, Y), expected)


def test_to_unit_clamps_and_widens() -> None:
    out = to_unit(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0]).bfloat16())
    assert out.dtype == torch.float32
    assert out.tolist() == [0, 0, 0.5, 1, 1]
