"""`spherectl.load`: a model by any of its names."""

from __future__ import annotations

from pathlib import Path

import torch

from spherectl import zoo
from spherectl.api.files import WeightSet, read_found
from spherectl.api.model import Model
from spherectl.errors import UsageError
from spherectl.model.devices import Dtype
from spherectl.settings import load_settings
from spherectl.shown import quoted


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype | torch.dtype = "auto",
    weights: WeightSet = "ema",
    compile: bool = False,
) -> Model:
    """Load a model.

    Args:
        model: a zoo name, a model file, a run folder, a published checkpoint folder or hf:user/repo; None: the setting,
            else the newest run, else the embedded model.
        device: auto, cpu, cuda, cuda:1, mps, or a torch.device.
        dtype: a torch.dtype, or a name: float32, bfloat16, float16, float64, int8, auto. "auto" is bfloat16 on CUDA and
            on CPUs where it is measured to be faster, float32 elsewhere; "int8" is faster still on such CPUs, and less
            exact; "float64" is for comparisons; "float16" is for CUDA.
        weights: "ema", averaged weights where there are any, or "raw", those of the last step.
        compile: generate through torch.compile, on CUDA through CUDA graphs. The first batch of a size waits for the
            compiler, a shorter last batch is filled up, and the last bits are others than without.

    Returns:
        The model in eval mode without gradients; `Model.train` lets it have them.

    Raises:
        UsageError, FileError: no such model, or one that cannot be read; or none that can be compiled here; an
            argument that is none of those above.

    >>> import spherectl, torch
    >>> spherectl.load("fashion-mnist", device="cpu", dtype=torch.float64).dtype
    torch.float64
    """
    if model is not None and not isinstance(model, str | Path):
        raise UsageError(f"model: expected a name or a path, got {quoted(model)}.")
    found = zoo.find_model(None if model is None else str(model), load_settings())
    return load_found(found, device=device, dtype=dtype, weights=weights, compile=compile)


def load_found(
    found: zoo.Found,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype | torch.dtype = "auto",
    weights: WeightSet = "ema",
    compile: bool = False,
) -> Model:
    """`load` for a model that `zoo.find_model` found."""
    return Model(**read_found(found, device=device, dtype=dtype, weights=weights, compile=compile))
