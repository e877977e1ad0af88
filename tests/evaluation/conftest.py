"""What the tests of evaluation share: a few hundred real images, a scoring network, Inception with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.evaluation.extractors import Extractor, open_extractor
from spherectl.recipe import DataSpec

GARMENTS = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")


@pytest.fixture(scope="session")
def excerpt(fashion_excerpt: Path) -> tuple[ImageSet, ImageSet]:
    """300 training and 100 test images of Fashion-MNIST, 32 px."""
    train = open_dataset(GARMENTS, 32, root=fashion_excerpt, split="train")
    return train, open_dataset(GARMENTS, 32, root=fashion_excerpt, split="test")


@pytest.fixture(scope="session")
def scorer() -> Extractor:
    """The zoo's scoring network."""
    return open_extractor("fashion-scorer")


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception's weights as torch-fidelity publishes them, but random, of a scale that keeps signals alive."""
    with (
        patch("torch.load", return_value={}),
        patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None),
    ):
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, 0, (2 / fan_in) ** 0.5, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def write_pngs(folder: Path, pixels: Tensor) -> Path:
    """uint8 (n, 3, H, W) as numbered PNG files."""
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:05d}.png")
    return folder
