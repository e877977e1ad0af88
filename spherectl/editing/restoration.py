"""Restoring a measured image by plug-and-play splitting with the sphere as prior (SP3, arXiv 2606.16396).

A measurement is y = A x + noise. Starting from y, repeat: rotate the image's latent by a small angle and decode it,
x_p = D(f(f(E(x)) + tan(a) e)); then take the x that explains y and is near x_p,

    argmin_x |A x - y|^2 + l |x - x_p|^2,

which has a closed form for every measurement (`editing.measurements`).

Letters: B images, H height, W width, l the weight lambda.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from torch import Tensor

from spherectl.api import Classes, Model
from spherectl.checks import MAX_STEPS, check_choice, check_number, check_whole
from spherectl.editing.measurements import MAX_SIGMA, Measurement
from spherectl.editing.rounds import rounds
from spherectl.recipe import MAX_WEIGHT

Task = Literal["inpaint", "denoise", "upscale", "deblur"]
TASKS: tuple[Task, ...] = get_args(Task)

MIN_WEIGHT = 1e-30  # a float32 that is not 0; what is smaller counts as this

# Noise of a measurement, of 255 levels, for which a task's lambda is meant.
SIGMAS: dict[Task, float] = {"inpaint": 0.0, "denoise": 50.0, "upscale": 0.0, "deblur": 2.0}

# Settings for a model whose header has no table editing.restore.TASK: those of fashion-mnist.
DEFAULTS: dict[Task, dict[str, float]] = {
    "inpaint": {"lambda": 0.1, "noise_deg": 20.0, "rounds": 4},
    "denoise": {"lambda": 3.0, "noise_deg": 20.0, "rounds": 8},
    "upscale": {"lambda": 0.001, "noise_deg": 60.0, "rounds": 8},
    "deblur": {"lambda": 0.03, "noise_deg": 0.0, "rounds": 8},
}


# l = sigma^2 / tau^2 if x_p is the truth with errors of standard deviation tau
def settings(model: Model, task: Task, sigma: float | None = None) -> dict[str, Any]:
    """A model's settings for restoring images: lambda, noise_deg, rounds.

    Args:
        model: whose header may have its own.
        task: one of `TASKS`.
        sigma: noise of the measurement, of 255 levels; lambda grows with its square. None: as in `SIGMAS`.
    """
    task = check_choice(task, TASKS, "task")
    own: dict[str, Any] = model.header.get("editing", {}).get("restore", {}).get(task, {})
    chosen = DEFAULTS[task] | own
    if sigma is not None and SIGMAS[task]:
        sigma = check_number(sigma, "sigma", 0, MAX_SIGMA)
        chosen["lambda"] *= (sigma / SIGMAS[task]) ** 2
    return chosen


def restore(
    model: Model,
    y: Tensor,
    measurement: Measurement,
    *,
    count: int,
    noise_deg: float,
    weight: float,
    classes: Classes = None,
    seed: int = 0,
    first_index: int = 0,
) -> Iterator[Tensor]:
    """Restore images from their measurements.

    Args:
        model: the prior.
        y: measurements of B images, in [0, 1] plus noise.
        measurement: how they were made.
        count: rounds, at least 1.
        noise_deg: angle a by which each round rotates the latents, from 0 to below 90; fresh noise in each round.
        weight: l > 0; a large one trusts the model, a small one the measurement.
        classes: of the images; None: the null class.
        seed: of the noise.
        first_index: number of the first image; with the seed it decides an image's noise.

    Yields:
        After each round (B, 3, H, W) float32 in [0, 1].

    Raises:
        UsageError: an argument is out of range.
    """
    count = check_whole(count, "count", 1, MAX_STEPS)
    weight = max(check_number(weight, "weight", high=MAX_WEIGHT, above=0), MIN_WEIGHT)
    x = measurement.start(y).clamp(0, 1)
    for k in range(1, count + 1):
        decoded = rounds(
            model,
            x,
            classes,
            count=1,
            noise_deg=noise_deg,
            noise="fresh",
            seed=seed,
            first_index=first_index,
            first_round=k,
        )
        x = measurement.nearest(y, next(decoded), weight).clamp(0, 1)
        yield x
