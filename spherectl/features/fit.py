"""Training a small feature network as a classifier of one data set, and measuring it.

Data order and shifts come from `spherectl.model.seeding` with the network's own seed, so the images a network sees in
step k depend on nothing else; its first weights come from torch's generator with that seed.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl import recipe
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.sets import records
from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.features.networks import build_network, fold
from spherectl.features.records import FitPlan, plans
from spherectl.model import seeding
from spherectl.model.devices import has_fast_bfloat16
from spherectl.progress import Progress
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.shown import quoted


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained network, folded and in eval mode, and what making it took."""

    network: nn.Module
    arguments: dict[str, Any]
    images_seen: int
    minutes: float


def fit(plan: FitPlan, dataset: ImageSet, progress: Progress | None = None) -> Fitted:
    """Train a network by a plan, on the CPU: AdamW, one cycle of learning rate, bfloat16 autocast where that is fast.

    Args:
        plan: what to train, and how.
        dataset: the training set, of the same image size as the test images.
        progress: called after each step.

    Raises:
        UsageError: there are fewer images than one step takes.
    """
    if len(dataset) < plan.batch_size:
        raise UsageError(
            f"Training takes at least {plan.batch_size} images, one step; {dataset.name} has {len(dataset)}."
        )
    started, fast = time.monotonic(), has_fast_bfloat16(torch.device("cpu"))
    arguments = {"num_classes": len(dataset.class_names), **plan.arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network, folded = build_network(plan.kind, arguments, norm=True), build_network(plan.kind, arguments)
    network.train()

    count = len(dataset)
    steps_per_epoch = count // plan.batch_size
    total = steps_per_epoch * plan.epochs
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.lr, total_steps=total, pct_start=0.2)

    for step in range(total):
        epoch, within = divmod(step, steps_per_epoch)
        if within == 0:
            order = seeding.permutation(plan.seed, seeding.ORDER, epoch, count)  # (n,)
        seen = torch.arange(plan.batch_size) + step * plan.batch_size  # (B,)
        chosen = order[within * plan.batch_size : (within + 1) * plan.batch_size]  # (B,)
        images = dataset.gather(chosen)  # uint8 (B, 3, H, W)
        moved = shift(images, offsets(plan.seed, seen, plan.shift_px))  # uint8 (B, 3, H, W)

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
            logits = network(to_float(moved))  # (B, K)
        loss = F.cross_entropy(logits.float(), dataset.labels[chosen], label_smoothing=plan.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress((step + 1) * plan.batch_size, total * plan.batch_size, f"loss {loss.item():.3f}")

    fold(network.eval(), folded).requires_grad_(False)
    return Fitted(folded, arguments, total * plan.batch_size, (time.monotonic() - started) / 60)


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Move each image down and right by its own whole number of pixels, repeating its edge in the gap.

    Args:
        images: (B, C, H, W).
        offsets: int64 (B, 2), rows and columns; negative is up and left.
    """
    _, channels, height, width = images.shape
    rows = (torch.arange(height) - offsets[:, :1]).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width) - offsets[:, 1:]).clamp(0, width - 1)  # (B, W)
    image = torch.arange(len(images))[:, None, None, None]
    channel = torch.arange(channels)[:, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]  # (B, C, H, W)


def offsets(seed: int, images: Tensor, limit_px: int) -> Tensor:
    """By how much to move the images with these numbers (n,) in the run: int64 (n, 2), each from -limit to limit."""
    uniform = seeding.uniform(seed, seeding.AUGMENT, images, 2)  # (n, 2)
    return (uniform * (2 * limit_px + 1)).floor().long() - limit_px


@torch.no_grad()
def measure_accuracy(
    network: nn.Module, dataset: ImageSet, batch_size: int = 500, progress: Progress | None = None
) -> float:
    """Share of images whose largest logit is their label's, in eval mode and float32, from 0 to 1."""
    device = next(network.parameters()).device
    correct = 0
    for start in range(0, len(dataset), batch_size):
        chosen = torch.arange(start, min(start + batch_size, len(dataset)))
        logits = cast("Tensor", network(to_float(dataset.gather(chosen)).to(device)))  # (B, K)
        correct += int((logits.argmax(1).cpu() == dataset.labels[chosen]).sum())
        if progress is not None:
            progress(int(chosen[-1]) + 1, len(dataset), "")
    return correct / len(dataset)


def open_images(data: str, split: Literal["train", "test"], root: Path | None = None) -> ImageSet:
    """A data set as the recipe of its name has it, from `root` or from where it usually is.

    Raises:
        UsageError: there is no such recipe, or the set is not there.
    """
    spec = _recipe(data)
    return open_dataset(spec.data, spec.model.image_size, root=root, split=split)


def _recipe(data: str) -> Recipe:
    file = packaged("recipes") / f"{data}.toml"
    if data not in records() or not file.is_file():  # a file's header may name any
        raise UsageError(f"There is no recipe of the data set {quoted(data)}, by which its images are read.")
    return recipe.load(file)


def describe(
    name: str, plan: FitPlan, fitted: Fitted, dataset: ImageSet, accuracy: float, test_images: int
) -> dict[str, Any]:
    """What the file of a network made by `plan` says of it, for `save_feature_network`."""
    settings, trained = dataclasses.asdict(plan), _recipe(plan.data)
    return {
        "name": name,
        "use": plan.use,
        "class_names": list(dataset.class_names),
        "data": settings.pop("data"),
        "licence": "Apache-2.0",
        "data_licence": dataset.licence,
        "image_size": trained.model.image_size,
        "channels": trained.data.channels,
        "accuracy": accuracy,
        "test_images": test_images,
        "images_seen": fitted.images_seen,
        "minutes": round(fitted.minutes, 1),
        "plan": settings,
        "command": f"spherectl features train {name}"
        + (f" --epochs {plan.epochs}" if plan != plans().get(name) else ""),
        "versions": {"torch": torch.__version__},
    }
