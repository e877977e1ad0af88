"""The embedded model and a few images for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from spherectl import api
from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import to_float
from spherectl.recipe import DataSpec


@pytest.fixture(scope="session")
def garments() -> api.Model:
    return api.load("fashion-mnist", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def originals(fashion_excerpt: Path) -> Tensor:
    """Four real test images, (4, 3, 32, 32) in [0, 1]."""
    data = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")
    test = open_dataset(data, 32, split="test", root=fashion_excerpt)
    return to_float(test.gather(torch.tensor([0, 25, 50, 75])))
