"""One step's gradient from many pieces: micro-batches of a process, processes of a training.

Every loss is a mean over the global batch, so a piece counts by its share of it, and the pieces add up to what one
process would have computed at once, but for the order of sums.

Letters: B global batch, W processes, b images of a micro-batch.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spherectl.errors import UsageError
from spherectl.model.objective import Draws, LossWeights, objective
from spherectl.model.sphere import SphereEncoder
from spherectl.processes import Processes
from spherectl.recipe import Recipe
from spherectl.training.gauges import latent_norm
from spherectl.training.perceptual import PerceptualDistance

PARTS = ("loss", "loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat", "latent_norm")


class Step(nn.Module):
    """The objective of a micro-batch as one module, which is what DDP and FSDP wrap.

    Args:
        model: the networks that are trained.
        recipe: resolved; gives the noise and the weights of the losses.
        perceptual: the frozen distance, or None.
    """

    def __init__(self, model: SphereEncoder, recipe: Recipe, perceptual: PerceptualDistance | None) -> None:
        super().__init__()
        self.model = model
        self.sigma_max = recipe.noise.sigma_max
        loss = recipe.loss
        self.weights = LossWeights(loss.rec, loss.rec_perceptual, loss.con, loss.con_perceptual, loss.latent)
        self._frozen = (perceptual,)  # in a tuple, so that it is no part of what is wrapped, sharded or sent around

    def forward(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, parts and latents of (b, 3, H, W) images in [0, 1].

        Returns:
            The scalar to differentiate; `PARTS`, (7,) without gradient; latents before f, (b, N, d).
        """
        losses = objective(
            self.model.encoder,
            self.model.decoder,
            images,
            draws,
            sigma_max=self.sigma_max,
            weights=self.weights,
            perceptual=self._frozen[0],
        )
        parts = (losses.total, losses.rec, losses.rec_perceptual, losses.con, losses.con_perceptual, losses.latent)
        norm = latent_norm(losses.z_clean).to(losses.total.dtype)
        return losses.total, torch.stack([*(part.detach() for part in parts), norm]), losses.z_clean


def shares(batch: int, processes: Processes, micro_batch: int | None) -> list[tuple[int, int]]:
    """This process's micro-batches of a global batch: first image and the one after the last, of each.

    All processes have the same number of them, as their gradients meet after the last one. Images are spread as evenly
    as they go, so a micro-batch may have one more than asked for where B / W is no whole number.

    Args:
        batch: B.
        processes: W, and which of them this is.
        micro_batch: images at once; None: all of the process's share.

    Raises:
        UsageError: there are more processes than images.
    """
    rank, world = processes.rank, processes.world
    if batch < world:
        raise UsageError(
            f"run.batch_size = {batch} is less than one image for each of {world} processes.",
            "Raise --set run.batch_size, or start fewer processes.",
        )
    start, stop = batch * rank // world, batch * (rank + 1) // world
    largest = -(-batch // world)
    pieces = min(-(-largest // (micro_batch or largest)), batch // world)
    bounds = [start + (stop - start) * piece // pieces for piece in range(pieces + 1)]
    return list(itertools.pairwise(bounds))


def wrap(step: Step, recipe: Recipe, device: torch.device, processes: Processes) -> nn.Module:
    """The step as the recipe's [run] table has it computed: checkpointed, compiled, in several processes.

    Several processes hold whole networks and average gradients (DDP), or hold shards and gather them block by block
    (FSDP2). One process is left alone by both.
    """
    run = recipe.run
    shard = run.parallel == "fsdp" and processes.world > 1
    for trunk in (step.model.encoder, step.model.decoder):
        trunk.checkpointing = run.activation_checkpointing
        trunk.by_modules = run.activation_checkpointing or run.compile or shard
        if run.compile:
            for block in trunk.blocks:
                block.compile()
    if processes.world == 1:
        return step
    if shard:
        return _sharded(step, device, processes)
    return nn.parallel.DistributedDataParallel(
        step,
        device_ids=[processes.local_rank] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


def _sharded(step: Step, device: torch.device, processes: Processes) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of in-place operations on what a network returns; there are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = init_device_mesh(device.type, (processes.world,))
    for trunk in (step.model.encoder, step.model.decoder):
        for part in [*trunk.blocks, trunk.ffn]:
            if part.adaLN_modulation is not None:
                fully_shard(part.adaLN_modulation, mesh=mesh)  # the trunk calls it, not the block it belongs to
            fully_shard(part, mesh=mesh)
        fully_shard(trunk, mesh=mesh)
    fully_shard(step, mesh=mesh)
    return step


@contextlib.contextmanager
def synchronised(step: nn.Module, now: bool) -> Iterator[None]:
    """Whether processes exchange the gradients of the body's backward pass, or keep adding up their own."""
    wrapped: Any = step
    if hasattr(step, "set_requires_gradient_sync"):  # FSDP2's
        wrapped.set_requires_gradient_sync(now)
    with contextlib.nullcontext() if now or not hasattr(step, "no_sync") else wrapped.no_sync():  # DDP's
        yield
