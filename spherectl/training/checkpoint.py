"""Checkpoints: all of a training's state in a folder of safetensors, written side by side by its processes.

    checkpoints/000000050176/checkpoint.json                    counts, and how many shards there are
                             shard-00000-of-00002.safetensors   model.*, ema.*, optim.exp_avg.*, optim.exp_avg_sq.*
                             shard-00001-of-00002.safetensors

A shard holds whole tensors, or rows of tensors, and says in its header which rows of how many. So any number of
processes reads what any other number wrote. The folder gets its name when everything is in it: what has the name is
whole. Random streams need no state: they depend on the images seen alone.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from spherectl import safetensors_header
from spherectl.documents import parse_table
from spherectl.errors import FileError, SpherectlError
from spherectl.files import read_bytes, sync_folder, write_text
from spherectl.model.formats.header import Count, Header, header_of
from spherectl.model.formats.weights import read_rows, save_file
from spherectl.processes import Processes, local
from spherectl.safetensors_header import MAX_DIMENSIONS, TensorInfo, contents
from spherectl.shown import listed, quoted
from spherectl.training.ema import EMA
from spherectl.validation import validated

ARCHITECTURE = "training-state"
FORMAT = 2
MOMENTS = ("exp_avg", "exp_avg_sq")
INDEX = "checkpoint.json"
MAX_INDEX = 64 << 10  # bytes of it; ours has 200
MAX_SHARDS = 99_999  # processes; the names have five digits


@dataclass
class Counts:
    """How far a training is.

    Attributes:
        step: steps done.
        updates: optimiser steps among them; fewer where float16 had to leave some out.
        images_seen: over all processes.
        wall_s: seconds spent training, over all resumptions.
        loss_scale, good_steps: of float16's loss scaling.
    """

    step: int = 0
    updates: int = 0
    images_seen: int = 0
    wall_s: float = 0.0
    loss_scale: float = 1.0
    good_steps: int = 0


class Index(BaseModel):
    """checkpoint.json: the counts, and how many shards there are."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    format: int
    architecture: str
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    step: Count = 0
    updates: Count = 0
    images_seen: Count = 0
    wall_s: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    loss_scale: Annotated[float, Field(gt=0)] = 1.0
    good_steps: Count = 0


class ShardHeader(Header):
    """What a shard says of itself: by name the first row that it has, and the shape of the whole."""

    rows: dict[str, Annotated[list[Count], Field(min_length=1, max_length=1 + MAX_DIMENSIONS)]]


class Piece(NamedTuple):
    """What a process holds of one tensor.

    Attributes:
        tensor: rows `start`, `start + 1`, ... of the whole, or all of it.
        start: first row.
        shape: of the whole.
        sharded: whether processes hold rows of it, so that all is here only if the others have none.
    """

    tensor: Tensor
    start: int
    shape: tuple[int, ...]
    sharded: bool = False


def state(model: nn.Module, ema: EMA, optimiser: torch.optim.Optimizer) -> dict[str, Piece]:
    """All of a training's tensors as this process holds them, by their names in a checkpoint; not copies."""
    pieces: dict[str, Piece] = {}
    averages = ema.state()
    for name, p in model.named_parameters():
        held = {"model": local(p.detach()), "ema": averages[name]}
        if p.requires_grad:
            held |= {f"optim.{moment}": local(optimiser.state[p][moment]) for moment in MOMENTS}
        sharded = hasattr(p, "device_mesh")
        start = _first_row(p) if sharded else 0
        pieces |= {f"{kind}.{name}": Piece(tensor, start, tuple(p.shape), sharded) for kind, tensor in held.items()}
    return pieces


def _first_row(p: Any) -> int:
    """Of what this process holds of a sharded parameter."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    return int(offset[0])


def own(pieces: dict[str, Piece], processes: Processes) -> dict[str, Piece]:
    """Those that this process writes, so that each row is written once and all write about as much.

    Shards are written by who holds them. Of tensors that every process holds whole, the largest are dealt first, each
    to who has least so far.
    """
    mine: dict[str, Piece] = {}
    loads = [0] * processes.world
    for name, piece in sorted(pieces.items(), key=lambda item: (-item[1].tensor.nbytes, item[0])):
        if piece.sharded:
            if len(piece.tensor):
                mine[name] = piece
            continue
        writer = loads.index(min(loads))
        loads[writer] += piece.tensor.nbytes
        if writer == processes.rank:
            mine[name] = piece
    return mine


def copied(pieces: dict[str, Piece]) -> dict[str, Piece]:
    """Copies on the CPU, which training can no longer change."""
    return {name: piece._replace(tensor=piece.tensor.to("cpu", copy=True)) for name, piece in pieces.items()}


def partial_path(path: Path) -> Path:
    """Where a checkpoint is put together."""
    return path.with_name(f".{path.name}.tmp")


def write_shard(path: Path, pieces: dict[str, Piece], processes: Processes) -> None:
    """Write one process's part of a checkpoint into its unfinished folder."""
    name = f"shard-{processes.rank:05d}-of-{processes.world:05d}.safetensors"
    rows = {name: [piece.start, *piece.shape] for name, piece in sorted(pieces.items())}
    header = {"format": FORMAT, "architecture": ARCHITECTURE, "rows": rows}
    try:
        save_file(partial_path(path) / name, {name: piece.tensor for name, piece in pieces.items()}, header)
    except FileError:
        shutil.rmtree(partial_path(path), ignore_errors=True)
        raise


def commit(path: Path, counts: Counts, shards: int) -> None:
    """Give a checkpoint its name, once all of its shards are written."""
    partial = partial_path(path)
    about = {"format": FORMAT, "architecture": ARCHITECTURE, "shards": shards, **asdict(counts)}
    write_text(partial / INDEX, json.dumps(about, indent=1) + "\n")
    if path.exists():  # of the same images, so of the same weights
        shutil.rmtree(partial)
        return
    try:
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror or error}.", "The one before is whole.") from None


def checkpoint_path(folder: Path, images_seen: int) -> Path:
    """The checkpoint at `images_seen` in a run's checkpoints folder."""
    return folder / f"{images_seen:012d}"


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("*") if re.fullmatch(r"\d{12}", p.name) and (p / INDEX).is_file())


def sweep(folder: Path) -> None:
    """Remove what killed processes left of checkpoints that were being written or removed."""
    whole = set(checkpoints(folder))
    for path in folder.glob("*"):
        if path.is_dir() and path not in whole and re.fullmatch(r"\d{12}|\.\d{12}\.tmp", path.name):
            shutil.rmtree(path)


def prune(folder: Path, keep: int, milestone_images: int | None) -> None:
    """Remove all but the newest `keep` and, of each further `milestone_images`, the first."""
    found = checkpoints(folder)
    milestones: dict[int, Path] = {}
    for path in found:
        if milestone_images and int(path.name) >= milestone_images:
            milestones.setdefault(int(path.name) // milestone_images, path)
    for path in found[:-keep]:
        if path not in milestones.values():
            (path / INDEX).unlink()  # first, so that what a kill leaves of the folder is no checkpoint
            shutil.rmtree(path)


class Reader:
    """A checkpoint's tensors by name, whole or some of their rows.

    Attributes:
        counts: how far the training was.
        shapes: of the whole tensors, by name.
    """

    def __init__(self, path: Path, counts: Counts) -> None:
        self.path, self.counts = path, counts
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._held: dict[str, list[tuple[int, TensorInfo, BufferedReader, Path]]] = {}  # by name: first row, and where

    def add(self, file: BufferedReader, shard: Path) -> None:
        """Take an open shard in.

        Raises:
            FileError: it is damaged.
        """
        found = contents(file, shard)
        rows = header_of(found, shard, ShardHeader).table["rows"]
        for name, (start, *shape) in rows.items():
            info, whole = found.tensors.get(name), self.shapes.setdefault(name, tuple(shape))
            held = info.shape[:1] if info else ()
            if info is None or tuple(shape) != whole or info.shape[1:] != whole[1:] or len(info.shape) != len(whole):
                raise FileError(f"{shard} does not hold the rows of {quoted(name)} that it announces.")
            if held and start + held[0] > whole[0]:
                raise FileError(f"{shard} holds more rows of {quoted(name)} than there are.")
            self._held.setdefault(name, []).append((start, info, file, shard))

    def check(self) -> None:
        """Refuse a checkpoint that lacks rows.

        Raises:
            FileError: it does.
        """
        for name, shape in self.shapes.items():
            row = 0
            for first, info, *_ in sorted(self._held[name], key=lambda one: one[0]) if shape else ():
                row = row + info.shape[0] if first == row else -1  # which no later one begins at
            if shape and row != shape[0]:
                raise FileError(f"{self.path} lacks rows of {quoted(name)}.")

    def read(self, name: str, start: int = 0, rows: int | None = None) -> Tensor:
        """Rows `start` to `start + rows` of a tensor; by default all.

        Raises:
            FileError: the checkpoint does not have them.
        """
        shape, held = self.shapes[name], sorted(self._held[name], key=lambda one: one[0])
        if not shape:
            return read_rows(held[0][2], held[0][1], held[0][3])
        stop = start + (shape[0] - start if rows is None else rows)
        parts = []
        for first, info, file, shard in held:
            low, high = max(start, first), min(stop, first + info.shape[0])
            if low < high:
                parts.append(read_rows(file, info, shard, low - first, high - low))
        if sum(map(len, parts)) != stop - start:
            raise FileError(f"{self.path} lacks rows of {quoted(name)}.", how_to_go_on(self.path))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """Open a checkpoint for reading; tensors are read when they are asked for.

    Raises:
        FileError: it is damaged, or of another kind; the hint names the newest one that is whole.
    """
    with contextlib.ExitStack() as stack:
        try:
            reader = _reader(path, stack)
        except FileError as error:
            raise FileError(f"The checkpoint {path.name} is damaged. {error.message}", how_to_go_on(path)) from None
        yield reader


def how_to_go_on(path: Path) -> str:
    """What to do about a damaged checkpoint: which one a training goes on from without it."""
    for other in reversed(checkpoints(path.parent)):
        if other == path:
            continue
        with contextlib.ExitStack() as stack, contextlib.suppress(FileError):
            _reader(other, stack)
            newer = [one for one in checkpoints(path.parent) if one > other]
            return f"{other} is whole: remove {listed(newer)}, and the training goes on from there."
    return "No other checkpoint of this run is whole: begin a new run."


def _reader(path: Path, stack: contextlib.ExitStack) -> Reader:
    """A checkpoint's files, open until the stack is left, and held against its index."""
    try:
        table = parse_table(read_bytes(path / INDEX, MAX_INDEX), str(path / INDEX))
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(f"Cannot read {path / INDEX}: {error.strerror}.") from None
    index = validated(Index, table, str(path / INDEX))
    if (index.architecture, index.format) != (ARCHITECTURE, FORMAT):
        raise FileError(f"{path} is not a checkpoint of this version.")
    shards = sorted(path.glob(f"shard-*-of-{index.shards:05d}.safetensors"))
    if len(shards) != index.shards:
        raise FileError(f"{path} has {len(shards):,} of its {index.shards:,} shards.")
    reader = Reader(path, Counts(**index.model_dump(exclude={"architecture", "format", "shards"})))
    for shard in shards:
        reader.add(stack.enter_context(safetensors_header.opened(shard)), shard)
    reader.check()
    return reader


def load(path: Path, model: nn.Module, ema: EMA, optimiser: torch.optim.Optimizer) -> Counts:
    """Restore what processes, however many, wrote: bit for bit, into the part that this one holds.

    Raises:
        FileError: the checkpoint is damaged, or of another model.
    """
    with opened(path) as reader, torch.no_grad():
        pieces = state(model, ema, optimiser)
        if {name: piece.shape for name, piece in pieces.items()} != reader.shapes:
            raise FileError(f"{path} is not a checkpoint of this run's model.", "Begin a new run.")
        for name, piece in pieces.items():
            if piece.tensor.numel():
                piece.tensor.copy_(reader.read(name, piece.start, len(piece.tensor)))
        for moments in optimiser.state.values():
            moments["step"].fill_(reader.counts.updates)
        return reader.counts


def read_part(path: Path, part: str) -> dict[str, Tensor]:
    """The whole tensors of one part, "model" (raw weights) or "ema", under the names of the model."""
    prefix = f"{part}."
    with opened(path) as reader:
        return {name.removeprefix(prefix): reader.read(name) for name in reader.shapes if name.startswith(prefix)}
