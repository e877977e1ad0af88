"""From a model's file to what `Model` is made of, and the file's hash."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spherectl import zoo
from spherectl.checks import check_choice
from spherectl.files import file_hash
from spherectl.model.devices import Dtype, choose_device, choose_precision
from spherectl.model.formats.conversion import converted
from spherectl.model.formats.layouts import weights_file
from spherectl.model.formats.weights import instantiate, read_package
from spherectl.safetensors_header import opened
from spherectl.settings import load_settings

WeightSet = Literal["ema", "raw"]


class Source:
    """The file that a model came from, held open: the hash is of what was loaded, whatever is written there since.

    Args:
        file: a model file or a published checkpoint folder; None: none.
        sha256: of a file that is not held open, as in a copy of the model.
    """

    def __init__(self, file: Path | None, sha256: str = "") -> None:
        self._file = opened(weights_file(file)) if file else None
        self._sha256 = None if file else sha256
        if self._file is not None:
            weakref.finalize(self, self._file.close)

    @property
    def sha256(self) -> str:
        """Of the whole file; empty where there was none."""
        if self._sha256 is None:  # no lock, which a fork could leave locked: two threads find the same
            self._sha256 = file_hash(self._file) if self._file is not None else ""
        return self._sha256

    def __reduce__(self) -> tuple[type[Source], tuple[None, str]]:
        return Source, (None, self.sha256)


def read_found(
    found: zoo.Found,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype | torch.dtype = "auto",
    weights: WeightSet = "ema",
    compile: bool = False,
) -> dict[str, Any]:
    """The arguments of `Model` for a model that was found; a fetched checkpoint is converted the first time.

    Args:
        found: by `zoo.find_model`.
        device, dtype, weights, compile: as for `spherectl.load`.
    """
    check_choice(weights, ("ema", "raw"), "weights")
    where = choose_device(device)
    file = converted(found.path, load_settings())
    package = read_package(file, raw=weights == "raw")
    if weights == "raw" and package.raw is None and found.kind == "run":
        package = dataclasses.replace(package, raw=_newest_raw(file.parent))
    network = instantiate(package, weights)
    precision = choose_precision(dtype, where, network)
    how = {"device": where, "precision": precision, "weights": weights, "compile": compile}
    return {"network": network, "header": package.header, "name": found.name, "file": file, **how}


def model_hash(path: Path) -> str:
    """SHA-256 of a model file; of a published checkpoint folder, that of its newest checkpoint."""
    return file_hash(weights_file(path))


def _newest_raw(run: Path) -> dict[str, Tensor] | None:
    from spherectl.training import checkpoint  # only this one question needs it

    found = checkpoint.checkpoints(run / "checkpoints")
    return checkpoint.read_part(found[-1], "model") if found else None
