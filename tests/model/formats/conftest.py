"""A small model as a file holds it."""

from __future__ import annotations

import pytest

from spherectl.model.formats.weights import Package
from spherectl.model.sphere import build, initialise
from spherectl.recipe import Recipe


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "model": {"image_size": 32, "patch_size": 8, "size": "nano", "num_classes": 3, "compression_ratio": 24},
            "run": {"length_images": 10},
        }
    )


@pytest.fixture(scope="session")
def package(recipe: Recipe) -> Package:
    """Averaged weights, and raw ones that are 1 more."""
    model = build(recipe.model)
    initialise(model, 0)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    raw = {name: t + 1 for name, t in weights.items()}
    return Package({"recipe": recipe.to_table(), "weights": "ema", "class_names": ["a", "b", "ü"]}, weights, raw)
