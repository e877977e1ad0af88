"""The objective over networks that are somebody's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spherectl
from spherectl.data.transforms import to_float

pytestmark = pytest.mark.fast


class ConvEncoder(nn.Module):
    """A small network of somebody's own: images to 8 x 4 x 4 numbers, no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), nn.SiLU(), nn.Conv2d(16, 32, 2, 2), nn.SiLU(), nn.Conv2d(32, 8, 1)
        )

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return self.layers(x)  # (B, 3, 32, 32) -> (B, 8, 4, 4)


class ConvDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(8, 32, 1), nn.SiLU(), nn.ConvTranspose2d(32, 16, 2, 2), nn.SiLU(), nn.ConvTranspose2d(16, 3, 4, 4)
        )

    def forward(self, v: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return self.layers(v)  # (B, 8, 4, 4) -> (B, 3, 32, 32)


def conv_loss(encode: nn.Module, decode: nn.Module, images: Tensor, first: int) -> spherectl.Losses:
    noise = spherectl.training_noise(0, first, None, batch=len(images), latent_shape=(8, 4, 4), hard_ratio=1.5)
    return spherectl.objective(encode, decode, images, noise, sigma_max=5.67)


def test_the_objective_trains_somebodys_own_networks(dataset):
    torch.manual_seed(0)
    encode, decode = ConvEncoder(), ConvDecoder()
    optimiser = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=1e-2)
    images, history = to_float(dataset.gather(range(32))), []
    for step in range(30):
        losses = conv_loss(encode, decode, images, 32 * step)
        parts = losses.rec + losses.con + losses.latent
        assert losses.total.item() == pytest.approx(parts.item(), rel=1e-6)
        assert (float(losses.rec_perceptual), float(losses.con_perceptual)) == (0, 0)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append((losses.total.item(), losses.rec.item()))
    (first, first_rec), (last, last_rec) = history[0], history[-1]
    assert last < 0.8 * first
    assert last_rec < 0.5 * first_rec


def test_each_part_of_the_objective_teaches_whom_it_should(images):
    """Section 4: z_clean and the consistency target are constants, so parts alone have known gradients."""
    torch.manual_seed(0)
    encode, decode = ConvEncoder(), ConvDecoder()

    def gradients(part: str) -> Any:
        losses = conv_loss(encode, decode, images, 0)
        return torch.autograd.grad(getattr(losses, part), [*encode.parameters(), *decode.parameters()])

    for part in ("total", "rec", "con", "latent"):
        assert all(bool(one.any()) for one in gradients(part)), part
    losses = conv_loss(encode, decode, images, 0)
    assert not losses.z_clean.requires_grad
    assert losses.x_large.shape == losses.x_small.shape == images.shape
