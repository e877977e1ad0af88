"""A tiny model that came from a run, one without classes that came from no file, and images for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import spherectl
from spherectl import api
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.transforms import to_float
from spherectl.model.formats import weights
from spherectl.recipe import DataSpec

CPU = torch.device("cpu")


@pytest.fixture(scope="package")
def model(tiny_run: Path) -> api.Model:
    return spherectl.load(tiny_run, device="cpu", dtype="float32")


@pytest.fixture
def own(tiny_run: Path) -> api.Model:
    """The same for this test alone, to be changed."""
    return spherectl.load(tiny_run, device="cpu", dtype="float32")


@pytest.fixture(scope="package")
def free(model: api.Model, lively) -> api.Model:
    package = lively(model.recipe.replace(model={"num_classes": 0}))
    return api.Model(weights.instantiate(package), package.header, name="free", device=CPU)


@pytest.fixture(scope="package")
def dataset(fashion_excerpt: Path) -> ImageSet:
    return open_dataset(DataSpec(kind="fashion-mnist", fit="pad", channels="grey"), image_size=32, root=fashion_excerpt)


@pytest.fixture(scope="package")
def images(dataset: ImageSet) -> Tensor:
    return to_float(dataset.gather(range(6)))
