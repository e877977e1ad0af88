"""The formats of `spherectl export`: one record each, which the command looks up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from spherectl.model.formats.layouts import LAYOUTS, Layout

if TYPE_CHECKING:
    from spherectl.api import Model
    from spherectl.export.check import Difference
    from spherectl.zoo import Found

PARTS = ("decoder", "encoder", "round")  # of a model, that are graphs of their own


class Written(Protocol):
    """A file and how far it is from the model."""

    @property
    def path(self) -> Path:
        """Where."""

    @property
    def difference(self) -> Difference:
        """Measured."""


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        found: the model.
        out: file or folder, by format.
        dtype: of the weights.
        parts: graphs to write, in order.
        weights: "ema" or "raw"; None: the averaged ones, and where both can be kept, both.
    """

    found: Found
    out: Path
    dtype: str
    parts: Sequence[str]
    weights: Literal["ema", "raw"] | None


@dataclass(frozen=True)
class Format:
    """One way out.

    Attributes:
        write: yields each file when it is there.
        dtypes: that can be asked for, the default first.
        has_parts: whether it is written in parts, into a folder.
        suffix: of the one file it is; the empty string: a folder.
        has_weights: whether one set of weights is chosen.
        then: what to type next, {out} being what was written.
    """

    write: Callable[[Request], Iterator[Written]]
    dtypes: tuple[str, ...]
    has_parts: bool = False
    suffix: str = ""
    has_weights: bool = True
    then: str = ""


def _write_onnx(request: Request) -> Iterator[Written]:
    from spherectl.export.onnx import check_packages, export_onnx

    check_packages()
    model = _load(request)
    for part in request.parts:
        yield from export_onnx(model, request.out, [part], request.dtype)  # type: ignore[list-item, arg-type]


def _write_pt2(request: Request) -> Iterator[Written]:
    from spherectl.export.pt2 import export_pt2

    model = _load(request)
    for part in request.parts:
        yield from export_pt2(model, request.out, [part])  # type: ignore[list-item]


def _write_layout(layout: Layout, request: Request) -> Iterator[Written]:
    from spherectl.export.layouts import export_layout
    from spherectl.model.formats.weights import read_package

    yield export_layout(read_package(request.found.path), request.out, layout)


def _write_safetensors(request: Request) -> Iterator[Written]:
    from spherectl.export.layouts import export_safetensors
    from spherectl.model.formats.weights import read_package

    package, name = read_package(request.found.path), request.found.name
    yield export_safetensors(package, request.out, request.dtype, request.weights or "ema", name)  # type: ignore[arg-type]


def _write_web(request: Request) -> Iterator[Written]:
    from spherectl.export.onnx import check_packages
    from spherectl.export.web import export_web

    check_packages()
    precision = None if request.dtype == AUTO else request.dtype
    yield from export_web(_load(request), request.out, precision)  # type: ignore[arg-type]


AUTO = "auto"
SERVE = "see it: python -m http.server --directory {out} 8000, then open http://localhost:8000"

FORMATS = {
    "onnx": Format(_write_onnx, ("float32", "float16", "int8"), has_parts=True),
    "pt2": Format(_write_pt2, ("float32",), has_parts=True),
    **{one.name: Format(partial(_write_layout, one), ("float32",), has_weights=False) for one in LAYOUTS},
    "safetensors": Format(_write_safetensors, ("float32", "float16", "bfloat16"), suffix=".safetensors"),
    "web": Format(_write_web, (AUTO, "float32", "float16", "int8"), then=SERVE),
}


def _load(request: Request) -> Model:
    from spherectl import api

    return api.load_found(request.found, device="cpu", dtype="float32", weights=request.weights or "ema")
