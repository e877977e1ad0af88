"""The model that a command is asked for: found, fetched with a bar if it has to be, loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spherectl.cli import console, options

if TYPE_CHECKING:
    from spherectl.api import Model
    from spherectl.settings import Settings
    from spherectl.zoo import Found


def find(model: str | None, settings: Settings) -> Found:
    """`zoo.find_model`, with a bar for what comes from the hub."""
    from spherectl import zoo

    with console.progress("fetching", unit="B") as bar:
        return zoo.find_model(model, settings, bar)


def load(
    model: str | None,
    settings: Settings,
    *,
    dtype: options.DtypeName,
    weights: options.WeightsName,
    device: str | None,
    threads: int | None = None,
) -> Model:
    """Find a model, say which it is, and load it.

    Args:
        model: as --model takes it.
        settings: where models are, and on which device they run unless `device` says so.
        dtype, weights, device, threads: as the options of these names.
    """
    found = find(model, settings)
    return load_found(found, settings, dtype=dtype, weights=weights, device=device, threads=threads)


def load_found(
    found: Found,
    settings: Settings,
    *,
    dtype: options.DtypeName,
    weights: options.WeightsName,
    device: str | None,
    threads: int | None = None,
) -> Model:
    """`load` for a model that `find` found."""
    import torch

    from spherectl import api

    if threads:
        torch.set_num_threads(threads)
    console.say(found.reason)
    return api.load_found(found, device=device or settings.device, dtype=dtype.value, weights=weights.value)
