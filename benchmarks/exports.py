"""How large and how fast exported graphs are beside torch: a table in docs/export.md.

python -m benchmarks.exports --page docs/export.md    exports, times, and writes the table in that page
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from benchmarks.subjects import random_package
from benchmarks.tables import Columns, Row, check_marks, put_between, show, table
from benchmarks.timing import Case, Group, machine, repeated, rounded, tell, time_in_turns
from spherectl import api, zoo
from spherectl import recipe as recipes
from spherectl.export.check import PRECISIONS, expected
from spherectl.export.graphs import Part, example
from spherectl.export.onnx import export_onnx, session
from spherectl.model.formats.weights import instantiate
from spherectl.versions import versions

PARTS: tuple[Part, ...] = ("decoder", "encoder")
IMAGES = (1, 8)
TORCH = "torch, eager"

# Where a page keeps the table; what stands between is written by `main`.
BEGIN, END = "<!-- table: python -m benchmarks.exports --page docs/export.md -->\n", "<!-- end of table -->"
COLUMNS: Columns = {
    "model": "model",
    "what": "graph",
    "images": "images",
    "path": "by",
    "mb": "file, MB",
    "median_psnr_db": "median PSNR, dB",
    "ms": "ms",
    "lowest_ms": "lowest",
    "highest_ms": "highest",
    "ratio": "ratio",
}
TEXT = """
{date}, {machine}, load {load} before; threads in use: {threads}; {versions}.
Timed in turn in one process, {visits} visits; median, lowest and highest of calls. The ratio is torch's time over
another's; torch is the plain float32 model, without spherectl's kernels. PSNR is that of images.{random}

{rows}

"""
RANDOM = "\n{name} is the paper's network for CIFAR-10 with random weights, for its size and speed alone."


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, time, and write the table into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=main.__doc__)
    parser.add_argument("--page", type=Path, required=True, help="a Markdown file with the two marks")
    parser.add_argument("--model", default="fashion-mnist", help="zoo name or path (default: %(default)s)")
    parser.add_argument("--random", help="a recipe whose networks are timed too, with random weights")
    parser.add_argument("--seconds", type=float, default=60, help="for the timing, about (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and of ONNX Runtime (default: %(default)s)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    text = given.page.read_text(encoding="utf-8")
    check_marks(text, BEGIN, END)
    about = {"machine": machine(), "date": datetime.now(UTC).date().isoformat(), "random": given.random}
    models = [api.load(given.model, device="cpu", dtype="float32")]
    models += [random_model(given.random)] if given.random else []
    rows, visits = measured(models, given.seconds)
    given.page.write_text(with_table(text, rows, {**about, "visits": visits}), encoding="utf-8")


def random_model(name: str) -> api.Model:
    """The networks of a recipe with torch's own start values."""
    package = random_package(name, recipes.load(zoo.find_recipe(name)).model)
    return api.Model(instantiate(package), package.header, name=name, device=torch.device("cpu"))


def measured(models: Sequence[api.Model], seconds: float) -> tuple[list[Row], int]:
    """Rows of the table, and how often each way was visited, all together."""
    files: dict[tuple[str, str, str], Row] = {}
    groups = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            sessions: dict[tuple[str, str], onnxruntime.InferenceSession] = {}
            for precision in PRECISIONS:
                for file in export_onnx(model, Path(folder) / model.name / precision, PARTS, precision):
                    tell(f"{model.name}, {file.part}, {precision}: {file.difference.sentence()}")
                    psnr = rounded(file.difference.median_psnr_db)
                    facts = {"mb": rounded(file.path.stat().st_size / 1e6), "median_psnr_db": psnr}
                    files[model.name, file.part, path_of(precision)] = facts
                    sessions[file.part, path_of(precision)] = session(file.path)
            groups += [group(model, part, images, sessions) for part in PARTS for images in IMAGES]
        visits = time_in_turns(groups, time.monotonic() + seconds)
    return [row for one in groups for row in rows_of(one, files)], visits


def group(model: api.Model, part: Part, images: int, sessions: dict[tuple[str, str], Any]) -> Group:
    """One part for so many images, by torch and by every file."""
    given = example(model, part, images)
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    calls: dict[str, Callable[[], Any]] = {TORCH: partial(expected, model, part, given)}
    for (of, path), one in sessions.items():
        if of == part:
            calls[path] = partial(one.run, None, arrays)
    for call in calls.values():
        call()  # first calls do not count
    return Group(model.name, part, images, [Case(path, repeated(call), 0.0, None) for path, call in calls.items()])


def path_of(precision: str) -> str:
    """How a file is called in the table."""
    return f"ONNX Runtime, {precision}"


def rows_of(one: Group, files: dict[tuple[str, str, str], Row]) -> list[Row]:
    """A row for each way of a group."""
    baseline = one.cases[0].median_s
    return [
        {
            "model": one.model,
            "what": one.what,
            "images": one.images,
            "path": case.path,
            **files.get((one.model, one.what, case.path), {}),
            "ms": rounded(1000 * case.median_s),
            "lowest_ms": rounded(1000 * min(case.seconds)),
            "highest_ms": rounded(1000 * max(case.seconds)),
            "ratio": rounded(baseline / case.median_s),
        }
        for case in one.cases
    ]


def with_table(text: str, rows: list[Row], about: Row) -> str:
    """A page's text with the table between its marks.

    Args:
        text: of the page.
        rows: from `measured`.
        about: machine, date, visits, and the recipe of random weights or None.
    """
    where = about["machine"]
    body = TEXT.format(
        date=about["date"],
        machine=f"{where['processor']} ({show(where['flags'])}), {where['cores']} cores",
        threads=where["threads"],
        load=show(where["load_before"]),
        versions=f"torch {versions()['torch']}, onnxruntime {onnxruntime.__version__}",
        visits=about["visits"],
        random=RANDOM.format(name=about["random"]) if about["random"] else "",
        rows=table(rows, COLUMNS),
    )
    return put_between(text, BEGIN, END, body)


if __name__ == "__main__":
    main()
