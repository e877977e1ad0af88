"""What the paper's recipes need on a cluster: arithmetic from counted products, and no measurement on a GPU.

python -m benchmarks.cluster --page docs/training.md    writes the table of costs in that page
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import Columns, Row, put_between, table
from benchmarks.timing import rounded
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.sets import find_record
from spherectl.errors import UsageError
from spherectl.model.sphere import build, parameter_count
from spherectl.training.flops import perceptual_gflop, step_gflop

RECIPES = ("cifar10", "cifar10-uncond", "animal-faces256", "flowers256", "imagenet256", "imagenet256-xl")

# Dense bfloat16 peak without sparsity.
GPU, GPU_TFLOPS, SOURCE = "H100 SXM", 989, "NVIDIA H100 datasheet"
SHARES = (30, 40, 50)

# Where a page keeps the table of costs; what stands between is written by `main`.
BEGIN, END = "<!-- costs: python -m benchmarks.cluster --page docs/training.md -->\n", "<!-- end of costs -->"
COSTS: Columns = {
    "recipe": "recipe",
    "steps": "steps of 256",
    "exaflop": "EFLOP",
    "gpu_hours_at_40": "GPU-hours",
    "days_on_8": "days on 8 GPUs",
    "days_on_64": "days on 64 GPUs",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and write the table of costs into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=main.__doc__)
    parser.add_argument("--page", type=Path, required=True, help="a Markdown file with the two marks")
    page = parser.parse_args(arguments).page
    page.write_text(with_costs(page.read_text(encoding="utf-8"), needs()), encoding="utf-8")


def with_costs(text: str, rows: list[Row]) -> str:
    """A page's text with the table of these rows of `needs` between its marks.

    Raises:
        UsageError: the page has not each mark once.
    """
    return put_between(text, BEGIN, END, f"\n{costs(rows)}\n\n")


def costs(rows: list[Row]) -> str:
    """Rows of `needs` as Markdown: work, and time on one, eight and 64 GPUs at 40 % of their peak."""
    return table([row | _days(row) for row in rows], COSTS)


def _days(row: Row) -> Row:
    hours = row["gpu_hours_at_40"]
    return {
        "steps": math.ceil(row["epochs"] * row["images"] / 256),
        "days_on_8": rounded(hours / 8 / 24),
        "days_on_64": rounded(hours / 64 / 24),
    }


def needs(names: tuple[str, ...] = RECIPES) -> list[dict[str, Any]]:
    """A row for each recipe."""
    rows = []
    for name in names:
        recipe = recipes.load(zoo.find_recipe(name))
        shown, epochs = find_record(recipe.data.kind).train_images, recipe.run.length_epochs
        if epochs is None:
            raise UsageError(f"The recipe {name} gives its length in images; the paper's give epochs.")
        own, perceptual = step_gflop(recipe.model), perceptual_gflop(recipe)
        images = round(epochs * shown)
        exaflop = images * (own + perceptual) / 1e9
        with torch.device("meta"):
            parameters = parameter_count(build(recipe.model))
        rows.append({
            "recipe": name,
            "parameters": parameters,
            "epochs": epochs,
            "images": shown,
            "gflop_an_image": rounded(own),
            "perceptual_gflop_an_image": rounded(perceptual),
            "exaflop": rounded(exaflop),
            **{f"gpu_hours_at_{share}": rounded(gpu_hours(exaflop, share)) for share in SHARES},
        })  # fmt: skip
    return rows


def gpu_hours(exaflop: float, share_percent: float) -> float:
    """Hours of one GPU at a share of its peak."""
    return exaflop * 1e6 / (GPU_TFLOPS * share_percent / 100) / 3600


if __name__ == "__main__":
    main()
