"""The model file of a run: what its checkpoint holds of averaged weights, under a header that says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spherectl.data.datasets import ImageSet
from spherectl.errors import FileError
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import Package, write_package
from spherectl.recipe import Recipe
from spherectl.training import checkpoint
from spherectl.training.checkpoint import Counts
from spherectl.training.run import Run
from spherectl.versions import versions


def publish(run: Run, recipe: Recipe, images: ImageSet, path: Path, counts: Counts) -> None:
    """Write a checkpoint's model file, unless it is there; remove checkpoints that are no longer wanted.

    Args:
        run: the folder.
        recipe: resolved.
        images: the training set.
        path: of the checkpoint.
        counts: where it was.
    """
    if not is_published(run, counts):
        weights = {name: tensor.float() for name, tensor in checkpoint.read_part(path, "ema").items()}
        write_package(run.model, Package(header(run, recipe, images, counts), weights))
    checkpoint.prune(run.checkpoints, recipe.run.keep_checkpoints, recipe.run.milestone_images)


def is_published(run: Run, counts: Counts) -> bool:
    """Whether the model file is of as many images as these counts."""
    try:
        return bool(read_header(run.model)["images_seen"] == counts.images_seen)
    except (FileError, KeyError):
        return False


def header(run: Run, recipe: Recipe, images: ImageSet, counts: Counts) -> dict[str, Any]:
    """What the model file says of itself; no paths."""
    table = recipe.to_table()
    table["data"].pop("root", None)
    return {
        "recipe": table,
        "weights": "ema",
        "class_names": list(images.class_names) if recipe.model.classes else [],
        "channels": recipe.data.channels,
        "data": images.name,
        "data_licence": images.licence,
        "licence": "unstated",  # of the weights: for whoever trained them to say
        "scores": [],
        "images_seen": counts.images_seen,
        "parent": run.parent(),
        "versions": versions(),
    }
