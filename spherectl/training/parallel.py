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
from torch import nn

from spherectl.errors import UsageError
from spherectl.model.vit import Trunk
from spherectl.processes import Processes
from spherectl.recipe import Recipe
from spherectl.training.step import LossOf, Step


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


def wrap(networks: nn.Module, step: Step, recipe: Recipe, device: torch.device, processes: Processes) -> nn.Module:
    """A step's loss of networks, as the recipe's [run] table has it computed: checkpointed, compiled, in processes.

    Checkpointing and compiling are for the blocks of our transformers; networks without such blocks go as they are.

    Several processes hold whole networks and average gradients (DDP), or hold shards and gather them block by block
    (FSDP2). One process is left alone by both.
    """
    run, loss = recipe.run, LossOf(networks, step)
    trunks = [child for child in networks.children() if isinstance(child, Trunk)]
    shard = run.parallel == "fsdp" and processes.world > 1
    for trunk in trunks:
        trunk.checkpointing = run.activation_checkpointing
        trunk.by_modules = run.activation_checkpointing or run.compile or shard
        if run.compile:
            for block in trunk.blocks:
                block.compile()
    if processes.world == 1:
        return loss
    if shard:
        return _sharded(loss, trunks, device, processes)
    return nn.parallel.DistributedDataParallel(
        loss,
        device_ids=[processes.local_rank] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


def _sharded(loss: nn.Module, trunks: list[Trunk], device: torch.device, processes: Processes) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of in-place operations on what a network returns; there are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = init_device_mesh(device.type, (processes.world,))
    for trunk in trunks:
        for part in [*trunk.blocks, trunk.ffn]:
            if part.adaLN_modulation is not None:
                fully_shard(part.adaLN_modulation, mesh=mesh)  # the trunk calls it, not the block it belongs to
            fully_shard(part, mesh=mesh)
        fully_shard(trunk, mesh=mesh)
    fully_shard(loss, mesh=mesh)
    return loss


@contextlib.contextmanager
def synchronised(loss: nn.Module, now: bool) -> Iterator[None]:
    """Whether processes exchange the gradients of the body's backward pass, or keep adding up their own."""
    wrapped: Any = loss
    if hasattr(loss, "set_requires_gradient_sync"):  # FSDP2's
        wrapped.set_requires_gradient_sync(now)
    with contextlib.nullcontext() if now or not hasattr(loss, "no_sync") else wrapped.no_sync():  # DDP's
        yield
