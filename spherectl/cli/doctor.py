"""`spherectl doctor`: what this machine has, what is in force, and what would be used."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.cli import console, options
from spherectl.shown import shortened

if TYPE_CHECKING:
    from spherectl.settings import Settings

Facts = dict[str, str | int]

MAX_FACT = 4_000  # characters of one line

# Distributions whose version matters when something differs between machines.
PACKAGES = (
    "spherectl", "python",
    "torch", "torchvision", "xformers", "numpy", "pillow", "safetensors", "pydantic", "pydantic-settings", "pooch",
    "torch-fidelity", "lpips", "typer", "rich", "tensorboard", "matplotlib", "onnx", "onnxscript", "onnxruntime",
    "diffusers",
)  # fmt: skip


def doctor(as_json: options.Json = False) -> None:
    """Show what this machine has and what spherectl would use: versions, device, attention, settings, data, model.

    Where settings are wrong it tells so, and the rest as it is with none. Worth pasting into a report of a problem; it
    contains paths, but nothing secret.
    """
    from spherectl.errors import SpherectlError
    from spherectl.settings import Settings, load_settings

    wrong: SpherectlError | None = None
    try:
        settings = load_settings()
    except SpherectlError as error:
        wrong, settings = error, Settings.model_construct(cache=Path(), data=Path())
    report = {section.__name__.strip("_"): _told(section, settings) for section in SECTIONS}
    if wrong is not None:
        report["settings"] = {"error": str(wrong)}
    if as_json:
        console.show_json(report)
    else:
        _show(report)
    if wrong is not None:
        raise wrong


def _show(report: dict[str, Facts]) -> None:
    for name, facts in report.items():
        console.show(name)
        width = max(map(len, facts), default=0)
        for key, fact in facts.items():
            console.show(f"  {key:{width}}  {shortened(str(fact), MAX_FACT)}")


def _told(section: Callable[[Settings], Facts], settings: Settings) -> Facts:
    """A section, or in its place what keeps it from being told: one broken thing must not hide the others."""
    from spherectl.errors import SpherectlError

    try:
        return section(settings)
    except SpherectlError as error:
        return {"error": str(error)}
    except OSError as error:  # a folder that may not be looked into
        return {"error": f"{error.filename}: {error.strerror}"}


def _versions(_settings: Settings) -> Facts:
    from spherectl.versions import version

    return {name: version(name) or "not installed" for name in PACKAGES}


def _machine(settings: Settings) -> Facts:
    import torch

    from spherectl.model import kernels
    from spherectl.model.devices import choose_device

    device = choose_device(settings.device)
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cuda": str(torch.version.cuda) if torch.cuda.is_available() else "not available",
        "bfloat16": _bfloat16(device.type),
        "tf32": "in training" if device.type == "cuda" and torch.cuda.is_tf32_supported() else f"not on this {device}",
        "compile": _compile(device.type),
        "kernels": kernels.explain() if device.type == "cpu" else "for CPUs only",
        "cache_free": _free(settings.cache),
        "runs_free": _free(settings.runs),
    }


def _bfloat16(device: str) -> str:
    """Whether products in bfloat16 are fast here."""
    import torch

    if device == "cuda":
        return "in hardware" if torch.cuda.is_bf16_supported(including_emulation=False) else "emulated, slow"
    if device == "mps":
        return "not used; models run in float32 on MPS"
    if not torch.backends.mkldnn.is_available():
        return "slow: this torch has no oneDNN"
    if torch.cpu._is_amx_tile_supported():  # noqa: SLF001 - torch has no public question
        return "fast: oneDNN with AMX"
    if torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001
        return "fast: oneDNN with AVX512-BF16"
    return "slow: this processor has no instructions for it"


def _compile(device: str) -> str:
    """What `sample --compile` would compile with."""
    from importlib.util import find_spec

    if device == "mps":
        return "not used on MPS"
    if device == "cuda":
        return "Triton" if find_spec("triton") else "not possible: no Triton"
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch looks for it
    return shutil.which(name) or f"not possible: no {name}"


def _free(folder: Path) -> str:
    """Room on the disk where a folder is or would be."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return f"{shutil.disk_usage(existing).free / 1e9:.1f} GB"


def _attention(settings: Settings) -> Facts:
    from spherectl.model.attention import explain
    from spherectl.model.devices import choose_device

    return dict(explain(choose_device(settings.device)))


def _settings(settings: Settings) -> Facts:
    """Each setting, and where it comes from."""
    from spherectl.settings import config_path, origin

    facts: Facts = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        words = os.pathsep.join(map(str, value)) if isinstance(value, tuple) else str(value)
        facts[name] = f"{words or None} ({origin(name)})"
    path = config_path()
    if path is None:
        return {**facts, "config": "none: no home folder is known"}
    return {**facts, "config": f"{path}" if path.is_file() else f"{path} (no such file)"}


def _data(settings: Settings) -> Facts:
    """Where `train` would find each data set without --data; nothing is fetched and no image is decoded."""
    from spherectl.data.datasets import find_set
    from spherectl.data.sets import records

    published = [record for record in records().values() if record.own_name is None]
    return {record.name: str(find_set(record, settings) or "not found") for record in published}


def _features(settings: Settings) -> Facts:
    """Where the weights of the published feature networks are kept, or are fetched from."""
    from spherectl.features.records import records

    facts: Facts = {}
    for record in records().values():
        file = settings.cache / record.place
        if record.source is not None:
            facts[record.name] = str(file) if file.is_file() else f"not here; {record.weights}"
    return facts


def _loggers(_settings: Settings) -> Facts:
    """Where trainings can show their curves, beside the run folder."""
    from spherectl.registry import LOGGERS

    return {name: "ready" if one.installed else f"not installed: {one.install}" for name, one in LOGGERS.items()}


def _model(settings: Settings) -> Facts:
    from spherectl.zoo import find_model
    from spherectl.zoo.entries import cached_path
    from spherectl.zoo.repositories import PREFIX, hub_place, parse_name

    named = settings.model or ""
    if named.startswith(PREFIX) and not cached_path(hub_place(parse_name(named)), settings).exists():
        return {"default": f"{named}, to be fetched when it is first used"}
    found = find_model(None, settings)
    return {"default": found.reason.removeprefix("model: "), "file": str(found.path)}


SECTIONS = (_versions, _machine, _attention, _settings, _data, _features, _loggers, _model)
