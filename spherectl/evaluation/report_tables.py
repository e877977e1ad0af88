"""The tables of a report: rows of cells, as the command line shows them and report.md has them."""

from __future__ import annotations

import html
import re
from typing import Any

from spherectl.evaluation.fidelity import Valued
from spherectl.evaluation.metrics import MIN_FID_IMAGES, Score, scores_of
from spherectl.evaluation.protocol import Interval, Report
from spherectl.evaluation.reference import Reference
from spherectl.evaluation.uniformity import UniformityByClass, cells
from spherectl.shown import printable

Rows = list[dict[str, str]]

_RULES = {"round": "rounded, floor(255 x + 1/2)", "floor": "truncated, floor(255 x), as the published evaluation does"}


def score_rows(report: Report) -> Rows:
    """The samples' table: one row a model and setting, the real images last; KID first where samples are few."""
    rows = [*report.rows, *([report.real_row] if report.real_row is not None else [])]
    scores = _columns([row.scores for row in rows])
    if report.rows[0].scores.count < MIN_FID_IMAGES:
        scores.sort(key=lambda score: score.key != "kid")
    table: Rows = []
    for row in rows:
        setting = row.settings
        line = {
            "model": row.model,
            "steps": str(setting["steps"]) if setting else "",
            "guidance": f"{setting['guidance']:g}" if setting else "",
            "noise": _noise(setting) if setting else "",
        }
        for score in scores:
            line |= _cell(score, row.scores, row.intervals, report)
            if score.key == "frechet_distance" and report.real_row is not None:
                line["FD ratio"] = f"{row.fd_ratio:.2f}" if row.fd_ratio is not None else ""
        if any(each.channel_spread is not None for each in rows):
            line["colour"] = f"{row.channel_spread} levels" if row.channel_spread is not None else ""
        if any(each.patch_lines is not None for each in rows):
            line["patch lines"] = f"{row.patch_lines.power:.2f}" if row.patch_lines is not None else ""
        line["seconds"] = f"{row.seconds:.1f}" if row.seconds is not None else ""
        table.append(line)
    return table


def comparison_rows(report: Report) -> Rows:
    """The table of differences, of the row named first less the one named second."""
    scores = scores_of("samples")
    rows: Rows = []
    for one in report.comparisons:
        score, found = scores[one.score], one.difference
        is_better = (found.value < 0) == (score.better == "lower")
        sure = found.low > 0 or found.high < 0
        rows.append({
            "score": score.head(report.extractor.is_inception),
            "of": one.first,
            "less that of": one.second,
            "difference": f"{found.value:+.4g}",
            "95% interval": f"{found.low:+.4g} to {found.high:+.4g}",
            "the first is": ("better" if is_better else "worse") if sure else "not surely another",
        })  # fmt: skip
    return rows


def reconstruction_rows(report: Report) -> Rows:
    """The reconstructions' table."""
    scores = _columns(report.reconstructions)
    rows: Rows = []
    for one in report.reconstructions:
        rows.append({"model": one.model, "images": f"{one.count:,} of {one.images}"})
        for score in scores:
            rows[-1] |= _cell(score, one, one.intervals, report)
    return rows


def uniformity_rows(found: UniformityByClass) -> Rows:
    """The uniformity of one model's latents: in all and by class, each measure beside what uniform points give."""
    classes = (("all", found.overall), *found.classes)
    return [{"class": name, "points": f"{one.count:,}"} | cells(one) for name, one in classes]


def protocol_lines(report: Report) -> list[str]:
    """What every score depends on, in sentences."""
    plan, reference = report.plan, reference_of(report)
    resampled = f"{plan.resamples} resamples of the samples, 95% intervals" if plan.resamples else "no intervals"
    return [
        f"features: {report.extractor.name}; reference: {reference.name}",
        f"samples: {plan.count:,} a row, classes in turn, seed {plan.seed}, the same noise in every row",
        f"bytes: {_RULES[plan.quantise]}; bootstrap: {resampled}",
        *(
            f"{model.name}: {model.weights} weights, {model.precision} on {model.device.type}"
            for model in report.models
        ),
        *(
            [f"accuracy of {report.extractor.name} on real test images: {report.accuracy_real:.1%}"]
            if report.accuracy_real is not None
            else []
        ),
    ]


def tables(report: Report) -> list[tuple[str, Rows]]:
    """All tables that have rows, each under its title."""
    found = [
        ("Samples", score_rows(report)),
        ("Differences", comparison_rows(report)),
        ("Reconstructions", reconstruction_rows(report)),
    ]
    found += [(f"Uniformity of the latents of {name}", uniformity_rows(one)) for name, one in report.uniformity.items()]
    return [(title, rows) for title, rows in found if rows]


def markdown_table(rows: Rows) -> list[str]:
    """Rows with the same keys as lines of a Markdown table."""
    names = list(rows[0])
    body = [[literal(cell) for cell in row.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *body)]


def literal(text: str) -> str:
    """Text with names of strangers in it, as Markdown that shows it: no HTML, link, image, cell or line of its own."""
    return re.sub(r"([\\\[\]|])", r"\\\1", html.escape(printable(text), quote=False))


def reference_of(report: Report) -> Reference:
    """What samples were compared with."""
    assert report.real.reference is not None, "a report is made by the process that holds the reference"
    return report.real.reference


def _columns(rows: list[Any]) -> list[Score]:
    """The scores that any of the rows has and that have a column."""
    known = scores_of(rows[0].OF) if rows else {}
    return [score for key, score in known.items() if score.label and any(key in row.values for row in rows)]


def _cell(score: Score, row: Valued, intervals: dict[str, Interval], report: Report) -> dict[str, str]:
    """One score under its head, with its interval."""
    value, interval, shown = row.values.get(score.key), intervals.get(score.key), score.shown.format
    text = "" if value is None else shown(value)
    if value is not None and interval is not None:
        text += f" ({shown(interval[0])} to {shown(interval[1])})"
    return {score.head(report.extractor.is_inception): text}


def _noise(setting: dict[str, Any]) -> str:
    words = [setting["noise"], *(["decaying"] if setting["strength"] == "decaying" else [])]
    if setting["noise_deg"] != "training":
        words.append(f"at most {setting['noise_deg']:g} degrees")
    return ", ".join(words)
