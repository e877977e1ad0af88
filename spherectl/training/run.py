"""The run folder: its lock, its recipe, its metrics, and what it says of the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import torch

from spherectl import recipe as recipes
from spherectl.errors import FileError, TrainingError, UsageError
from spherectl.files import write_text
from spherectl.recipe import Recipe
from spherectl.training import checkpoint
from spherectl.training.cuda import takes_tf32
from spherectl.training.optimiser import same_so_far

VERSIONED = ("spherectl", "torch", "numpy", "safetensors")


class Run:
    """One training's folder.

    Attributes:
        path: the folder.
        checkpoints, samples, metrics, model: where its parts are.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / "model.safetensors"
        self.recipe = self.path / "recipe.toml"
        self.info = self.path / "run.json"
        self.unreadable = self.path / "unreadable.txt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock falls with the process, however that ends.

        Raises:
            TrainingError: another process holds it.
            FileError: the folder cannot be made.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise TrainingError(f"Another process is training in {self.path}.", "Wait for it, or give --run.") from None
        except OSError as error:
            raise FileError(
                f"Cannot make the run folder {self.path}: {error.strerror}.", "Give another place with --run."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, recipe: Recipe, parent: str, device: torch.device, processes: int = 1) -> None:
        """Write the resolved recipe and run.json, or check that the folder is this recipe's.

        Args:
            recipe: resolved.
            parent: hash of the model the weights start from; empty for fresh weights.
            device: what it trains on.
            processes: how many train together.

        Raises:
            UsageError: the folder holds another recipe's run, or one from another start; names the keys that differ.
        """
        known = recipes.load(self.recipe) if self.recipe.exists() else None
        if known is not None:
            differing = recipes.differing_keys(known, recipe)
            if differing == ["run.length_images"] and same_so_far(known, recipe, self.images_seen()):
                differing = []
            if self.parent() != parent and not differing:
                differing = ["--from"]
            if differing:
                raise UsageError(
                    f"{self.path} holds a run that differs in {', '.join(differing)}.",
                    "Give --run another folder, or the same settings to go on.",
                )
        info = {
            "parent": parent,
            "device": describe_device(device),
            "processes": processes,
            "float32_products": "tf32" if takes_tf32(device, recipe.run.dtype) else "float32",
            "versions": versions(),
        }
        write_text(self.info, json.dumps(info, indent=2, sort_keys=True) + "\n")
        if known != recipe:  # last, as it is what claims the folder; again where it goes on in another way
            write_text(self.recipe, recipe.to_toml())

    def images_seen(self) -> int:
        """Images of the newest checkpoint; 0 without one."""
        found = checkpoint.checkpoints(self.checkpoints)
        return int(found[-1].name) if found else 0

    def parent(self) -> str:
        """Hash of the model this run's weights started from; empty for fresh weights."""
        try:
            return str(json.loads(self.info.read_text(encoding="utf-8"))["parent"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def sweep(self) -> None:
        """Remove what a killed process had half written; only while the folder is locked."""
        checkpoint.sweep(self.checkpoints)
        for leftover in self.path.rglob(".*.tmp*"):
            leftover.unlink(missing_ok=True)

    def note_unreadable(self, names: Iterable[str]) -> None:
        """Append names of pictures that could not be read, a line each; those that are there stay as they are."""
        if new := set(names):
            known = set(self.unreadable.read_text(encoding="utf-8").splitlines()) if self.unreadable.exists() else set()
            with self.unreadable.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in sorted(new - known))

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines after `step`, which a resumed training writes again, and a line cut short."""
        kept = []
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
                try:
                    if not line.endswith("\n") or json.loads(line)["step"] > step:
                        break
                except (ValueError, KeyError):
                    break
                kept.append(line)
        write_text(self.metrics, "".join(kept))

    @contextlib.contextmanager
    def metrics_writer(self) -> Iterator[MetricsWriter]:
        """Append to metrics.jsonl; each line reaches the system as it is written."""
        try:
            with self.metrics.open("a", encoding="utf-8", buffering=1) as file:
                yield MetricsWriter(file)
        except OSError as error:
            raise FileError(f"Cannot write {self.metrics}: {error.strerror or error}.") from None


class MetricsWriter:
    """One JSON object a line."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, values: dict[str, float]) -> None:
        """Append one line."""
        self._file.write(json.dumps(values) + "\n")


def versions() -> dict[str, str]:
    """Versions that decide a result."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_device(device: torch.device) -> str:
    """What computes, as in "cpu, 2 threads"; a GPU by its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
