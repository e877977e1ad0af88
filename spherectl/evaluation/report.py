"""A report as files: report.json, report.md and images. Nothing is printed; the command line shows the same tables."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import torch

from spherectl.evaluation.fidelity import Valued
from spherectl.evaluation.protocol import Report
from spherectl.evaluation.report_tables import literal, markdown_table, protocol_lines, reference_of, tables
from spherectl.files import write_text
from spherectl.images import grid, save_png
from spherectl.provenance import describe
from spherectl.shown import json_text, printable, shortened
from spherectl.versions import versions

FORMAT = 2  # of report.json; 1 had `floor` for `real_row` and `floors` for `fd_ratio`
MAX_SLUG = 150  # characters of an image's name; file systems take 255
VERSIONED = ("spherectl", "torch", "torch-fidelity", "torchmetrics", "numpy")


def write(folder: Path, report: Report, command: str) -> list[Path]:
    """Write report.json, report.md and the images.

    Args:
        folder: made if need be; files of these names are replaced.
        report: what was found.
        command: that asked for it.

    Returns:
        The files written.

    Raises:
        FileError: the folder cannot be written.

    >>> from pathlib import Path
    >>> import spherectl
    >>> from spherectl.evaluation import Plan, evaluate, write
    >>> model = spherectl.load("fashion-mnist", device="cpu")
    >>> (batch,) = spherectl.generate(model, 10, steps=1)
    >>> Path("real").mkdir()
    >>> for number, image in enumerate(batch.pil()):
    ...     image.save(f"real/{number}.png")
    >>> report = evaluate([model], Plan(steps=(1,), count=10, metrics=["kid"], resamples=0), "real")
    >>> [path.suffix for path in write(Path("report"), report, "how it was made")]
    ['.json', '.md', '.png']
    """
    image_files = _write_images(folder, report)
    written = [folder / "report.json", folder / "report.md", *image_files.values()]
    write_text(written[0], json_text(as_json(report, command)) + "\n")
    write_text(written[1], _markdown(report, command, {title: path.name for title, path in image_files.items()}))
    return written


def as_json(report: Report, command: str) -> dict[str, Any]:
    """The whole report but its images, as a JSON document."""
    reference = reference_of(report)
    found = {
        name: value
        for name in ("accuracy_real", "rows", "real_row", "comparisons", "reconstructions", "uniformity", "notes")
        if (value := _plain(getattr(report, name))) not in (None, [], {})
    }
    copies = {name: _plain(one.summary()) for name, one in report.memorisation.items()}
    return {
        "format": FORMAT,
        "command": command,
        "versions": versions(*VERSIONED),
        "models": [
            {
                "name": model.name,
                "sha256": model.sha256,
                "weights": model.weights,
                "precision": model.precision,
                "device": model.device.type,
                "images_seen": model.header.get("images_seen"),
            }
            for model in report.models
        ],
        "features": {"name": report.extractor.name, "digest": report.extractor.digest},
        "reference": {"name": reference.name, "count": reference.count, "image_size": reference.image_size},
        "plan": _plain(report.plan),
        **found,
        **({"memorisation": copies} if copies else {}),
    }


def _markdown(report: Report, command: str, image_files: dict[str, str]) -> str:
    lines = ["# Evaluation", "", f"    {printable(command)}", ""]
    lines += [f"- {literal(line)}" for line in protocol_lines(report)]
    lines += [f"- {name} {version}" for name, version in versions(*VERSIONED).items()]
    for title, rows in tables(report):
        lines += ["", f"## {literal(title)}", "", *markdown_table(rows)]
    for name, copies in report.memorisation.items():
        lines += ["", f"## Near-copies among the samples of {literal(name)}", "", copies.sentence()]
    if report.notes:
        lines += ["", "## Notes", "", *(f"- {literal(note)}" for note in report.notes)]
    if image_files:
        lines += ["", "## Images"]
    for title, file in image_files.items():
        lines += ["", f"{literal(title)}:", "", f"![{literal(title)}]({file})"]
    return "\n".join(lines) + "\n"


def _write_images(folder: Path, report: Report) -> dict[str, Path]:
    """Grids of the first samples of each row, and of samples beside their nearest training images; by title."""
    plan, image_files = report.plan, dict[str, Path]()
    for one in report.grids:
        # An image says how `sample --like` makes it again; its bytes are rounded, so truncated ones cannot say so.
        about = None
        if plan.quantise == "round":
            numbers = {"seed": plan.seed, "batch": plan.batch, "count": plan.count, "columns": one.columns}
            indices = torch.arange(len(one.pixels))
            about = describe(one.model, one.settings, indices=indices, labels=one.labels, **numbers)
        path = _free(folder, _slug(one.name), image_files)
        save_png(path, grid(one.pixels, one.columns), about)
        image_files[one.name] = path
    for name, image in report.neighbours.items():
        title = f"{name}: samples, nearest training images in pixels, nearest in features"
        image_files[title] = _free(folder, f"{_slug(name)}-neighbours", image_files)
        save_png(image_files[title], image, None)
    return image_files


def _free(folder: Path, name: str, taken: dict[str, Path]) -> Path:
    """A file of that name, numbered where it is another image's: names that differ may have the same slug."""
    paths = {path.name.casefold() for path in taken.values()}
    names = itertools.chain([f"{name}.png"], (f"{name}-{number}.png" for number in itertools.count(2)))
    return folder / next(one for one in names if one.casefold() not in paths)


def _slug(label: str) -> str:
    return shortened(re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-."), MAX_SLUG) or "samples"


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and sets as JSON has them; what JSON has no number for as None."""
    if isinstance(value, Valued):
        return _plain(value.table())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(each) for each in value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
