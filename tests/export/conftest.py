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

MIXERS = {"encoder_mixer_blocks": 1, "decoder_mixer_blocks": 1}
SMALL = {"image_size": 16, "patch_size": 4, "size": "nano", "compression_ratio": 6}
CONDITIONAL = {**SMALL, **MIXERS, "halve_depth": True, "num_classes": 3, "pixel_head": "conv"}
# Everything that no published model has, in one model.
UNUSUAL = {**SMALL, "num_classes": 0, "in_context_tokens": 2, "spherify_decoder_blocks": True, "pixel_head": "linear"}

Packages = Callable[[dict[str, Any]], Package]


@pytest.fixture(scope="session")
def packages(lively: Callable[[Recipe], Package]) -> Packages:
    """`packages(spec)`: a lively package of a [model] table."""

    def make(spec: dict[str, Any]) -> Package:
        package = lively(
            Recipe.model_validate(
                {"name": "small", "model": spec, "run": {"length_images": 10}, "sample": {"noise_deg": 72.0}}
            )
        )
        return Package(
            {**package.header, "class_names": ["red", "green", "blue"][: spec["num_classes"]]}, package.weights
        )

    return make


@pytest.fixture(scope="session")
def model_file(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional model with averaged weights, and raw ones beside them."""
    package = packages(CONDITIONAL)
    raw = {name: 0.9 * tensor for name, tensor in package.weights.items()}
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    write_package(path, Package({**package.header, "weights": "ema", "licence": "CC0-1.0"}, package.weights, raw))
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

    kept: dict[Any, tuple[Traced, Any]] = {}  # the traced part is held, so that its weights keep their addresses
    really = exporting.convert

    def convert(traced: Traced) -> Any:
        key = (traced.part, *(tensor.data_ptr() for tensor in traced.program.state_dict.values()))
        if key not in kept:
            kept[key] = (traced, really(traced))
        return copy.deepcopy(kept[key][1])

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
