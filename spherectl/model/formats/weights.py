"""Our model files: one safetensors file with a JSON header (`formats.header`).

Tensors have the names of the published layout (`encoder....`, `decoder....`). A second, raw set beside averaged weights
has the prefix `raw.`.

Tensors are read, not mapped: a file that is cut while it is mapped kills the process without a message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spherectl.errors import FileError, UsageError
from spherectl.files import replacing
from spherectl.model.formats.header import ARCHITECTURE, FORMAT, HEADER_KEY, ModelHeader, header_of
from spherectl.model.formats.layouts import PUBLISHED, layout_at
from spherectl.model.formats.package import Package, check_weights, fill, instantiate, packed
from spherectl.registry import EXPERIMENTS, NETWORKS, OF_EXPERIMENTS, SPHERE, of_header
from spherectl.safetensors_header import TensorInfo, contents, opened
from spherectl.shown import quoted, with_article

__all__ = [
    "Package",
    "check_header",
    "fill",
    "instantiate",
    "read_package",
    "read_rows",
    "read_tensors",
    "save_file",
    "write_package",
]

RAW = "raw."

# torch's types by safetensors' names of them.
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def save_file(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file, whole or not at all."""
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(contiguous, temporary, metadata={HEADER_KEY: text})
        except safetensors.SafetensorError as error:
            raise FileError(f"Cannot write {path}: {error}.", "Nothing was changed; make room and try again.") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        FileError: missing, or not a whole safetensors file.
    """
    with opened(path) as file:
        return {name: read_rows(file, info, path) for name, info in contents(file, path).tensors.items()}


def read_rows(file: BufferedReader, info: TensorInfo, path: Path, start: int = 0, rows: int | None = None) -> Tensor:
    """A tensor, or some of its rows.

    Args:
        file: open.
        info: where the tensor is in it.
        path: of the file, for errors.
        start: first row.
        rows: how many; None: all from there.

    Raises:
        FileError: the file was cut meanwhile, or the type is none of torch's.
    """
    dtype = DTYPES.get(info.dtype)
    if dtype is None:
        raise FileError(f"{path} has a tensor of the type {info.dtype}, which is not read here.")
    shape, size, offset = info.shape, info.stop - info.start, 0
    if shape and (start or rows is not None):
        a_row = size // shape[0] if shape[0] else 0
        rows = shape[0] - start if rows is None else rows
        shape, size, offset = (rows, *shape[1:]), rows * a_row, start * a_row
    buffer = torch.empty(size, dtype=torch.uint8)
    file.seek(info.start + offset)
    if file.readinto(buffer.numpy().data) != size:
        raise FileError(f"{path} was cut short while it was read.", "Fetch it or copy it again.")
    return buffer.view(dtype).reshape(shape)


def write_package(path: Path, package: Package) -> None:
    """Write a model as one file."""
    kind = NETWORKS[package.header["recipe"].get("model", {}).get("kind", SPHERE.name)]
    header = {**package.header, "format": FORMAT, "architecture": kind.header_name}
    raw = {RAW + name: tensor for name, tensor in (package.raw or {}).items()}
    save_file(path, {**package.weights, **raw}, header)


def read_package(path: Path, architecture: str = ARCHITECTURE, *, raw: bool = True) -> Package:
    """Read a model: one of our files, or a published checkpoint folder.

    Args:
        path: of the file or folder.
        architecture: which the model must have: a Sphere Encoder's, or another of `spherectl.registry`.
        raw: whether raw weights beside averaged ones are read too.

    Raises:
        FileError: missing, damaged, of a newer format, of an architecture this version does not know, or with weights
            that no model has.
        UsageError: networks of another kind than the one that is needed.
    """
    if Path(path).is_dir():
        return (layout_at(path) or PUBLISHED).read(path)  # type: ignore[no-any-return]
    with opened(path) as file:
        found = contents(file, path)
        header = header_of(found, path)
        check_header(path, header.table, architecture)

        def read(wanted: Callable[[str], bool]) -> dict[str, Tensor]:
            named = {name: info for name, info in found.tensors.items() if wanted(name)}
            tensors = {name.removeprefix(RAW): read_rows(file, info, path) for name, info in named.items()}
            check_weights(tensors, str(path))
            return tensors

        weights = read(lambda name: not name.startswith(RAW))
        raw_weights = (raw and read(lambda name: name.startswith(RAW))) or None
        if isinstance(header, ModelHeader):
            return packed(header.table, header.parsed_recipe, weights, raw_weights)
        return Package(header.table, weights, raw_weights)


def check_header(path: Path, header: dict[str, Any], architecture: str = ARCHITECTURE) -> None:
    """Refuse a network of another kind than the one that is needed."""
    found = header["architecture"]
    kind = of_header(found)
    if kind is None and found in OF_EXPERIMENTS:
        raise UsageError(f"{path} holds {with_article(found)}, which experiments/ can read.", f"Use {EXPERIMENTS}.")
    if kind is None:
        known = ", ".join(repr(one.header_name) for one in NETWORKS.values())
        raise FileError(f"{path} holds a network of architecture {quoted(found)}; models here are {known}.")
    if found != architecture:
        hint = f"`{kind.sampling.format(path)}` samples from it." if kind.sampling else "Give another model."
        raise UsageError(f"{path} holds {with_article(found)}; {with_article(architecture)} is needed here.", hint)
