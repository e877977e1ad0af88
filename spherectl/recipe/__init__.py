"""Recipes: what to train, on what, how. Frozen and closed: unknown keys are errors, all reported at once.

A recipe is a TOML file of seven tables, read here into frozen pydantic models. A file may name a `base`, a recipe that
comes with spherectl, and then says only what differs from it. `resolve` turns what depends on the data (epochs, the
number of classes) into plain numbers; the resolved recipe is what a run folder and a model's header keep. Section
numbers refer to the method's description (arXiv 2602.15030).
"""

from __future__ import annotations

from spherectl.recipe.data import DataKind, DataSpec
from spherectl.recipe.files import load, loads
from spherectl.recipe.limits import (
    MAX_CLASSES,
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_IMAGE_SIZE,
    MAX_NAME,
    MAX_WEIGHT,
    MAX_WORKERS,
    Positive,
)
from spherectl.recipe.loss import LossSpec
from spherectl.recipe.model import LOW_RESOLUTION_PATCH, SIZES, ModelSpec, Size
from spherectl.recipe.noise import NoiseSpec
from spherectl.recipe.optim import OptimSpec
from spherectl.recipe.run import RunSpec
from spherectl.recipe.sample import SampleSpec
from spherectl.recipe.whole import Recipe, differing_keys, parse

__all__ = [
    "LOW_RESOLUTION_PATCH",
    "MAX_CLASSES",
    "MAX_COUNT",
    "MAX_EPOCHS",
    "MAX_IMAGE_SIZE",
    "MAX_NAME",
    "MAX_WEIGHT",
    "MAX_WORKERS",
    "SIZES",
    "DataKind",
    "DataSpec",
    "LossSpec",
    "ModelSpec",
    "NoiseSpec",
    "OptimSpec",
    "Positive",
    "Recipe",
    "RunSpec",
    "SampleSpec",
    "Size",
    "differing_keys",
    "load",
    "loads",
    "parse",
]
