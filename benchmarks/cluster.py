"""What the paper's recipes need on a cluster: arithmetic from counted products, and no measurement on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.timing import rounded
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.cli.train import PUBLISHED_PICTURES
from spherectl.errors import UsageError
from spherectl.model.sphere import build, parameter_count
from spherectl.training.flops import perceptual_gflop, step_gflop

RECIPES = ("cifar10", "cifar10-uncond", "animal-faces256", "flowers256", "imagenet256", "imagenet256-xl")
PICTURES = PUBLISHED_PICTURES | {"animal-faces": 14_630}  # AFHQ's first version, the training part

# Dense bfloat16 peak without sparsity.
GPU, GPU_TFLOPS, SOURCE = "H100 SXM", 989, "NVIDIA H100 datasheet"
SHARES = (30, 40, 50)


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
