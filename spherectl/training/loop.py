"""The training loop (section 4 of the method): data, noise, loss, gradient, step, average, log, save.

Progress is counted in images. Everything random in a step is a function of the seed and of the images seen, so that a
killed run goes on exactly as if nothing had happened.

Letters: B global batch, b images of a micro-batch, N tokens, d token channels, K numbers that a loss has.
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
from torch import Tensor

from spherectl.data.datasets import ImageSet
from spherectl.data.order import Batch
from spherectl.data.transforms import to_float
from spherectl.data.unreadable import Tally
from spherectl.data.workers import lost_worker
from spherectl.errors import SpherectlError, TrainingError
from spherectl.model.devices import choose_device
from spherectl.model.formats.weights import Package
from spherectl.processes import Processes, local, lost, whole
from spherectl.progress import Progress
from spherectl.recipe import Recipe
from spherectl.settings import load_settings
from spherectl.training import cuda
from spherectl.training.ema import ema_decay
from spherectl.training.grey import tie_channels
from spherectl.training.monitor import Monitor, effective_rank
from spherectl.training.optimiser import (
    adapt_scale,
    learning_rate,
    set_learning_rate,
)
from spherectl.training.parallel import shares, synchronised
from spherectl.training.perceptual import build_perceptual
from spherectl.training.plan import is_resolved, resolve
from spherectl.training.run import Run
from spherectl.training.session import Session
from spherectl.training.step import LATENTS, LOSS, Part, Step, numbers_of

OnStep = Callable[[dict[str, float]], None]

RANK_EVERY = 10  # steps: the effective rank looks at a whole batch at once


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        run: the folder.
        images_seen: over all processes.
        finished: the recipe's length is reached.
        steps_now: steps this call did; 0 where the run was finished before.

    >>> from pathlib import Path
    >>> from spherectl.training import Outcome
    >>> from spherectl.training.run import Run
    >>> Outcome(Run(Path("runs/mine")), images_seen=160, finished=True, steps_now=20).run.path.name
    'mine'
    """

    run: Run
    images_seen: int
    finished: bool
    steps_now: int


def train(
    recipe: Recipe,
    dataset: ImageSet,
    folder: Path | None = None,
    *,
    step: Step | None = None,
    device: torch.device | str = "auto",
    processes: Processes | None = None,
    start: Package | None = None,
    parent: str = "",
    on_step: OnStep | None = None,
    fetching: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a recipe in a run folder, from its newest checkpoint if it has one.

    Args:
        recipe: its `model.kind` names the networks (`spherectl.registry`). What depends on the data is filled in.
        dataset: the training set.
        folder: the run folder; made if missing. Several processes share it. None: runs/NAME.
        step: the noise and the loss of a step; None: those of the recipe's kind of network.
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

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from spherectl import recipe, zoo
    >>> from spherectl.data.datasets import open_dataset
    >>> from spherectl.training import train
    >>> Path("photos").mkdir()
    >>> for number in range(4):
    ...     Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(f"photos/{number}.png")
    >>> run = {"batch_size": 4, "length_images": 8, "checkpoint_images": 8, "sample_images": 8}
    >>> short = recipe.load(zoo.find_recipe("debug"), {"data": {"kind": "folder"}, "run": run})
    >>> photos = open_dataset(short.data, image_size=32, root=Path("photos"))
    >>> train(short, photos, Path("runs/short"), device="cpu").images_seen
    8
    """
    processes = processes or Processes()
    device = choose_device(device) if isinstance(device, str) else device
    recipe = recipe if is_resolved(recipe) else resolve(recipe, dataset, device)
    run = Run(folder or load_settings().runs / recipe.name)
    with contextlib.ExitStack() as held:
        with processes.first_goes_first():
            if processes.is_first:
                shares(recipe.run.batch_size, processes, recipe.run.micro_batch_size)  # a mistake is told once
                held.enter_context(run.locked())
            # Before the folder is claimed: were it missing, only the same recipe could go on in that folder.
            perceptual = None
            if step is None:
                perceptual = build_perceptual(recipe.loss, recipe.model.image_size, device, fetching)
            if processes.is_first:
                run.claim(recipe, dataset, parent, device, processes.world)
                run.sweep()
        session = Session(recipe, dataset, run, device, processes, start, perceptual, step)
        done = session.counts.step
        if done >= session.steps:
            return Outcome(run, session.counts.images_seen, finished=True, steps_now=0)
        try:
            finished = loop(session, on_step or (lambda _: None), should_stop)
        except SpherectlError:
            raise
        except RuntimeError as error:
            if (killed := lost_worker(error)) is not None:
                raise killed from None
            if processes.world > 1 and re.search("gloo|NCCL|[Cc]onnection", str(error)):
                raise lost(error) from None
            raise
        return Outcome(run, session.counts.images_seen, finished, session.counts.step - done)


def loop(session: Session, on_step: OnStep, should_stop: Callable[[], bool]) -> bool:
    """Steps up to the end or to a stop; True at the end."""
    recipe, counts, batch_size = session.recipe, session.counts, session.recipe.run.batch_size
    began, earlier = time.monotonic(), counts.wall_s
    tally = Tally(len(session.dataset), batch_size)
    with (
        contextlib.closing(session.batches(should_stop)) as batches,
        cuda.tf32(session.device, recipe.run.dtype),
        session.saver.open(),
        session.loggers() as loggers,
    ):
        monitor = Monitor(recipe, session.device, session.dtype, session.processes.world)
        while counts.step < session.steps:
            # Data: this process's share of the batch.
            step_began = time.monotonic()
            batch = next(batches)
            if batch is None:  # stopped while it waited
                if counts.step:
                    session.save()
                break
            waited_s = time.monotonic() - step_began

            # Noise, loss, backward, clip; then all processes add up their shares of the numbers.
            share = gradient(session, batch)
            told = together(session, share, should_stop(), len(batch.unreadable))
            session.run.note_unreadable(batch.unreadable)
            tally.add(batch.first_image, batch.unreadable, told.unreadable)
            session.saver.proceed(told.all_written)

            # Step, EMA.
            values = update(session, told.losses, told.norm)
            before, now = counts.images_seen, time.monotonic()
            counts.step, counts.images_seen = counts.step + 1, before + batch_size
            counts.wall_s = earlier + now - began

            # Log.
            line = {"step": counts.step, "images_seen": counts.images_seen, **values}
            if counts.step % RANK_EVERY == 0 and share.latents is not None:
                every = session.processes.together(share.latents, session.share[0], batch_size)  # (B, N, d)
                line["effective_rank"] = effective_rank(every)
            if told.unreadable:
                line["unreadable"] = told.unreadable
            line |= monitor.read(batch_size, now - step_began, waited_s) | {"wall_s": round(counts.wall_s, 3)}
            for logger in loggers:
                logger.scalars(line)
            on_step(line)
            ending = counts.step == session.steps
            if ending or _crossed(recipe.run.sample_images, before, counts.images_seen):
                session.preview(loggers)

            # Save.
            if ending or told.stopping or _crossed(recipe.run.checkpoint_images, before, counts.images_seen):
                session.save()
            if told.stopping:
                break
        session.saver.finish()
    return counts.step == session.steps


def gradient(session: Session, batch: Batch) -> _Share:
    """Leave the whole batch's gradient, clipped, in the parameters; returns this process's share of the numbers."""
    recipe, counts, first = session.recipe, session.counts, session.share[0]
    parameters = [p for p in session.networks.parameters() if p.requires_grad]
    session.optimiser.zero_grad()
    sums: list[Tensor] = []
    latents: list[Tensor] = []
    names: list[str] = []
    for start, stop in session.pieces:
        inside, share = slice(start - first, stop - first), (stop - start) / recipe.run.batch_size
        images = to_float(batch.images[inside]).to(parameters[0].dtype)  # (b, 3, H, W)
        noise = session.step.noise(batch.labels[inside], Part(counts.images_seen, start, stop, session.device))
        with synchronised(session.loss, now=stop == session.share[1]):
            with session.autocast():
                losses = session.loss(images, noise)  # `step.loss` of the networks
            # The processes' gradients are averaged, so each loss counts as often as there are processes.
            (losses[LOSS] * (share * session.processes.world * counts.loss_scale)).backward()
        names, numbers = numbers_of(losses)
        sums.append(share * numbers)
        latents += [losses[LATENTS].detach()] if LATENTS in losses else []
    if counts.loss_scale != 1:
        torch._foreach_mul_([local(p.grad) for p in parameters if p.grad is not None], 1 / counts.loss_scale)
    norm = whole(torch.nn.utils.clip_grad_norm_(parameters, recipe.optim.clip_norm))
    return _Share(names, sum(sums[1:], sums[0]), norm, torch.cat(latents) if latents else None)


def together(session: Session, share: _Share, stop: bool, unreadable: int) -> _Together:
    """One step's numbers, summed up over all processes."""
    # Read at once: a GPU's queue runs dry at every read.
    *parts, norm = torch.cat((share.sums, share.norm.to(share.sums.dtype)[None])).tolist()
    own = [float(stop), float(session.saver.written), float(unreadable)]
    *parts, stops, written, missing = session.processes.add([*parts, *own])
    losses = dict(zip(share.names, parts, strict=True))
    return _Together(losses, norm, stops > 0, written == session.processes.world, int(missing))


def update(session: Session, losses: dict[str, float], norm: float) -> dict[str, float]:
    """One optimiser step and one of the average; returns the step's numbers.

    Raises:
        TrainingError: a loss or a gradient is not finite; weights, average and moments are as before the step.
    """
    recipe, counts, batch_size = session.recipe, session.counts, session.recipe.run.batch_size
    refuse_non_finite(session, losses)
    stepping = recipe.run.dtype != "float16" or adapt_scale(counts, math.isfinite(norm))
    if stepping:
        refuse_non_finite(session, {"gradient norm": norm})
    lr = learning_rate(counts.step, recipe)
    set_learning_rate(session.optimiser, lr)
    if stepping:
        session.optimiser.step()
        tie_channels(session.networks, recipe)
        counts.updates += 1
    session.ema.update(session.networks, ema_decay(recipe.optim, counts.images_seen + batch_size, batch_size))
    return {**losses, "lr": lr, "grad_norm": norm}


def refuse_non_finite(session: Session, values: dict[str, float]) -> None:
    """Save and stop if one of these is no number."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        session.save()
        session.saver.finish()
        error = TrainingError(
            f"Step {session.counts.step + 1} has a non-finite {', '.join(bad)}; nothing was changed by it.",
            f"The weights before it are in {session.run.path}; try a lower optim.lr with --run-dir another folder.",
        )
        raise session.processes.once(error)


class _Share(NamedTuple):
    """One process's share of a batch.

    Attributes:
        names: of what the loss has, K of them, the loss first.
        sums: (K,) those numbers, by the share's part of the batch.
        norm: of the gradient of the whole batch, before it was clipped.
        latents: (b, ...), or None where the loss has none.
    """

    names: list[str]
    sums: Tensor
    norm: Tensor
    latents: Tensor | None


class _Together(NamedTuple):
    """A step in numbers, of all processes.

    Attributes:
        losses: by name.
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
