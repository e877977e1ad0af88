"""`spherectl export`: a model for programs that are not spherectl."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from spherectl.cli import console, options
from spherectl.errors import UsageError
from spherectl.export.formats import FORMATS, PARTS, Format, Request
from spherectl.model.formats.layouts import LAYOUTS
from spherectl.places import check_writable

FormatName = StrEnum("FormatName", [(name.upper(), name) for name in FORMATS])  # type: ignore[misc]


def export(
    format_: Annotated[
        FormatName,
        typer.Option(
            "--format",
            "-f",
            help="onnx: graphs for ONNX Runtime and others. pt2: programs for torch alone. "
            + "".join(f"{one.name}: the folder that {one.readers} reads. " for one in LAYOUTS)
            + "safetensors: one set of weights as a smaller model file. web: a page that samples in the browser, to "
            "be served as files.",
        ),
    ],
    model: options.Model = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Folder to write to, for safetensors a file; replaces files of the same names.",
            show_default="a new name",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="Of the weights: float32; onnx and web also float16 and int8, safetensors also float16 and bfloat16.",
            show_default="float32; web: float16 where both graphs are over 100 MB",
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts",
            metavar="PARTS",
            help="Of onnx and pt2: decoder, encoder, round (one round of sampling), with commas between.",
            show_default="all three",
        ),
    ] = None,
    weights: Annotated[
        options.WeightsName | None,
        typer.Option("--weights", help="Averaged weights where the model has them, or those of the last step."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a model for programs that are not spherectl, each file compared with the model before it is kept.

    Examples:
    spherectl export --format onnx --model fashion-mnist --out graphs/

    spherectl export --format onnx --dtype int8 --parts decoder

    spherectl export --format pt2 --model runs/mine --parts decoder,encoder

    spherectl export --format safetensors --dtype float16 --out small.safetensors

    spherectl export --format published --out for-the-authors-code/

    spherectl export --format web --out page/
    """
    form = FORMATS[format_]
    chosen = _dtype(format_, form, dtype)
    names = _parts(format_, form, parts)
    if weights is not None and not form.has_weights:
        raise UsageError(f"--format {format_} keeps every set of weights that the file has.", "Leave --weights out.")
    _check_place(format_, form, out)

    from spherectl import zoo
    from spherectl.files import asked_or_claimed
    from spherectl.settings import load_settings

    found = zoo.find_model(model, load_settings())
    console.say(found.reason)
    stem = f"{found.name}-{format_}" if not form.suffix else f"{found.name}-{chosen}"
    rows: list[dict[str, Any]] = []
    total = len(names) or 1
    with asked_or_claimed(out, stem, form.suffix) as target, console.progress("exporting", total, "files") as bar:
        kind: Any = None if weights is None else weights.value
        for written in form.write(Request(found, target, chosen, names, kind)):
            size = written.path.stat().st_size
            rows.append({"path": str(written.path), "bytes": size, "difference": written.difference.table()})
            if len(rows) < total:
                bar(len(rows))
            console.say(f"{written.path.name}: {size / 1e6:.1f} MB, {written.difference.sentence()}")
            if not as_json:
                console.show_file(written.path)
    if form.then:
        console.say(form.then.format(out=shlex.quote(str(target))))
    if as_json:
        console.show_json(rows)


def _dtype(name: FormatName, form: Format, asked: str | None) -> str:
    if asked is None:
        return form.dtypes[0]
    if asked not in form.dtypes:
        known = " or ".join(form.dtypes)
        raise UsageError(f"--dtype {asked}: --format {name} is written in {known}.")
    return asked


def _parts(name: FormatName, form: Format, asked: str | None) -> list[str]:
    """The parts asked for, each once; empty for a format without."""
    if not form.has_parts:
        if asked is not None:
            raise UsageError(f"--parts is for onnx and pt2; --format {name} is whole.", "Leave --parts out.")
        return []
    chosen = list(PARTS) if asked is None else list(dict.fromkeys(part.strip() for part in asked.split(",")))
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        raise UsageError(f"--parts {asked}: {unknown[0] or 'nothing'!r} is none of {', '.join(PARTS)}.")
    return chosen


def _check_place(name: FormatName, form: Format, out: Path | None) -> None:
    """Refuse a place that cannot be what the format writes, before anything is computed."""
    if out is None:
        return
    if form.suffix and (out.is_dir() or out.suffix != form.suffix):
        raise UsageError(f"--format {name} is one file whose name ends in {form.suffix}; got {out}.")
    if not form.suffix and (out.is_file() or out.suffix in (".onnx", ".pt2", ".pth", ".safetensors")):
        raise UsageError(f"--format {name} writes several files into a folder; got {out}.")
    check_writable(out, folder=not form.suffix)
