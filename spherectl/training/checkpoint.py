"""Checkpoints: all of a training's state in one safetensors file, written whole, found, pruned.

A file holds `model.*`, `ema.*`, `optim.exp_avg.*` and `optim.exp_avg_sq.*`; its header the counts. Random streams need
no state: they depend on the images seen alone.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from spherectl.errors import FileError
from spherectl.model.sphere import SphereEncoder
from spherectl.model.weights import read_header, read_tensors, save_file
from spherectl.training.ema import EMA

ARCHITECTURE = "training-state"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Counts:
    """How far a training is.

    Attributes:
        step: optimiser steps done.
        images_seen: over all processes.
        wall_s: seconds spent training, over all resumptions.
    """

    step: int = 0
    images_seen: int = 0
    wall_s: float = 0.0


def checkpoint_path(folder: Path, images_seen: int) -> Path:
    """File of the checkpoint at `images_seen` in a run's checkpoints folder."""
    return folder / f"{images_seen:012d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first; temporary files of an interrupted save do not count."""
    return sorted(p for p in folder.glob("*.safetensors") if re.fullmatch(r"\d{12}", p.stem))


def save(folder: Path, model: SphereEncoder, ema: EMA, optimiser: torch.optim.Optimizer, counts: Counts) -> Path:
    """Write a checkpoint, whole or not at all."""
    tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in model.named_parameters()}
    tensors |= {f"ema.{name}": t for name, t in ema.state().items()}
    for name, p in model.named_parameters():
        for moment in MOMENTS:
            if moment in optimiser.state.get(p, {}):
                tensors[f"optim.{moment}.{name}"] = optimiser.state[p][moment]
    path = checkpoint_path(folder, counts.images_seen)
    save_file(path, tensors, {"format": 1, "architecture": ARCHITECTURE, **asdict(counts)})
    return path


def load(path: Path, model: SphereEncoder, ema: EMA, optimiser: torch.optim.Optimizer) -> Counts:
    """Restore everything `save` wrote, bit for bit.

    Raises:
        FileError: the file is damaged, or of another model.
    """
    header, tensors = read_header(path), read_tensors(path)
    parameters = dict(model.named_parameters())
    expected = {f"{part}.{name}" for part in ("model", "ema") for name in parameters}
    if header.get("architecture") != ARCHITECTURE or not expected <= tensors.keys():
        raise FileError(f"{path} is not a checkpoint of this run's model.", "Remove it to go on from the one before.")
    counts = Counts(header["step"], header["images_seen"], header["wall_s"])
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"model.{name}"])
            if counts.step and p.requires_grad:
                moments = {m: tensors[f"optim.{m}.{name}"].to(p.device).clone() for m in MOMENTS}
                optimiser.state[p] = {"step": torch.tensor(float(counts.step), device=p.device), **moments}
    ema.load({name: tensors[f"ema.{name}"].to(p.device) for name, p in parameters.items()})
    return counts


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in checkpoints(folder)[:-keep]:
        path.unlink()


def read_raw(path: Path) -> dict[str, Tensor]:
    """The raw (not averaged) weights in a checkpoint, under the names of the model."""
    prefix = "model."
    return {name.removeprefix(prefix): t for name, t in read_tensors(path).items() if name.startswith(prefix)}
