"""Versions of what computes a result: told by run folders, model files, images, reports and `spherectl doctor`."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

DECIDING = ("python", "spherectl", "torch", "numpy", "safetensors")


def versions(*names: str) -> dict[str, str]:
    """Versions of those distributions that are installed, in the order asked; by default of `DECIDING`."""
    return {name: found for name in names or DECIDING if (found := version(name)) is not None}


def version(name: str) -> str | None:
    """The version of a distribution, of torch with its build; None where it is not installed."""
    if name == "python":
        return platform.python_version()
    if name == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
