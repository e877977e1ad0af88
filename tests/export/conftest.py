"""Small models whose images depend on everything, and their graphs, exported once for all tests here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from spherectl.api import Model
from spherectl.model.formats.weights import Package, instantiate, write_package
from spherectl.recipe import Recipe

if TYPE_CHECKING:
    from spherectl.export.graphs import Traced

SMALL = {"image_size": 32, "patch_size": 8, "size": "nano", "compression_ratio": 24, "halve_depth": True}
NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
# Grey garments, padded, with ten classes, guidance, and less noise in rounds than in training.
GARMENTS = {
    "name": "garments",
    "model": {
        **SMALL,
        "num_classes": 10,
        "pixel_head": "conv",
        "encoder_mixer_blocks": 1,
        "decoder_mixer_blocks": 1,
    },
    "data": {"kind": "fashion-mnist", "fit": "pad", "flip": False, "channels": "grey"},
    "sample": {"steps": 3, "guidance": 1.4, "noise_deg": 65.0},
}
# Everything that no published model has, in one model: in colour, images are cropped, the noise is fresh and falls.
UNUSUAL = {
    "name": "unusual",
    "model": {
        **SMALL,
        "num_classes": 0,
        "in_context_tokens": 2,
        "spherify_decoder_blocks": True,
        "pixel_head": "linear",
    },
    "data": {"kind": "folder", "fit": "crop"},
    "sample": {"steps": 3, "noise": "fresh", "strength": "decaying"},
}

Packages = Callable[[dict[str, Any]], Package]


@pytest.fixture(scope="session")
def packages(lively: Callable[[Recipe], Package]) -> Packages:
    """`packages(tables)`: a lively package of a recipe."""

    def make(tables: dict[str, Any]) -> Package:
        recipe = Recipe.model_validate({**tables, "run": {"length_images": 10}})
        package = lively(recipe)
        names = NAMES[: recipe.model.classes]
        return Package(
            {**package.header, "class_names": names, "channels": recipe.data.channels, "licence": "CC0-1.0"},
            package.weights,
        )

    return make


@pytest.fixture(scope="session")
def model_file(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional model with averaged weights, and raw ones beside them."""
    package = packages(GARMENTS)
    raw = {name: 0.9 * tensor for name, tensor in package.weights.items()}
    path = tmp_path_factory.mktemp("model") / "garments.safetensors"
    write_package(path, Package({**package.header, "weights": "ema"}, package.weights, raw))
    return path


@pytest.fixture(scope="session")
def model(model_file: Path) -> Model:
    import spherectl

    return spherectl.load(str(model_file), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def unusual(packages: Packages) -> Model:
    """An unconditional one, with in-context tokens and spherified blocks."""
    package = packages(UNUSUAL)
    return Model(instantiate(package), package.header, name="unusual", device=torch.device("cpu"))


@pytest.fixture(scope="session")
def converted() -> Callable[[Traced], Any]:
    """`onnx.convert`, but the graph of one part of one model is made once: torch takes some seconds for each."""
    from spherectl.export import onnx as exporting

    kept: dict[Any, Any] = {}
    really = exporting.convert

    def convert(traced: Traced) -> Any:
        weights = {name: tensor.sum(dtype=torch.float64).item() for name, tensor in traced.program.state_dict.items()}
        key = (traced.part, str(traced.program.graph), *weights.items())
        if key not in kept:
            kept[key] = really(traced)
        return copy.deepcopy(kept[key])

    return convert


@pytest.fixture(autouse=True, scope="module")
def _converted_once(converted: Callable[[Traced], Any]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spherectl.export.onnx.convert", converted)
        yield


@pytest.fixture(scope="session")
def files(model: Model, converted: Callable[[Traced], Any], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The three graphs of the conditional model in float32, by part."""
    from spherectl.export.onnx import export_onnx

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spherectl.export.onnx.convert", converted)
        written = export_onnx(model, tmp_path_factory.mktemp("float32"))
    return {file.part: file for file in written}
