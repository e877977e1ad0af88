"""A model as a web page: a folder of static files that samples in the browser, by ONNX Runtime Web.

The page itself is in page/ beside this file: plain HTML, CSS and JavaScript, copied unchanged.
"""

from __future__ import annotations

import math
import shutil
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from spherectl import __version__, provenance
from spherectl.api import Model
from spherectl.editing.rounds import class_change
from spherectl.errors import UsageError
from spherectl.export.check import Precision
from spherectl.export.graphs import Part
from spherectl.export.onnx import OnnxFile, export_onnx
from spherectl.files import replacing, write_text
from spherectl.images import XMP, XMP_KEY
from spherectl.shown import json_text

PARTS: tuple[Part, ...] = ("decoder", "encoder")  # a round has both networks, so its file would hold all weights again
RUNTIME = "onnxruntime-web/ort-wasm-simd-threaded.wasm"
RUNTIME_VERSION = "1.30.0"  # as page/onnxruntime-web/README.md says
WEIGHT_BYTES: dict[Precision, int] = {"float32": 4, "float16": 2, "int8": 1}

FLOAT32_UP_TO = 100_000_000  # bytes of both graphs, which a visitor waits for
LARGEST_BYTES = 1_500_000_000  # WebAssembly has 4 GB, and a graph is there twice while it loads


def export_web(model: Model, folder: Path, precision: Precision | None = None) -> list[OnnxFile]:
    """Write a page that samples from a model: index.html, its scripts, the graphs, the runtime, model.json.

    Any web server can serve the folder. The page and `spherectl sample --seed` make the same images from the same
    seeds, within 2 of 255 levels in float32.

    Args:
        model: loaded in float32.
        folder: made if it is missing; files of the same names are replaced, others stay.
        precision: of the weights; None: float32 where both graphs have at most 100 MB, else float16.

    Returns:
        The graphs that were written, each compared with the model.

    Raises:
        UsageError: a package is missing, the model was loaded in less than float32, or is too large for a browser.
        SpherectlError: a graph differs too much from the model.
    """
    precision = precision or default_precision(model)
    _check_size(model, precision)
    written = export_onnx(model, folder, PARTS, precision)
    page = files("spherectl.export") / "page"
    _copy(page, folder)
    table = about(model, precision) | {
        "runtime_bytes": (folder / RUNTIME).stat().st_size,
        "files": {one.path.name: one.path.stat().st_size for one in written},
    }
    write_text(folder / "model.json", json_text(table) + "\n")
    return written


def default_precision(model: Model) -> Precision:
    """float32 where both graphs have at most 100 MB of weights, else float16."""
    return "float32" if _bytes(model, "float32") <= FLOAT32_UP_TO else "float16"


def about(model: Model, precision: Precision) -> dict[str, Any]:
    """The table in model.json, without the sizes of files."""
    recipe, header = model.recipe, model.header
    tokens, token_channels = model.network.latent_shape
    return {
        "name": model.name,
        "precision": precision,
        "classes": model.num_classes,
        "class_names": model.class_names,
        "image_size": recipe.model.image_size,
        "fit": recipe.data.fit,
        "channels": header.get("channels", recipe.data.channels),
        "tokens": tokens,
        "token_channels": token_channels,
        "angle_deg": recipe.noise.angle_deg,
        "sigma_max": recipe.round_sigma(recipe.sample),
        "sample": recipe.sample.model_dump(),
        "to_class": class_change(model),
        "licence": header.get("licence", ""),
        "data": header.get("data", ""),
        "data_licence": header.get("data_licence", ""),
        "text": {"Software": f"spherectl {__version__}", XMP_KEY: XMP},
        "provenance": {
            "format": provenance.FORMAT,
            "model": model.name,
            "model_sha256": model.sha256,
            "weights": model.weights,
            "index": 0,
            "dtype": precision,
            "backend": "browser wasm",
            "versions": {"spherectl": __version__, "onnxruntime-web": RUNTIME_VERSION},
            **recipe.sample.model_dump(),
        },
    }


def _copy(source: Traversable, folder: Path) -> None:
    for item in source.iterdir():
        target = folder / item.name
        if item.is_dir():
            _copy(item, target)
        else:
            with replacing(target) as temporary, item.open("rb") as opened, temporary.open("wb") as file:
                shutil.copyfileobj(opened, file)


def _bytes(model: Model, precision: Precision) -> int:
    return WEIGHT_BYTES[precision] * sum(math.prod(p.shape) for p in model.network.parameters())


def _check_size(model: Model, precision: Precision) -> None:
    needed = _bytes(model, precision)
    if needed > LARGEST_BYTES:
        raise UsageError(
            f"{model.name} has {needed / 1e9:.1f} GB of weights in {precision}; "
            f"a page can hold {LARGEST_BYTES / 1e9:g} GB.",
            "Choose fewer bits with --dtype, or --format onnx for other runtimes.",
        )
