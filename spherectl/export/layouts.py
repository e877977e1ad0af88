"""Model files for others: a slim safetensors file, and the layouts of published checkpoints.

Both are read again and compared with the model before they take their names.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from spherectl.api import Model
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.export import check
from spherectl.export.check import Difference
from spherectl.export.graphs import Part
from spherectl.export.metadata import Exported
from spherectl.files import replacing, sync_folder
from spherectl.model.formats.layouts import PUBLISHED, Layout
from spherectl.model.formats.weights import Package, instantiate, read_package, write_package
from spherectl.shown import listed

Kept = Literal["float32", "float16", "bfloat16"]
KEPT: tuple[Kept, ...] = ("float32", "float16", "bfloat16")
CPU = torch.device("cpu")
DESCRIBED = ("class_names", "licence", "channels", "data")  # keys of our header that a layout may lack


def export_safetensors(
    package: Package, path: Path, dtype: Kept = "float32", weights: Literal["ema", "raw"] = "ema", name: str = ""
) -> Exported:
    """Write one set of a model's weights as a model file that `spherectl --model` takes; its header is kept.

    Args:
        package: from `formats.weights.read_package`.
        path: replaced if it is there.
        dtype: of the weights in the file; what is computed from them is up to whoever loads it.
        weights: averaged weights where there are any, or those of the last step.
        name: of the model, noted in the header as where the file comes from.

    Raises:
        UsageError: raw weights are asked for and there are none.
        SpherectlError: the weights differ too much from the model's; the file is not written.
    """
    is_raw = weights == "raw" or package.header.get("weights", "raw") == "raw"
    model = Model(instantiate(package, weights), package.header, name=name, device=CPU)
    tensors = {key: t.to(getattr(torch, dtype)) for key, t in model.network.state_dict().items()}
    if infinite := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise SpherectlError(
            f"{path.name} differs too much from the model: in {dtype} {listed(infinite, 3)} would be infinite.",
            "Use bfloat16 or float32.",
        )
    header = {**package.header, "weights": "raw" if is_raw else "ema"}
    with replacing(path) as temporary:
        write_package(temporary, Package(header, tensors))
        difference = _difference(model, read_package(temporary))
        check.demand(difference, dtype, path.name)
        header["export"] = {"from": name, "dtype": dtype, "difference": difference.table()}
        write_package(temporary, Package(header, tensors))
    return Exported(path, difference)


def export_layout(package: Package, folder: Path, layout: Layout = PUBLISHED) -> Exported:
    """Write a model as a published checkpoint folder, with both sets of weights.

    Class names, licence and the measured difference go where the layout's readers leave them alone.

    Args:
        package: from `formats.weights.read_package`.
        folder: made if it is missing; files of the layout's names are replaced.
        layout: one of `formats.layouts.LAYOUTS`.

    Returns:
        The checkpoint's path, and how far the model read from it is from the one written.

    Raises:
        UsageError: the folder has another checkpoint.
        SpherectlError: what is read again is not the model bit for bit; nothing is written.
    """
    folder = Path(folder)
    _make(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        made = Path(place) / folder.name
        layout.write(made, package)
        checkpoint = layout.newest(made)
        written = folder / checkpoint.relative_to(made)
        _refuse_others(folder, [path for path in layout.checkpoints(folder) if path != written])
        model = Model(instantiate(package), package.header, name=folder.name, device=CPU)
        back = layout.read(made)
        _demand_same(package, back)
        difference = _difference(model, back)
        facts = {key: package.header[key] for key in DESCRIBED if key in package.header}
        layout.describe(made, {**facts, "difference": difference.table()})
        _make(written.parent)
        (made / layout.config).replace(folder / layout.config)
        checkpoint.replace(written)
        sync_folder(folder)
    return Exported(written, difference)


def _difference(model: Model, package: Package) -> Difference:
    """How far the model of what was read again is from the one that was written, by decoder and encoder."""
    again = Model(instantiate(package), package.header, name=model.name, device=CPU)
    found = []
    parts: tuple[Part, ...] = ("decoder", "encoder")
    for part in parts:
        given = check.cases(model, part)
        found.append(check.compare(model, part, given, [check.expected(again, part, inputs) for inputs in given]))
    return Difference(
        max(one.max_difference for one in found),
        min(one.median_psnr_db for one in found),
        sum(one.images for one in found),
    )


def _demand_same(package: Package, back: Package) -> None:
    """Refuse anything but the same bits."""
    wanted = {"model": package.raw or package.weights}
    if package.header.get("weights") == "ema":
        wanted = {"model": package.raw or package.weights, "ema_model": package.weights}
    found = {"model": back.raw or back.weights}
    if back.header["weights"] == "ema":
        found["ema_model"] = back.weights
    if not (wanted.keys() == found.keys() and all(_same(wanted[key], found[key]) for key in wanted)):
        raise SpherectlError("The published layout, read again, is not the model bit for bit. Nothing was written.")


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def _refuse_others(folder: Path, others: list[Path]) -> None:
    """Two checkpoints in one folder are read as one model: the newest."""
    if others:
        raise UsageError(
            f"{folder} holds another checkpoint, {others[-1].name}; the two would be taken for one model.",
            "Choose another folder with --out.",
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot make {folder}: {error.strerror}.", "Choose another place with --out.") from None
