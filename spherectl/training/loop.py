"""The training loop: resume, step, watch, save (section 4 of the method).

Progress is counted in images. Everything random in a step is a function of the seed and of the images seen, so that a
killed run goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spherectl.data.datasets import ImageSet
from spherectl.data.order import training_batches
from spherectl.data.unreadable import Tally
from spherectl.data.workers import lost_worker
from spherectl.errors import TrainingError
from spherectl.images import save_png
from spherectl.model.formats.weights import Package, fill
from spherectl.model.kinds import build
from spherectl.model.sphere import initialise
from spherectl.processes import Processes, lost
from spherectl.progress import Progress
from spherectl.recipe import Recipe
from spherectl.training import checkpoint, cuda
from spherectl.training.checkpoint import Counts
from spherectl.training.ema import EMA, ema_decay
from spherectl.training.finetune import take_over
from spherectl.training.gradient import DTYPES, Gradient
from spherectl.training.grey import tie_channels
from spherectl.training.kinds import KINDS
from spherectl.training.monitor import Gauge, effective_rank
from spherectl.training.optimiser import (
    FIRST_SCALE,
    adapt_scale,
    build_optimiser,
    learning_rate,
    set_learning_rate,
    total_steps,
)
from spherectl.training.parallel import shares
from spherectl.training.perceptual import PerceptualDistance, build_perceptual
from spherectl.training.publish import header, publish
from spherectl.training.run import Run
from spherectl.training.saver import Saver
from spherectl.training.tensorboard import SCALARS_EVERY, Board, opened

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
    dataset: ImageSet,
    folder: Path,
    *,
    device: torch.device,
    processes: Processes | None = None,
    start: Package | None = None,
    parent: str = "",
    on_step: OnStep | None = None,
    fetching: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a resolved recipe in a run folder, from its newest checkpoint if it has one.

    Args:
        recipe: resolved (`training.plan.resolve`).
        images: the training set.
        folder: the run folder; made if missing. Several processes share it.
        device: where to train.
        processes: those that train together (`processes.joined`), each of which makes this call; None: this one alone.
        start: model whose weights to start from; tensors of other shapes keep their start values.
        parent: hash of that model.
        on_step: called with each step's metrics.
        fetching: called with bytes done and bytes in all while networks of the loss are fetched.
        should_stop: asked in each step, and while a single process waits for images; True in any process saves and
            returns.

    Raises:
        TrainingError: a loss that is not finite (nothing has moved), or a folder another process holds.
        UsageError: the folder is another recipe's, or there are more processes than images in a batch.
        FileError: an image cannot be read, or something cannot be written.
        SpherectlError: another of the processes is gone.
    """
    processes = processes or Processes()
    run = Run(folder)
    with contextlib.ExitStack() as held:
        with processes.first_goes_first():
            if processes.is_first:
                shares(recipe.run.batch_size, processes, recipe.run.micro_batch_size)  # a mistake is told once
                held.enter_context(run.locked())
            # Before the folder is claimed: were it missing, only the same recipe could go on in that folder.
            perceptual = build_perceptual(recipe.loss, recipe.model.image_size, device, fetching)
            if processes.is_first:
                run.claim(recipe, dataset, parent, device, processes.world)
                run.sweep()
        training = _Training(recipe, dataset, run, device, processes, start, perceptual)
        done = training.counts.step
        if done >= training.steps:
            return Outcome(run, training.counts.images_seen, finished=True, steps_now=0)
        try:
            finished = training.loop(on_step or (lambda _: None), should_stop)
        except RuntimeError as error:
            if (killed := lost_worker(error)) is not None:
                raise killed from None
            if processes.world > 1 and re.search("gloo|NCCL|[Cc]onnection", str(error)):
                raise lost(error) from None
            raise
        return Outcome(run, training.counts.images_seen, finished, training.counts.step - done)


class _Training:
    """What one training holds: networks, average, optimiser, counts."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: ImageSet,
        run: Run,
        device: torch.device,
        processes: Processes,
        start: Package | None,
        perceptual: PerceptualDistance | None,
    ) -> None:
        self.recipe, self.dataset, self.run = recipe, dataset, run
        self.device, self.processes = device, processes
        self.steps = total_steps(recipe)
        self.model = build(recipe.model).to(device)
        initialise(self.model, recipe.run.seed)
        if start is not None:
            take_over(self.model, start.weights)
        tie_channels(self.model, recipe)
        if recipe.run.dtype == "float64":
            self.model.double()
        self.kind = KINDS[recipe.model.kind]
        step = self.kind.step(self.model, recipe, perceptual)
        self.gradient = Gradient(step, recipe, device, processes)  # before: it may shard the model
        self.ema = EMA(self.model)
        self.optimiser = build_optimiser(self.model, recipe.optim)
        self.counts = Counts(loss_scale=FIRST_SCALE if recipe.run.dtype == "float16" else 1.0)
        self.saver = Saver(run.checkpoints, processes, self.publish)
        found = checkpoint.checkpoints(run.checkpoints)
        if found:
            self.counts = checkpoint.load(found[-1], self.model, self.ema, self.optimiser)
        processes.wait()  # until all have read what the first may prune
        if processes.is_first:
            run.rewind_metrics(self.counts.step)
            if found:
                self.publish(found[-1], self.counts)
        self.gradient.settle_buckets()

    def loop(self, on_step: OnStep, should_stop: Callable[[], bool]) -> bool:
        """Steps up to the end or to a stop; True at the end."""
        recipe, counts = self.recipe, self.counts
        batch = recipe.run.batch_size
        began, earlier = time.monotonic(), counts.wall_s
        tally = Tally(len(self.dataset), batch)
        batches = cuda.sent(
            training_batches(
                self.dataset,
                seed=recipe.run.seed,
                batch_size=batch,
                start_image=counts.images_seen,
                flip=recipe.data.flip,
                workers=recipe.data.workers,
                share=self.gradient.share,
                # Of several processes each is waited for in every step, so that one alone cannot leave it out.
                should_stop=should_stop if self.processes.world == 1 else lambda: False,
            ),
            self.device,
        )
        first = self.processes.is_first
        with (
            contextlib.closing(batches),
            cuda.tf32(self.device, recipe.run.dtype),
            self.saver.open(),
            self.run.metrics_writer() if first else contextlib.nullcontext() as metrics,
            self.board() as board,
        ):
            gauge = Gauge(recipe, self.device, DTYPES[recipe.run.dtype], self.processes.world)
            while counts.step < self.steps:
                step_began = time.monotonic()
                dataset = next(batches)
                if dataset is None:  # stopped while it waited
                    if counts.step:
                        self.save()
                    break
                waited_s = time.monotonic() - step_began
                sums, norm = self.gradient(dataset.images, dataset.labels, counts.images_seen, counts.loss_scale)
                told = self.told(sums, norm, should_stop(), len(dataset.unreadable))
                self.run.note_unreadable(dataset.unreadable)
                tally.add(dataset.first_image, dataset.unreadable, told.unreadable)
                self.saver.proceed(told.all_written)
                values = self.update(told.losses, told.norm)
                before, now = counts.images_seen, time.monotonic()
                counts.step, counts.images_seen = counts.step + 1, before + batch
                counts.wall_s = earlier + now - began
                line = {"step": counts.step, "images_seen": counts.images_seen, **values}
                if counts.step % SCALARS_EVERY == 0:  # it looks at the whole batch at once
                    latents = self.gradient.latents()
                    line |= {} if latents is None else {"effective_rank": effective_rank(latents)}
                if told.unreadable:
                    line["unreadable"] = told.unreadable
                line |= gauge.read(batch, now - step_began, waited_s) | {"wall_s": round(counts.wall_s, 3)}
                if metrics is not None:
                    metrics.write(line)
                    board.scalars(line)
                on_step(line)
                ending = counts.step == self.steps
                if ending or _crossed(recipe.run.sample_images, before, counts.images_seen):
                    self.draw(board)
                if ending or told.stopping or _crossed(recipe.run.checkpoint_images, before, counts.images_seen):
                    self.save()
                if told.stopping:
                    break
            self.saver.finish()
        return counts.step == self.steps

    def told(self, sums: Tensor, norm: Tensor, stop: bool, unreadable: int) -> _Told:
        """What all processes have to say of this step, summed up."""
        # Read at once: a GPU's queue runs dry at every read.
        *parts, whole_norm = torch.cat((sums, norm.to(sums.dtype)[None])).tolist()
        own = [float(stop), float(self.saver.written), float(unreadable)]
        *parts, stops, written, missing = self.processes.add([*parts, *own])
        losses = dict(zip(self.gradient.parts, parts, strict=True))
        return _Told(losses, whole_norm, stops > 0, written == self.processes.world, int(missing))

    def update(self, losses: dict[str, float], norm: float) -> dict[str, float]:
        """One optimiser step and one of the average; returns the step's numbers.

        Raises:
            TrainingError: a loss or a gradient is not finite; weights, average and moments are as before the step.
        """
        recipe, counts = self.recipe, self.counts
        self._refuse_non_finite(losses)
        making = recipe.run.dtype != "float16" or adapt_scale(counts, math.isfinite(norm))
        if making:
            self._refuse_non_finite({"gradient norm": norm})
        lr = learning_rate(counts.step, recipe)
        set_learning_rate(self.optimiser, lr)
        if making:
            self.optimiser.step()
            tie_channels(self.model, recipe)
            counts.updates += 1
        batch = recipe.run.batch_size
        self.ema.update(self.model, ema_decay(recipe.optim, counts.images_seen + batch, batch))
        return {**losses, "lr": lr, "grad_norm": norm}

    def _refuse_non_finite(self, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            self.save()
            self.saver.finish()
            error = TrainingError(
                f"Step {self.counts.step + 1} has a non-finite {', '.join(bad)}; nothing was changed by it.",
                f"The weights before it are in {self.run.path}; try a lower optim.lr with --run-dir another folder.",
            )
            raise self.processes.once(error)

    def save(self) -> None:
        """Begin a checkpoint; the model file follows once it is whole, then older ones are pruned."""
        self.saver.begin(checkpoint.state(self.model, self.ema, self.optimiser), self.counts)

    def publish(self, path: Path, counts: Counts) -> None:
        """What follows once a checkpoint is whole: its model file."""
        publish(self.run, self.recipe, self.dataset, path, counts)

    def averaged(self) -> nn.Module:
        """Networks of their own with the averaged weights; all processes call it together."""
        averages = self.ema.gathered(self.model)
        with torch.device("meta"):
            network = build(self.recipe.model)
        fill(network, {name: tensor.float().clone() for name, tensor in averages.items()})
        return network

    def board(self) -> contextlib.AbstractContextManager[Board]:
        """TensorBoard, in the first process."""
        if not self.processes.is_first:
            return contextlib.nullcontext(Board(None, 0))
        return opened(self.run.path / "tensorboard", step=self.counts.step, last_step=self.steps)

    def draw(self, board: Board) -> None:
        """Images of the averaged weights, from fixed noise and of fixed images; all processes call it together."""
        network = self.averaged()
        if not self.processes.is_first:
            return
        about = header(self.run, self.recipe, self.dataset, self.counts)
        model = self.kind.loaded(network, about, name=self.recipe.name, device=self.device)
        for kind, image in self.kind.grids(model, self.dataset).items():
            suffix = "" if kind == "samples" else f"-{kind}"
            save_png(self.run.samples / f"{self.counts.images_seen:012d}{suffix}.png", image, None)
            board.images(kind, image, self.counts.step)


class _Told(NamedTuple):
    """A step in numbers, of all processes.

    Attributes:
        losses: the parts by name, of the kind's own step.
        norm: of the gradient, before it was clipped.
        stopping: whether any of them is to stop.
        all_written: whether every one has written its shard of a checkpoint.
        unreadable: images of the batch that could not be read.
    """

    losses: dict[str, float]
    norm: float
    stopping: bool
    all_written: bool
    unreadable: int


def _crossed(interval: int, before: int, after: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]."""
    return before // interval < after // interval
