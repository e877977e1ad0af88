"""What one training holds: networks, their loss, average, optimiser, counts; and what it reads and writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spherectl import registry
from spherectl.data.datasets import ImageSet
from spherectl.data.order import training_batches
from spherectl.model.formats.weights import Package, fill
from spherectl.processes import Processes
from spherectl.recipe import Recipe
from spherectl.training import checkpoint, cuda
from spherectl.training.checkpoint import Counts
from spherectl.training.ema import EMA
from spherectl.training.finetune import start_values, take_over
from spherectl.training.grey import tie_channels
from spherectl.training.loggers import Logger, opened
from spherectl.training.optimiser import FIRST_SCALE, build_optimiser, total_steps
from spherectl.training.parallel import shares, wrap
from spherectl.training.perceptual import PerceptualDistance
from spherectl.training.publish import header, publish
from spherectl.training.run import Run
from spherectl.training.saver import Saver
from spherectl.training.step import LOSS, Part, Step

AUTOCAST = (torch.bfloat16, torch.float16)


class Session:
    """One training of this process; its arguments are those of `training.loop.train`."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: ImageSet,
        run: Run,
        device: torch.device,
        processes: Processes,
        start: Package | None,
        perceptual: PerceptualDistance | None,
        step: Step | None,
    ) -> None:
        self.recipe, self.dataset, self.run = recipe, dataset, run
        self.device, self.processes = device, processes
        self.steps = total_steps(recipe)
        self.pieces = shares(recipe.run.batch_size, processes, recipe.run.micro_batch_size)
        self.share = (self.pieces[0][0], self.pieces[-1][1])  # of a batch: this process's images
        self.kind = registry.NETWORKS[recipe.model.kind]
        self.networks = start_values(self.kind, recipe).to(device)
        if start is not None:
            take_over(self.networks, start.weights)
        tie_channels(self.networks, recipe)
        if recipe.run.dtype == "float64":
            self.networks.double()
        self.step = step or self.kind.step(recipe, perceptual)
        self.loss = wrap(self.networks, self.step, recipe, device, processes)  # first: it may shard the networks
        self.ema = EMA(self.networks)
        self.optimiser = build_optimiser(self.networks, recipe.optim)
        self.counts = Counts(loss_scale=FIRST_SCALE if recipe.run.dtype == "float16" else 1.0)
        self.saver = Saver(run.checkpoints, processes, self.publish)
        found = checkpoint.checkpoints(run.checkpoints)
        if found:
            self.counts = checkpoint.load(found[-1], self.networks, self.ema, self.optimiser)
        processes.wait()  # until all have read what the first may prune
        if processes.is_first:
            run.rewind_metrics(self.counts.step)
            if found:
                self.publish(found[-1], self.counts)
        self.settle_buckets()

    @property
    def dtype(self) -> torch.dtype:
        """In what it computes; a resolved recipe names a type of torch's."""
        dtype: torch.dtype = getattr(torch, self.recipe.run.dtype)
        return dtype

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Products in the recipe's 16-bit type, where it has one."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype in AUTOCAST else contextlib.nullcontext()

    def batches(self, should_stop: Callable[[], bool]) -> Any:
        """This process's share of every batch, on the device; None where it was stopped while it waited."""
        recipe = self.recipe
        found = training_batches(
            self.dataset,
            seed=recipe.run.seed,
            batch_size=recipe.run.batch_size,
            start_image=self.counts.images_seen,
            flip=recipe.data.flip,
            workers=recipe.data.workers,
            share=self.share,
            # Of several processes each is waited for in every step, so that one alone cannot leave it out.
            should_stop=should_stop if self.processes.world == 1 else lambda: False,
        )
        return cuda.sent(found, self.device)

    def save(self) -> None:
        """Begin a checkpoint; the model file follows once it is whole, then older ones are pruned."""
        self.saver.begin(checkpoint.state(self.networks, self.ema, self.optimiser), self.counts)

    def publish(self, path: Path, counts: Counts) -> None:
        """Write the model file of a checkpoint that is whole."""
        publish(self.run, self.recipe, self.dataset, path, counts)

    @contextlib.contextmanager
    def loggers(self) -> Iterator[list[Logger]]:
        """The run folder's own files and what the recipe asks for; nothing but in the first process."""
        if not self.processes.is_first:
            yield []
            return
        with (
            self.run.metrics_writer() as files,
            opened(self.recipe, self.run.path, step=self.counts.step, last_step=self.steps) as others,
        ):
            yield [files, *others]

    def preview(self, loggers: list[Logger]) -> None:
        """Images of the averaged weights, from fixed noise and of fixed images; all processes call it together."""
        if self.kind.previews is None:
            return
        averages = self.ema.gathered(self.networks)
        if not self.processes.is_first:
            return
        with torch.device("meta"):
            networks: Any = self.kind.build(self.recipe.model)
        fill(networks, {name: tensor.float().clone() for name, tensor in averages.items()})
        if self.kind.load is None:
            model = networks.to(self.device)
        else:
            about = header(self.run, self.recipe, self.dataset, self.counts)
            model = self.kind.load(networks, about, name=self.recipe.name, device=self.device)
        for name, image in self.kind.previews(model, self.dataset).items():
            for logger in loggers:
                logger.images(name, image, self.counts)

    def settle_buckets(self) -> None:
        """Let DDP order its buckets now, by a gradient of nothing, as it otherwise does after the first step.

        Their order is that in which several processes' gradients are added up: a resumed run, which would begin with
        the other one, would differ in its last bits.
        """
        if not isinstance(self.loss, nn.parallel.DistributedDataParallel):
            return
        dtype = next(p for p in self.networks.parameters() if p.requires_grad).dtype
        image = torch.zeros(1, 3, *2 * (self.recipe.model.image_size,), device=self.device, dtype=dtype)
        noise = self.step.noise(torch.zeros(1, dtype=torch.int64, device=self.device), Part(0, 0, 1, self.device))
        with self.autocast():
            losses = self.loss(image, noise)
        losses[LOSS].backward()
        self.optimiser.zero_grad()
