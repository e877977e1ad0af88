"""A report as tables, JSON, Markdown and images. Nothing is printed; the command line shows the same tables."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import re
from pathlib import Path
from typing import Any

import torch

import spherectl
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import MIN_FID_IMAGES
from spherectl.evaluation.protocol import Interval, Report
from spherectl.evaluation.reference import Reference
from spherectl.evaluation.uniformity import UniformityByClass
from spherectl.files import write_text
from spherectl.images import grid, save_png
from spherectl.provenance import describe
from spherectl.shown import json_text, printable, shortened

FORMAT = 1
MAX_SLUG = 150  # characters of an image's name; file systems take 255

Rows = list[dict[str, str]]

# Scores as people read them: how many digits, in which unit.
_SHOWN = {
    "frechet_distance": "{:.4g}",
    "kid": "{:.4g}",
    "inception_score": "{:.2f}",
    "precision": "{:.3f}",
    "recall": "{:.3f}",
    "accuracy": "{:.1%}",
    "psnr": "{:.2f}",
    "ssim": "{:.4f}",
    "lpips": "{:.4f}",
    "rfid": "{:.4g}",
}


def heads(extractor: Extractor) -> dict[str, str]:
    """What each score is called by; the names of Inception's are for Inception alone."""
    inception = extractor.is_inception
    return {
        "frechet_distance": "FID" if inception else "Frechet distance",
        "kid": "KID",
        "inception_score": "Inception Score" if inception else "class score",
        "precision": "precision",
        "recall": "recall",
        "accuracy": "class right",
        "rfid": "rFID" if inception else "Frechet distance",
        "psnr": "PSNR, dB",
        "ssim": "SSIM",
        "lpips": "LPIPS",
    }


def score_rows(report: Report) -> Rows:
    """The samples' table: one row a model and setting, the real images last; KID first where samples are few."""
    rows = [*report.rows, *([report.floor] if report.floor is not None else [])]
    distance = ["kid", "frechet_distance"]
    names = [
        *(distance if report.rows[0].scores.count < MIN_FID_IMAGES else reversed(distance)),
        *("inception_score", "precision", "recall", "accuracy"),
    ]
    names = [name for name in names if any(getattr(row.scores, name) is not None for row in rows)]
    told = heads(report.extractor)
    table: Rows = []
    for row in rows:
        setting = row.settings
        cells = {
            "model": row.model,
            "steps": str(setting["steps"]) if setting else "",
            "guidance": f"{setting['guidance']:g}" if setting else "",
            "noise": _noise(setting) if setting else "",
        }
        for name in names:
            cells[told[name]] = _cell(name, getattr(row.scores, name), row.intervals.get(name))
            if name == "frechet_distance" and report.floor is not None:
                cells["in floors"] = f"{row.floors:.2f}" if row.floors is not None else ""
        if any(each.channel_spread is not None for each in rows):
            cells["colour"] = f"{row.channel_spread} levels" if row.channel_spread is not None else ""
        if any(each.patch_lines is not None for each in rows):
            cells["patch lines"] = f"{row.patch_lines.power:.2f}" if row.patch_lines is not None else ""
        cells["seconds"] = f"{row.seconds:.1f}" if row.seconds is not None else ""
        table.append(cells)
    return table


def _noise(setting: dict[str, Any]) -> str:
    words = [setting["noise"], *(["decaying"] if setting["strength"] == "decaying" else [])]
    if setting["noise_deg"] != "training":
        words.append(f"at most {setting['noise_deg']:g} degrees")
    return ", ".join(words)


def comparison_rows(report: Report) -> Rows:
    """The table of differences."""
    told = heads(report.extractor)
    return [
        {
            "score": told[one.score],
            "of": one.first,
            "less that of": one.second,
            "difference": f"{one.difference.value:+.4g}",
            "95% interval": f"{one.difference.low:+.4g} to {one.difference.high:+.4g}",
            "differs": "yes" if one.difference.low > 0 or one.difference.high < 0 else "not beyond chance",
        }
        for one in report.comparisons
    ]


def reconstruction_rows(report: Report) -> Rows:
    """The reconstructions' table."""
    told, reconstructions = heads(report.extractor), report.reconstructions
    known = ("rfid", "psnr", "ssim", "lpips")
    names = [name for name in known if any(getattr(one, name) is not None for one in reconstructions)]
    return [
        {"model": one.model, "images": f"{one.count:,} of {one.images}"}
        | {told[name]: _cell(name, getattr(one, name), one.intervals.get(name)) for name in names}
        for one in reconstructions
    ]


def uniformity_rows(found: UniformityByClass) -> Rows:
    """The uniformity of one model's latents: in all and by class, each measure beside what uniform points give."""
    measures = {
        "mean_direction": "mean direction",
        "pairwise_angles": "pairwise angles",
        "effective_rank": "effective rank / L",
        "energy_distance": "energy distance",
    }
    rows: Rows = []
    for name, one in (("all", found.overall), *found.classes):
        cells = {"class": name, "points": f"{one.count:,}"}
        for key, told in measures.items():
            measure = getattr(one, key)
            cells[told] = f"{measure.value:.4g} (uniform {measure.expected:.4g}, p {measure.p_value:.3g})"
        rows.append(cells)
    return rows


def protocol_lines(report: Report) -> list[str]:
    """What every score depends on, in sentences."""
    plan, reference = report.plan, _reference(report)
    resampled = f"{plan.resamples} resamples of the samples, 95% intervals" if plan.resamples else "no intervals"
    return [
        f"features: {report.extractor.name}; reference: {reference.name}",
        f"samples: {plan.count:,} a row, classes in turn, seed {plan.seed}, the same noise in every row",
        f"bytes: {_RULES[plan.quantise]}; bootstrap: {resampled}",
        *(
            f"{model.name}: {model.weights} weights, {model.precision} on {model.device.type}"
            for model in report.models
        ),
    ]


_RULES = {"round": "rounded, floor(255 x + 1/2)", "floor": "truncated, floor(255 x), as the published evaluation does"}


def as_json(report: Report, command: str) -> dict[str, Any]:
    """The whole report but its images, as a JSON document."""
    reference = _reference(report)
    found = {
        name: value
        for name in ("accuracy_real", "rows", "floor", "comparisons", "reconstructions", "uniformity", "notes")
        if (value := _plain(getattr(report, name))) not in (None, [], {})
    }
    copies = {name: _plain(one.summary()) for name, one in report.memorisation.items()}
    return {
        "format": FORMAT,
        "command": command,
        "versions": versions(),
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


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    from importlib.metadata import version

    return {
        "spherectl": spherectl.__version__,
        "torch": torch.__version__,
        **{name: version(name) for name in ("torch-fidelity", "torchmetrics", "numpy")},
    }


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
    """
    image_files = _write_images(folder, report)
    written = [folder / "report.json", folder / "report.md", *image_files.values()]
    write_text(written[0], json_text(as_json(report, command)) + "\n")
    write_text(written[1], _markdown(report, command, {title: path.name for title, path in image_files.items()}))
    return written


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


def _markdown(report: Report, command: str, image_files: dict[str, str]) -> str:
    lines = ["# Evaluation", "", f"    {printable(command)}", ""]
    lines += [f"- {_literal(line)}" for line in protocol_lines(report)]
    lines += [f"- {name} {version}" for name, version in versions().items()]
    lines += ["", "## Samples", "", *markdown_table(score_rows(report))]
    if report.accuracy_real is not None:
        lines += [
            "",
            f"{_literal(report.extractor.name)} is right about {report.accuracy_real:.1%} of real test images.",
        ]
    if report.comparisons:
        lines += ["", "## Differences", "", *markdown_table(comparison_rows(report))]
    if report.reconstructions:
        lines += ["", "## Reconstructions", "", *markdown_table(reconstruction_rows(report))]
    for name, latents in report.uniformity.items():
        lines += [
            "",
            f"## Uniformity of the latents of {_literal(name)}",
            "",
            *markdown_table(uniformity_rows(latents)),
        ]
    for name, copies in report.memorisation.items():
        lines += ["", f"## Near-copies among the samples of {_literal(name)}", "", copies.sentence()]
    if report.notes:
        lines += ["", "## Notes", "", *(f"- {_literal(note)}" for note in report.notes)]
    if image_files:
        lines += ["", "## Images"]
        for title, file in image_files.items():
            lines += ["", f"{_literal(title)}:", "", f"![{_literal(title)}]({file})"]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Rows) -> list[str]:
    """Rows with the same keys as lines of a Markdown table."""
    names = list(rows[0])
    body = [[_literal(cell) for cell in row.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *body)]


def _literal(text: str) -> str:
    """Text with names of strangers in it, as Markdown that shows it: no HTML, link, image, cell or line of its own."""
    return re.sub(r"([\\\[\]|])", r"\\\1", html.escape(printable(text), quote=False))


def _reference(report: Report) -> Reference:
    assert report.real.reference is not None, "a report is made by the process that holds the reference"
    return report.real.reference


def _cell(name: str, value: float | None, interval: Interval | None) -> str:
    if value is None:
        return ""
    shown = _SHOWN[name].format
    return shown(value) if interval is None else f"{shown(value)} ({shown(interval[0])} to {shown(interval[1])})"


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and sets as JSON has them; what JSON has no number for as None."""
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


def _slug(label: str) -> str:
    return shortened(re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-."), MAX_SLUG) or "samples"
