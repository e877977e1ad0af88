"""AdamW with one group a network, its schedule in images seen, and float16's loss scale (section 4 of the method)."""

from __future__ import annotations

import math

import torch
from torch import nn

from spherectl.recipe import OptimSpec, Recipe
from spherectl.training.checkpoint import Counts

FIRST_SCALE, SMALLEST_SCALE, GOOD_STEPS = 2.0**16, 1.0, 2_000

FUSED = ("cpu", "cuda", "mps")  # where torch updates all parameters in one kernel; elsewhere it chooses by itself


def build_optimiser(model: nn.Module, optim: OptimSpec) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; the group's `ratio` multiplies the scheduled rate."""
    ratios = {"encoder": optim.encoder_lr_ratio}
    groups = [
        {"params": [p for p in network.parameters() if p.requires_grad], "ratio": ratios.get(name, 1.0)}
        for name, network in sorted(model.named_children())
    ]
    direct = [p for p in model.parameters(recurse=False) if p.requires_grad]  # ours have none
    groups += [{"params": direct, "ratio": 1.0}] if direct else []
    fused = True if next(model.parameters()).device.type in FUSED else None
    optimiser = torch.optim.AdamW(groups, lr=0.0, betas=optim.betas, weight_decay=optim.weight_decay, fused=fused)
    for group in optimiser.param_groups:
        for p in group["params"]:  # what torch makes in the first step; here, so that a checkpoint always has it
            step = torch.zeros((), device=p.device if fused else "cpu")
            optimiser.state[p] |= {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimiser


# warm-up: lr (t + 1) / (n + 1), t < n; lr up to step s; then min + (lr - min) (1 + cos(pi (t - s) / (T - 1 - s))) / 2
# s = n, or T less the steps of decay_images if that is later
def learning_rate(step: int, recipe: Recipe) -> float:
    """The decoder's learning rate at a step; the encoder's is `encoder_lr_ratio` of it, floor included.

    Args:
        step: t, counted from 0; the cosine reaches its floor at the last step, T - 1.
        recipe: resolved, so that lengths are in images.
    """
    optim, batch = recipe.optim, recipe.run.batch_size
    scale = batch / optim.lr_batch_size
    top, floor = optim.lr * scale, optim.min_lr * scale
    warmup, steps = round((optim.warmup_images or 0) / batch), total_steps(recipe)
    if step < warmup:
        return top * (step + 1) / (warmup + 1)
    start = warmup if optim.decay_images is None else max(warmup, steps - round(optim.decay_images / batch))
    turn = (step - start) / max(steps - 1 - start, 1)
    return floor + (top - floor) * 0.5 * (1 + math.cos(math.pi * min(max(turn, 0.0), 1.0)))


def same_so_far(one: Recipe, other: Recipe, images: int) -> bool:
    """Whether two recipes that differ in their length alone have had the same learning rates up to so many images."""
    steps = range(images // one.run.batch_size)
    return all(learning_rate(step, one) == learning_rate(step, other) for step in steps)


def total_steps(recipe: Recipe) -> int:
    """Optimiser steps of a resolved recipe: its images over the batch, rounded up."""
    return -(-(recipe.run.length_images or 0) // recipe.run.batch_size)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["ratio"]


# As torch.amp.GradScaler does it, whose state would be one more thing to save and which does not know FSDP2's shards.
def adapt_scale(counts: Counts, finite: bool) -> bool:
    """Choose float16's next loss scale: its gradients are small, so the loss is multiplied by as much as they bear.

    After a gradient that is not finite the scale is halved and the step left out, after `GOOD_STEPS` good ones doubled.

    Args:
        counts: holds the scale, and the good steps since it last changed.
        finite: whether this step's gradient was.

    Returns:
        Whether the step is to be made, or, where nothing is left to halve, to fail for good.
    """
    if not finite and counts.loss_scale > SMALLEST_SCALE:
        counts.loss_scale, counts.good_steps = counts.loss_scale / 2, 0
        return False
    counts.good_steps += 1
    if counts.good_steps == GOOD_STEPS:
        counts.loss_scale, counts.good_steps = counts.loss_scale * 2, 0
    return True
