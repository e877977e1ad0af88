"""The training loop: resume, step, watch, save (section 4 of the method).

Progress is counted in images. Everything random in a step is a function of the seed and of the images seen, so that a
killed run goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spherectl import api
from spherectl.data.datasets import PictureSet
from spherectl.data.order import training_batches
from spherectl.data.transforms import to_float
from spherectl.data.unreadable import Tally
from spherectl.errors import FileError, TrainingError, UsageError
from spherectl.images import grid, save_png
from spherectl.model.objective import Losses, LossWeights, draw, objective
from spherectl.model.sphere import SphereEncoder, build, initialise
from spherectl.model.weights import Package, read_header, write_package
from spherectl.recipe import Recipe
from spherectl.training import checkpoint, cuda
from spherectl.training.checkpoint import Counts
from spherectl.training.ema import EMA, ema_decay
from spherectl.training.optimiser import build_optimiser, learning_rate, set_learning_rate, total_steps
from spherectl.training.perceptual import build_perceptual
from spherectl.training.run import Run, versions

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
SAMPLE_STEPS = (1, 4)
TENSORBOARD_EVERY = 10

OnStep = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        run: the folder.
        images_seen: over all processes.
        finished: the recipe's length is reached.
        steps_now: steps this call did; 0 where the run was finished before.
    """

    run: Run
    images_seen: int
    finished: bool
    steps_now: int


def train(
    recipe: Recipe,
    pictures: PictureSet,
    folder: Path,
    *,
    device: torch.device,
    start: Package | None = None,
    parent: str = "",
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a resolved recipe in a run folder, from its newest checkpoint if it has one.

    Args:
        recipe: resolved (`training.plan.resolve`).
        pictures: the training set.
        folder: the run folder; made if missing.
        device: where to train.
        start: model whose weights to start from; tensors of other shapes keep their start values.
        parent: hash of that model.
        on_step: called with each step's metrics.
        should_stop: asked after each step; True saves and returns.

    Raises:
        TrainingError: a loss that is not finite (nothing has moved), or a folder another process holds.
        UsageError: the folder is another recipe's, or torchrun started several processes.
        FileError: a picture cannot be read, or something cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("This version trains in one process; torchrun started several.", "Run it without torchrun.")
    run = Run(folder)
    with run.locked():
        run.claim(recipe, parent, device)
        run.sweep()
        state = _State(recipe, pictures, run, device, start)
        done = state.counts.step
        if done:
            state.publish()
        if done >= state.steps:
            return Outcome(run, state.counts.images_seen, finished=True, steps_now=0)
        finished = state.loop(on_step or (lambda _: None), should_stop)
        return Outcome(run, state.counts.images_seen, finished, state.counts.step - done)


class _State:
    """What one training holds: networks, average, optimiser, counts."""

    def __init__(
        self, recipe: Recipe, pictures: PictureSet, run: Run, device: torch.device, start: Package | None
    ) -> None:
        self.recipe, self.pictures, self.run, self.device = recipe, pictures, run, device
        self.steps = total_steps(recipe)
        self.dtype = DTYPES[recipe.run.dtype]
        self.perceptual = build_perceptual(recipe.loss, recipe.model.image_size, device)
        self.model = build(recipe.model).to(device)
        initialise(self.model, recipe.run.seed)
        if start is not None:
            take_over(self.model, start.weights)
        if self.dtype == torch.float64:
            self.model.double()
        self.ema = EMA(self.model)
        self.optimiser = build_optimiser(self.model, recipe.optim)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.counts = Counts()
        found = checkpoint.checkpoints(run.checkpoints)
        if found:
            self.counts = checkpoint.load(found[-1], self.model, self.ema, self.optimiser)
        run.rewind_metrics(self.counts.step)

    def loop(self, on_step: OnStep, should_stop: Callable[[], bool]) -> bool:
        """Steps up to the end or to a stop; True at the end."""
        recipe, counts = self.recipe, self.counts
        batch = recipe.run.batch_size
        began, earlier = time.monotonic(), counts.wall_s
        tally = Tally(len(self.pictures), batch)
        batches = cuda.sent(
            training_batches(
                self.pictures,
                seed=recipe.run.seed,
                batch_size=batch,
                start_image=counts.images_seen,
                flip=recipe.data.flip,
                workers=recipe.data.workers,
            ),
            self.device,
        )
        with (
            contextlib.closing(batches),
            cuda.tf32(self.device, recipe.run.dtype),
            self.run.metrics_writer() as metrics,
            _tensorboard(self.run, counts.step) as board,
        ):
            while counts.step < self.steps:
                step_began = time.monotonic()
                pictures = next(batches)
                tally.add(pictures.first_image, pictures.unreadable, len(pictures.unreadable))
                losses = self.losses(to_float(pictures.images), pictures.labels)
                values = self.update(losses)
                before, now = counts.images_seen, time.monotonic()
                counts.step, counts.images_seen = counts.step + 1, before + batch
                counts.wall_s = earlier + now - began
                line = {
                    "step": counts.step,
                    "images_seen": counts.images_seen,
                    **values,
                    "images_per_s": round(batch / (now - step_began), 3),
                    "wall_s": round(counts.wall_s, 3),
                }
                metrics.write(line)
                if counts.step % TENSORBOARD_EVERY == 0 or counts.step == self.steps:
                    board(line)
                on_step(line)
                stopping, ending = should_stop(), counts.step == self.steps
                if ending or _crossed(recipe.run.sample_images, before, counts.images_seen):
                    self.draw_samples()
                if ending or stopping or _crossed(recipe.run.checkpoint_images, before, counts.images_seen):
                    self.save()
                if stopping:
                    break
        return counts.step == self.steps

    def losses(self, images: Tensor, labels: Tensor) -> Losses:
        """The objective on (B, 3, H, W) images in [0, 1] and (B,) labels."""
        recipe, spec = self.recipe, self.recipe.model
        draws = draw(
            recipe.run.seed,
            self.counts.images_seen,
            labels if spec.classes else None,
            batch=len(images),
            latent_shape=self.model.latent_shape,
            hard_ratio=recipe.noise.hard_ratio,
            num_classes=spec.classes,
            hard_probability=recipe.noise.hard_case_probability,
            hard_cases=recipe.noise.hard_cases,
            label_dropout=recipe.loss.label_dropout,
            device=self.device,
        )
        weights = recipe.loss
        with self.precision():
            return objective(
                self.model.encoder,
                self.model.decoder,
                images.to(torch.float64 if self.dtype == torch.float64 else torch.float32),
                draws,
                sigma_max=recipe.noise.sigma_max,
                weights=LossWeights(
                    weights.rec, weights.rec_perceptual, weights.con, weights.con_perceptual, weights.latent
                ),
                perceptual=self.perceptual,
            )

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 autocast over float32 weights, or nothing."""
        if self.dtype == torch.bfloat16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def update(self, losses: Losses) -> dict[str, float]:
        """Backward, clip, one optimiser step, one step of the average; returns the step's numbers.

        Raises:
            TrainingError: a loss or a gradient is not finite; weights, average and moments are as before the step.
        """
        recipe, counts = self.recipe, self.counts
        names = ("loss", "loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat")
        parts = (losses.total, losses.rec, losses.rec_perceptual, losses.con, losses.con_perceptual, losses.latent)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        gradient = torch.nn.utils.clip_grad_norm_(self.parameters, recipe.optim.clip_norm)
        # Read at once: a GPU's queue runs dry at every read.
        *read, norm = torch.stack([part.detach() for part in (*parts, gradient)]).tolist()
        values = dict(zip(names, read, strict=True))
        self._refuse_non_finite(values)
        self._refuse_non_finite({"gradient norm": norm})
        lr = learning_rate(counts.step, recipe)
        set_learning_rate(self.optimiser, lr)
        self.optimiser.step()
        batch = recipe.run.batch_size
        self.ema.update(self.model, ema_decay(recipe.optim, counts.images_seen + batch, batch))
        return {**values, "lr": lr, "grad_norm": norm}

    def _refuse_non_finite(self, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            self.save()
            raise TrainingError(
                f"Step {self.counts.step + 1} has a non-finite {', '.join(bad)}; nothing was changed by it.",
                f"The weights before it are in {self.run.path}; try a lower optim.lr with --run another folder.",
            )

    def save(self) -> None:
        """Checkpoint first, then the model file, then prune: whatever is cut short, the newest whole one counts."""
        checkpoint.save(self.run.checkpoints, self.model, self.ema, self.optimiser, self.counts)
        self.publish()

    def publish(self) -> None:
        """Write the model file unless it is of these weights already, and keep only the newest checkpoints."""
        if not self.is_published():
            write_package(self.run.model, Package(self.header(), {n: t.float() for n, t in self.ema.state().items()}))
        checkpoint.prune(self.run.checkpoints, self.recipe.run.keep_checkpoints)

    def is_published(self) -> bool:
        """Whether the model file is of as many images as these weights."""
        try:
            return bool(read_header(self.run.model)["images_seen"] == self.counts.images_seen)
        except (FileError, KeyError):
            return False

    def header(self) -> dict[str, Any]:
        """What the model file says of itself; no paths."""
        table = self.recipe.to_table()
        table["data"].pop("root", None)
        return {
            "recipe": table,
            "weights": "ema",
            "class_names": list(self.pictures.class_names) if self.recipe.model.classes else [],
            "channels": self.recipe.data.channels,
            "data": self.pictures.name,
            "data_licence": self.pictures.licence,
            "licence": "unstated",  # of the weights: for whoever trained them to say
            "scores": [],
            "images_seen": self.counts.images_seen,
            "parent": self.run.parent(),
            "versions": versions(),
        }

    def averaged(self) -> SphereEncoder:
        """A copy of the networks with the averaged weights."""
        network = copy.deepcopy(self.model).eval().requires_grad_(False)
        network.load_state_dict(self.ema.state())
        return network.float()

    def draw_samples(self) -> None:
        """samples/IMAGES-SEEN.png: a row of one-step, a row of four-step samples; fixed noise, averaged weights."""
        name = self.recipe.name
        model = api.Model(self.averaged(), self.header(), name=name, device=self.device)
        columns = 10 if self.recipe.model.image_size <= 64 else 4
        rows = []
        for steps in SAMPLE_STEPS:
            rows += [drawn.images for drawn in api.generate(model, columns, steps=steps, batch=columns)]
        save_png(self.run.samples / f"{self.counts.images_seen:012d}.png", grid(torch.cat(rows), columns), None)


def take_over(model: SphereEncoder, weights: dict[str, Tensor]) -> list[str]:
    """Copy weights of equal name and shape into a model; returns the names that kept their start values."""
    taken = fitting(model, weights)
    with torch.no_grad():
        for name, parameter in taken.items():
            parameter.copy_(weights[name])
    return [name for name, _ in model.named_parameters() if name not in taken]


def fitting(model: SphereEncoder, weights: dict[str, Tensor]) -> dict[str, torch.nn.Parameter]:
    """The model's parameters that have a weight of equal name and shape."""
    return {name: p for name, p in model.named_parameters() if name in weights and weights[name].shape == p.shape}


def _crossed(interval: int, before: int, after: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]."""
    return before // interval < after // interval


@contextlib.contextmanager
def _tensorboard(run: Run, step: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """A writer to run/tensorboard, or nothing where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # an optional extra
    except ImportError:
        yield lambda _: None
        return
    with SummaryWriter(run.path / "tensorboard", purge_step=step) as writer:

        def write(values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, int(values["step"]))

        yield write
