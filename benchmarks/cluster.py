"""What the paper's recipes need on a cluster: arithmetic from counted products, and no measurement on a GPU.

A training step is counted once for each recipe on torch's meta device, where tensors have shapes and no numbers.

    python -m benchmarks.cluster --page docs/training.md    writes the table of costs in that page, in about a minute
"""

from __future__ import annotations

import argparse
import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import Columns, Row, table
from benchmarks.timing import counted_gflop, rounded
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.cli.train import PUBLISHED_PICTURES
from spherectl.errors import UsageError
from spherectl.features import imagenet
from spherectl.model.objective import Draws, objective
from spherectl.model.sphere import build, parameter_count
from spherectl.recipe import ModelSpec, Recipe
from spherectl.training.perceptual import ImageNetDistance, PerceptualDistance

RECIPES = ("cifar10", "cifar10-uncond", "animal-faces256", "flowers256", "imagenet256", "imagenet256-xl")
PICTURES = PUBLISHED_PICTURES | {"animal-faces": 14_630}  # AFHQ's first version, the training part

# Dense bfloat16 peak without sparsity.
GPU, GPU_TFLOPS, SOURCE = "H100 SXM", 989, "NVIDIA H100 datasheet"
SHARES = (30, 40, 50)
LPIPS_CHANNELS = (64, 128, 256, 512, 512)

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
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(f"Expected the marks {BEGIN.strip()} and {END} in the page, once each.")
    between = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
    return between.sub(lambda _: f"\n{costs(rows)}\n\n", text)


def costs(rows: list[Row]) -> str:
    """Rows of `needs` as Markdown: work, and time on one, eight and 64 GPUs at 40 % of their peak."""
    return table([row | _days(row) for row in rows], COSTS)


def _days(row: Row) -> Row:
    hours = row["gpu_hours_at_40"]
    return {
        "steps": math.ceil(row["epochs"] * row["pictures"] / 256),
        "days_on_8": rounded(hours / 8 / 24),
        "days_on_64": rounded(hours / 64 / 24),
    }


def needs(names: tuple[str, ...] = RECIPES) -> list[dict[str, Any]]:
    """A row for each recipe."""
    rows = []
    for name in names:
        recipe = recipes.load(zoo.find_recipe(name))
        pictures, epochs = PICTURES[recipe.data.kind], recipe.run.length_epochs
        if epochs is None:
            raise UsageError(f"The recipe {name} gives its length in images; the paper's give epochs.")
        own, perceptual = step_gflop(recipe.model), perceptual_gflop(recipe)
        images = round(epochs * pictures)
        exaflop = images * (own + perceptual) / 1e9
        with torch.device("meta"):
            parameters = parameter_count(build(recipe.model))
        rows.append({
            "recipe": name,
            "parameters": parameters,
            "epochs": epochs,
            "pictures": pictures,
            "gflop_an_image": rounded(own),
            "perceptual_gflop_an_image": rounded(perceptual),
            "exaflop": rounded(exaflop),
            **{f"gpu_hours_at_{share}": rounded(gpu_hours(exaflop, share)) for share in SHARES},
        })  # fmt: skip
    return rows


def gpu_hours(exaflop: float, share_percent: float) -> float:
    """Hours of one GPU at a share of its peak."""
    return exaflop * 1e6 / (GPU_TFLOPS * share_percent / 100) / 3600


def step_gflop(spec: ModelSpec) -> float:
    """Products of a training step for each image, without the perceptual part: passes, gradients, no optimiser."""
    return _counted(spec, None)


def perceptual_gflop(recipe: Recipe) -> float:
    """Products of the paper's perceptual part for each image of a step; 0 where the recipe leaves it out."""
    if recipe.loss.perceptual == "none":
        return 0.0
    return _published_gflop(recipe.model.image_size)


@functools.cache
def _published_gflop(image_size: int) -> float:
    """Against the smallest networks of that size: the perceptual networks see pictures alone."""
    smallest = ModelSpec(image_size=image_size, size="nano", num_classes=0)
    return _counted(smallest, published_distance()) - _counted(smallest, None)


@functools.cache
def published_distance() -> PerceptualDistance:
    """VGG16 and ConvNeXt-Small in the paper's loss, as shapes alone."""
    from torchvision.models import convnext_small, vgg16

    with torch.device("meta"):
        lpips = imagenet.LpipsFeatures(vgg16(weights=None).features, [torch.ones(c) for c in LPIPS_CHANNELS])
        distance = ImageNetDistance(lpips, imagenet.ConvNextLogits(convnext_small(weights=None)))
    return distance.requires_grad_(False).eval()


def _counted(spec: ModelSpec, perceptual: PerceptualDistance | None) -> float:
    """A step of one image on the plain modules."""
    with torch.device("meta"):
        network = build(spec)
        encoder, decoder = network.encoder, network.decoder
        labels = torch.zeros(1, dtype=torch.int64) if spec.classes else None
        both = None if labels is None else torch.cat((labels, labels))
        one = torch.ones(1)
        draws = Draws(one, one, torch.ones(1, *network.latent_shape), labels, both, labels)
        images = torch.ones(1, 3, spec.image_size, spec.image_size)

    def encode(x: Tensor, y: Tensor | None) -> Tensor:
        out: Tensor = encoder.out(encoder.run(encoder.embed(x), y))
        return out

    def decode(v: Tensor, y: Tensor | None) -> Tensor:
        out: Tensor = decoder.out(decoder.run(decoder.x_embedder(v), y))
        return out

    def step() -> None:
        objective(encode, decode, images, draws, sigma_max=1.0, perceptual=perceptual).total.backward()

    return counted_gflop(step)


if __name__ == "__main__":
    main()
