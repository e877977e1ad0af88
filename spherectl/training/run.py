"""The run folder: its lock, its recipe, its metrics, and what it says of the machine."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal

import filelock
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spherectl import recipe as recipes
from spherectl.data.image_set import ImageSet
from spherectl.data.transforms import to_uint8
from spherectl.documents import parse_json
from spherectl.errors import FileError, TrainingError, UsageError
from spherectl.files import open_regular, read_text, write_text
from spherectl.images import save_png
from spherectl.recipe import Recipe
from spherectl.shown import listed, printable, shortened
from spherectl.training import checkpoint
from spherectl.training.checkpoint import Counts
from spherectl.training.cuda import takes_tf32
from spherectl.training.optimiser import same_so_far
from spherectl.validation import validated
from spherectl.versions import versions

MAX_LINE = 1 << 20  # bytes of a line of the metrics; ours have some hundred


class Data(BaseModel):
    """What tells a run's training set from others (`ImageSet.identity`)."""

    model_config = ConfigDict(strict=True)

    images: Annotated[int, Field(ge=0)]
    class_names: list[str]
    listing: str

    def changes(self, before: Data) -> str:
        """What differs from the set as it was, in words; empty where nothing does."""
        now, then = set(self.class_names), set(before.class_names)
        new, gone = sorted(now - then), sorted(then - now)
        told = [
            f"{self.images:,} images instead of {before.images:,}" if self.images != before.images else "",
            f"new classes: {listed(new)}" if new else "",
            f"classes that are gone: {listed(gone)}" if gone else "",
            "its classes in another order" if not new + gone and self.class_names != before.class_names else "",
        ]
        if self != before and not any(told):
            told = ["as many images, but of other names, sizes or labels"]
        return "; ".join(filter(None, told))


class Info(BaseModel):
    """What a run reads of its run.json when it goes on; runs of earlier versions have no `data`."""

    model_config = ConfigDict(strict=True)

    parent: str = ""
    data: Data | None = None


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
            UsageError: its name is not UTF-8.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"The name of the run folder {self.path} is not UTF-8, so that safetensors cannot read what is in it.",
                "Give another place with --run-dir.",
            ) from None
        lock = filelock.FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise TrainingError(
                f"Another process is training in {self.path}.", "Wait for it, or give --run-dir."
            ) from None
        except OSError as error:
            raise FileError(
                f"Cannot make the run folder {self.path}: {error.strerror}.", "Give another place with --run-dir."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def claim(self, recipe: Recipe, dataset: ImageSet, parent: str, device: torch.device, processes: int = 1) -> None:
        """Write the resolved recipe and run.json, or check that the folder is this recipe's.

        Args:
            recipe: resolved.
            images: the training set.
            parent: hash of the model the weights start from; empty for fresh weights.
            device: what it trains on.
            processes: how many train together.

        Raises:
            UsageError: the folder holds another recipe's run, or one from another start, or the data has changed since;
                names what differs.
            FileError: what is in the folder cannot be read.
        """
        known = recipes.load(self.recipe) if self.recipe.exists() else None
        data = Data(**dataset.identity())
        if known is not None:
            before = self._read_info() or Info(parent=parent)
            changes = data.changes(before.data) if before.data is not None else ""
            if before.data is not None and changes and self.images_seen() and not self._repaired(data, before.data):
                raise UsageError(
                    f"The data is not what {self.path} began with: {changes}.",
                    "Restore it to go on with that run, or give --run-dir another folder.",
                )
            # The same set may lie anywhere; of earlier versions' runs only the place is known.
            there = recipe if before.data is None else recipe.replace(data={"root": known.data.root})
            differing = recipes.differing_keys(known, there)
            if differing == ["run.length_images"] and same_so_far(known, recipe, self.images_seen()):
                differing = []
            if before.parent != parent and not differing:
                differing = ["--from"]
            if differing:
                raise UsageError(
                    f"{self.path} holds a run that differs in {', '.join(differing)}.",
                    "Give --run-dir another folder, or the same settings to go on.",
                )
        info = {
            "parent": parent,
            "data": data.model_dump(),
            "device": describe_device(device),
            "processes": processes,
            "float32_products": "tf32" if takes_tf32(device, recipe.run.dtype) else "float32",
            "versions": versions(),
        }
        write_text(self.info, json.dumps(info, indent=2, sort_keys=True) + "\n")
        if known != recipe:  # last, as it is what claims the folder; again where it goes on in another way
            write_text(self.recipe, recipe.to_toml())

    def _repaired(self, data: Data, before: Data) -> bool:
        """Whether a set may differ by repaired images alone: some could not be read, and as many are there."""
        return self.unreadable.exists() and data.model_copy(update={"listing": before.listing}) == before

    def images_seen(self) -> int:
        """Images of the newest checkpoint; 0 without one."""
        found = checkpoint.checkpoints(self.checkpoints)
        return int(found[-1].name) if found else 0

    def parent(self) -> str:
        """Hash of the model this run's weights started from; empty for fresh weights."""
        found = self._read_info()
        return found.parent if found else ""

    def _read_info(self) -> Info | None:
        """What run.json says; None where there is none."""
        what, hint = f"{self.info} is not what it should be", "Remove it to go on without."
        try:
            table = parse_json(read_text(self.info))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cannot("read", self.info, error) from None
        except ValueError as error:
            raise FileError(f"{what}: {shortened(str(error))}.", hint) from None
        return validated(Info, table, what, hint)

    def sweep(self) -> None:
        """Remove what a killed process had half written; only while the folder is locked."""
        checkpoint.sweep(self.checkpoints)
        for leftover in self.path.rglob(".*.tmp*"):
            if not leftover.is_dir():
                leftover.unlink(missing_ok=True)

    def note_unreadable(self, names: Iterable[str]) -> None:
        """Append names of images that could not be read, a line each; those that are there stay as they are."""
        new = {printable(name) for name in names}  # a name may hold anything, a line end too
        if not new:
            return
        try:
            known = set(read_text(self.unreadable).splitlines()) if self.unreadable.exists() else set()
            with self.unreadable.open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in sorted(new - known))
        except OSError as error:
            raise _cannot("write", self.unreadable, error) from None

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines after `step`, which a resumed training writes again, and a line cut short."""
        kept = 0
        try:
            with open_regular(self.metrics) as file:
                while (line := file.readline(MAX_LINE)).endswith(b"\n") and _step(line) <= step:
                    kept += len(line)
            os.truncate(self.metrics, kept)
        except FileNotFoundError:
            write_text(self.metrics, "")
        except OSError as error:
            raise _cannot("write", self.metrics, error) from None

    @contextlib.contextmanager
    def metrics_writer(self) -> Iterator[RunFiles]:
        """The logger that every run has; each line reaches the system as it is written."""
        try:
            file = self.metrics.open("ab", buffering=0)
        except OSError as error:
            raise _cannot("write", self.metrics, error) from None
        with file:
            yield RunFiles(file, self)


class RunFiles:
    """The logger (`training.loggers.Logger`) that writes metrics.jsonl, one JSON object a line, and samples/."""

    def __init__(self, file: FileIO, run: Run) -> None:
        self._file, self._run = file, run

    def scalars(self, line: dict[str, float]) -> None:
        """Append one line.

        Raises:
            FileError: the disk is full.
        """
        try:
            self._file.write(f"{json.dumps(line)}\n".encode())
        except OSError as error:
            raise _cannot("write", self._run.metrics, error) from None

    def images(self, name: str, image: Tensor, counts: Counts) -> None:
        """Write one PNG, named after the images seen; raises `FileError` where that cannot be."""
        pixels = image if image.dtype == torch.uint8 else to_uint8(image)
        suffix = "" if name == "samples" else f"-{name}"
        save_png(self._run.samples / f"{counts.images_seen:012d}{suffix}.png", pixels, None)


def _step(line: bytes) -> float:
    """Of a line of the metrics; past every step where it is none of ours."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf
    return step if type(step) in (int, float) else math.inf


def _cannot(what: Literal["read", "write"], path: Path, error: OSError) -> FileError:
    return FileError(f"Cannot {what} {path}: {error.strerror or error}.", "What was saved before stays as it is.")


def describe_device(device: torch.device) -> str:
    """What computes, as in "cpu, 2 threads"; a GPU by its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
