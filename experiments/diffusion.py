"""A diffusion model of the same trunk, to compare the Sphere Encoder with (Ho et al., 2020; Salimans and Ho, 2022).

One network in place of the encoder and the decoder: patches in, pixels out, with as many blocks as both together. Class
and time come in through the modulations of the blocks, their embeddings added up. It predicts v = a e - s x of a
image x under noise e, a^2 + s^2 = 1. What the noise is at each time, and how to go back from it, is the business of
diffusers' schedulers, an optional package.

Shapes: B batch, N tokens, D width, p patch size. Images are in [-1, 1] here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.vae import moved
from spherectl.errors import UsageError
from spherectl.model import seeding
from spherectl.model.geometry import at_least_float32
from spherectl.model.sampler import to_unit
from spherectl.model.sphere import choose_attention
from spherectl.model.vit import CHANNELS, Encoder, ToPixels
from spherectl.recipe import SIZES, ModelSpec, Recipe
from spherectl.training import Part, Step, flops

Solver = Literal["ddim", "dpm"]
SOLVERS: tuple[Solver, ...] = ("ddim", "dpm")

TIMES = 1000  # T: times of training, 0 to T - 1
SCHEDULE = {"num_train_timesteps": TIMES, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
LONGEST_WAVE = 10_000.0


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time, then two linears."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, times: Tensor) -> Tensor:
        """(B,) in 0 .. T - 1 -> (B, D)."""
        half = self.width // 2
        steps = torch.arange(half, dtype=torch.float32, device=times.device) / half
        angles = times[:, None].float() * LONGEST_WAVE**-steps  # (B, D / 2)
        waves = torch.cat((angles.sin(), angles.cos()), dim=1).to(self.first.weight.dtype)  # (B, D)
        out: Tensor = self.second(F.silu(self.first(waves)))  # (B, D)
        return out


class Denoiser(Encoder):
    """The trunk between noised images and predictions of v.

    Args:
        num_classes: 0 for an unconditional model, which has one class that is always the null class.
        shape: as `Encoder` takes it, but for the channels at the end.
    """

    def __init__(self, *, num_classes: int, **shape: Any) -> None:
        patch = shape["patch_size"]
        super().__init__(**shape, num_classes=max(num_classes, 1), token_channels=CHANNELS * patch**2)
        self.t_embedder = TimeEmbedding(self.width)
        self.pixels = ToPixels(self.grid, patch)

    def forward(self, x: Tensor, y: Tensor | None, times: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W), (B,) or no labels for the null class, (B,) -> (B, 3, H, W)."""
        assert self.y_embedder is not None
        labels = torch.full_like(times, self.num_classes) if y is None else y
        conditions = self.y_embedder(labels) + self.t_embedder(times)  # (B, D)
        out: Tensor = self.pixels(self.run(self.embed(x), conditions))  # (B, 3, H, W)
        return out

    def modulations(self, y: Tensor | None) -> Sequence[Tensor | None]:
        """Modulation of every block and of the output linear, of conditions (B, D) instead of labels."""
        return [layer(y) for layer in self._modulation_layers()]


class Diffusion(nn.Module):
    """A diffusion model: `denoiser` is all it has. `num_classes` is 0 for an unconditional one."""

    def __init__(self, denoiser: Denoiser, num_classes: int) -> None:
        super().__init__()
        self.denoiser, self.num_classes = denoiser, num_classes


def build(spec: ModelSpec) -> Diffusion:
    """The network of a [model] table whose kind is "diffusion": the blocks of both networks one after another."""
    size, decoder = SIZES[spec.size], SIZES[spec.decoder_size or spec.size]
    denoiser = Denoiser(
        image_size=spec.image_size,
        patch_size=spec.patch,
        num_classes=spec.classes,
        width=size.width,
        heads=size.heads,
        blocks=(size.blocks + decoder.blocks) // (2 if spec.halve_depth else 1),
    )
    choose_attention(denoiser, spec)
    return Diffusion(denoiser, spec.classes)


def noising() -> Any:
    """diffusers' DDPM scheduler, which noises images and knows v; raises as `_schedulers` does."""
    return _schedulers().DDPMScheduler(**SCHEDULE)


@dataclass(frozen=True)
class DiffusionNoise:
    """Everything random in one training step.

    Attributes:
        times: (B,) int64, 0 to T - 1.
        noise: (B, 3, H, W).
        labels: (B,) after dropout; None for unconditional networks.
    """

    times: Tensor
    noise: Tensor
    labels: Tensor | None = None


# |F(a x + s e, y, t) - v|^2, v = a e - s x
def objective(network: Denoiser, images: Tensor, random: DiffusionNoise, schedule: Any) -> Tensor:
    """One step's loss, a scalar.

    Args:
        network: to be trained.
        images: (B, 3, H, W) in [0, 1].
        random: from `training_noise`.
        schedule: from `noising`.
    """
    x, noise = images * 2 - 1, random.noise.to(images.dtype)
    noised = schedule.add_noise(x, noise, random.times)  # (B, 3, H, W)
    predicted = at_least_float32(network(noised, random.labels, random.times))  # (B, 3, H, W)
    v = schedule.get_velocity(x, noise, random.times).to(predicted.dtype)  # (B, 3, H, W)
    loss: Tensor = (predicted - v).square().mean()
    return loss


def training_noise(
    seed: int,
    images: Tensor,
    labels: Tensor | None,
    *,
    image_size: int,
    num_classes: int = 0,
    label_dropout: float = 0.1,
    grey: bool = False,
) -> DiffusionNoise:
    """Everything random for images of a training, by their numbers: the same in any batch, on any device.

    Args:
        seed: of the run.
        images: (B,) images seen before each, over all processes.
        labels: (B,) classes, or None for unconditional networks.
        image_size: H = W.
        num_classes: the null class's label.
        label_dropout: probability of the null class.
        grey: of the images.
    """
    times = (seeding.uniform(seed, seeding.TIMES, images, 1)[:, 0] * TIMES).long()  # (B,)
    noise = image_noise(seed, seeding.TRAINING, images, image_size, grey=grey)  # (B, 3, H, W)
    if labels is None or num_classes == 0:
        return DiffusionNoise(times, noise)
    dropped = seeding.with_null(seed, seeding.DROP_E, images, labels, num_classes, label_dropout)
    return DiffusionNoise(times, noise, dropped)


def image_noise(seed: int, stream: int, images: Tensor, side: int, *, grey: bool) -> Tensor:
    """(B, 3, H, W) Gaussian noise for images by their numbers (B,), with one value for all channels where they are one.

    Noise of its own in each channel would leave grey images' averages with a third of its variance, and ask the
    network for three images of noise instead of one.
    """
    noise = seeding.noise(seed, stream, images, (1 if grey else CHANNELS, side, side))
    return noise.expand(-1, CHANNELS, -1, -1)


@torch.no_grad()
def generate(network: Denoiser, initial: Tensor, y: Tensor | None, *, steps: int, solver: Solver = "ddim") -> Tensor:
    """Sample images from noise; each step is one pass of the network.

    Args:
        network: trained.
        initial: (B, 3, H, W) Gaussian noise.
        y: (B,) labels or None.
        steps: 1 to T.
        solver: "ddim" (Song et al., 2020, without noise on the way) or "dpm" (DPM-Solver++, Lu et al., 2022).

    Returns:
        (B, 3, H, W) images in [0, 1].

    Raises:
        UsageError: a number of steps out of range, or diffusers is not installed.
    """
    if not 1 <= steps <= TIMES:
        raise UsageError(f"A diffusion model samples in 1 to {TIMES} steps; it was asked for {steps}.")
    schedulers = _schedulers()
    kind = {"ddim": schedulers.DDIMScheduler, "dpm": schedulers.DPMSolverMultistepScheduler}[solver]
    schedule = kind.from_config(schedulers.DDPMScheduler(**SCHEDULE).config, timestep_spacing="trailing")
    schedule.set_timesteps(steps, device=initial.device)
    x = initial
    for time in schedule.timesteps:
        v = network(x, y, time.expand(len(x)).to(initial.device))  # (B, 3, H, W)
        x = schedule.step(v, time, x).prev_sample  # (B, 3, H, W)
    return to_unit(x)


def _schedulers() -> Any:
    """The package diffusers.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import diffusers
    except ImportError:
        raise UsageError(
            "A diffusion model needs the package diffusers, which is not installed.",
            "Install it with spherectl's extra: pip install 'spherectl[diffusers]'.",
        ) from None
    return diffusers


def step(recipe: Recipe, perceptual: object) -> Step:  # noqa: ARG001 - it is trained on noise alone
    """A diffusion model's step under the training loop, which has no latents; raises as `noising`."""
    spec, schedule = recipe.model, noising()

    def noise(labels: Tensor, part: Part) -> DiffusionNoise:
        found: DiffusionNoise = moved(
            training_noise(
                recipe.run.seed,
                part.numbers,
                labels if spec.classes else None,
                image_size=spec.image_size,
                num_classes=spec.classes,
                label_dropout=recipe.loss.label_dropout,
                grey=recipe.data.channels == "grey",
            ),
            part.device,
        )
        return found

    def loss(networks: Any, images: Tensor, noise: DiffusionNoise) -> dict[str, Tensor]:
        return {"loss": objective(networks.denoiser, images, noise, schedule)}

    return Step(noise, loss)


def gflop(recipe: Recipe) -> float:
    """GFLOP of a training step for each image: one pass of the blocks of both networks, one after another."""
    spec = recipe.model
    size, decoder = SIZES[spec.size], SIZES[spec.decoder_size or spec.size]
    tokens, width, channels = spec.tokens, size.width, CHANNELS * spec.patch**2
    embed = flops.linear_flop(tokens, channels, width) + flops.linear_flop(tokens, width, width)
    embed += 2 * flops.linear_flop(1, width, width)  # of the time
    longer = spec.model_copy(update={"num_classes": max(spec.classes, 1)})  # it always has modulations
    trunk = flops.trunk_flop(longer, size._replace(blocks=size.blocks + decoder.blocks), channels)
    return flops.both_ways_gflop(spec, embed + trunk)
