"""The diffusion model: its objective and its solvers against a network that knows the answer."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments import diffusion
from spherectl.errors import UsageError
from spherectl.model.sphere import initialise
from spherectl.recipe import ModelSpec

pytest.importorskip("diffusers")

pytestmark = pytest.mark.fast

SPEC = ModelSpec(kind="diffusion", size="nano", patch_size=8, num_classes=10)


def network(**changes: Any) -> diffusion.Denoiser:
    """Random weights everywhere, so that the output depends on everything."""
    model = diffusion.build(SPEC.model_copy(update=changes))
    initialise(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.denoiser


class Oracle:
    """Predicts v of one known image from any of its noised ones."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.calls = 0

    def __call__(self, x: Tensor, y: Tensor | None, times: Tensor) -> Tensor:
        self.calls += 1
        a, s = self.scales(times)
        noise = (x - a * self.image) / s
        return a * noise - s * self.image

    @staticmethod
    def scales(times: Tensor) -> tuple[Tensor, Tensor]:
        signal = diffusion.noising().alphas_cumprod[times].reshape(-1, 1, 1, 1)
        return signal.sqrt(), (1 - signal).sqrt()


def test_the_objective_asks_for_v() -> None:
    images = torch.rand(5, 3, 8, 8)
    draws = diffusion.training_noise(0, torch.arange(5), None, image_size=8)
    oracle: Any = Oracle(images * 2 - 1)
    assert float(diffusion.objective(oracle, images, draws, diffusion.noising())) < 1e-6
    silent: Any = lambda x, y, times: torch.zeros_like(x)  # noqa: E731
    a, s = Oracle.scales(draws.times)
    v = a * draws.noise - s * (images * 2 - 1)
    loss = diffusion.objective(silent, images, draws, diffusion.noising())
    assert float(loss) == pytest.approx(float(v.square().mean()), rel=1e-5)


@pytest.mark.parametrize("solver", diffusion.SOLVERS)
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_a_solver_finds_the_image_that_the_network_knows(solver: diffusion.Solver, steps: int) -> None:
    image = torch.rand(2, 3, 4, 4) * 1.8 - 0.9
    oracle: Any = Oracle(image)
    drawn = diffusion.generate(oracle, torch.randn(2, 3, 4, 4), None, steps=steps, solver=solver)
    torch.testing.assert_close(drawn, image / 2 + 0.5, atol=2e-3, rtol=0)
    assert oracle.calls == steps


@torch.no_grad()
def test_class_and_time_both_matter() -> None:
    denoiser = network()
    x, y, times = torch.randn(2, 3, 32, 32), torch.tensor([3, 4]), torch.tensor([10, 900])
    out = denoiser(x, y, times)
    assert out.shape == x.shape
    assert not torch.allclose(out, denoiser(x, y + 1, times), atol=1e-4)
    assert not torch.allclose(out, denoiser(x, y, times - 5), atol=1e-4)
    torch.testing.assert_close(out[1:], denoiser(x[1:], y[1:], times[1:]))
    torch.testing.assert_close(denoiser(x, None, times), denoiser(x, torch.tensor([10, 10]), times))


def test_what_is_drawn_for_an_image_depends_on_its_number_alone() -> None:
    labels = torch.arange(400) % 10
    every = diffusion.training_noise(3, torch.arange(400), labels, image_size=4, num_classes=10)
    some = diffusion.training_noise(3, torch.arange(40, 60), labels[40:60], image_size=4, num_classes=10)
    assert every.labels is not None
    assert some.labels is not None
    assert torch.equal(every.times[40:60], some.times)
    assert torch.equal(every.noise[40:60], some.noise)
    assert torch.equal(every.labels[40:60], some.labels)
    assert (int(every.times.min()), int(every.times.max())) < (100, 1000)
    assert abs(float(every.times.double().mean()) - 499.5) < 60  # 4 of its standard deviations


def test_noise_of_grey_images_is_grey_and_as_strong() -> None:
    numbers = torch.arange(50)
    grey = diffusion.training_noise(0, numbers, None, image_size=16, grey=True).noise
    colour = diffusion.training_noise(0, numbers, None, image_size=16).noise
    assert grey.shape == colour.shape == (50, 3, 16, 16)
    assert torch.equal(grey, grey[:, :1].expand_as(grey))
    assert abs(float((colour[:, 0] * colour[:, 1]).mean())) < 0.05
    assert float(grey.square().mean()) == pytest.approx(float(colour.square().mean()), abs=0.05)


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"needs the package diffusers.*spherectl\[diffusers\]"):
        diffusion.noising()
