"""What a training will be, before it starts: the resolved recipe, a smoke run, the size of things."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spherectl.data.datasets import ImageSet
from spherectl.errors import UsageError
from spherectl.model.devices import has_fast_bfloat16
from spherectl.model.sphere import parameter_count
from spherectl.model.vit import Trunk
from spherectl.recipe import Recipe
from spherectl.registry import NETWORKS
from spherectl.training.optimiser import total_steps

SMOKE_STEPS = 3
SMOKE_BATCH = 4

# float32 weight, gradient, two moments and average: what each parameter holds while it trains.
BYTES_PER_PARAMETER = 4 * 5

# Values a block keeps for its backward pass, in widths a token: norms, modulated input, q, k, v, attention's output and
# projection (about 12), and the gated feed-forward part with its hidden width of 8/3 (about 14).
KEPT_WIDTHS = 26


@dataclass(frozen=True)
class Plan:
    """The size of a training.

    Attributes:
        parameters: of all networks, fixed position embeddings counted in.
        tokens: N.
        latent_size: L = N d.
        memory_bytes: estimate of one process for weights, gradients, moments, average and the activations of one
            micro-batch; without perceptual networks, and before anything is sharded.
        images: to be seen.
        steps: of the optimiser.
    """

    parameters: int
    tokens: int
    latent_size: int
    memory_bytes: int
    images: int
    steps: int


def resolve(recipe: Recipe, dataset: ImageSet, device: torch.device) -> Recipe:
    """The recipe with everything that the data and the machine decide filled in.

    Raises:
        UsageError: the data has another number of classes than the recipe.
    """
    resolved = resolve_for(recipe, len(dataset), len(dataset.class_names), device)
    return resolved.replace(data={"root": dataset.origin})


def is_resolved(recipe: Recipe) -> bool:
    """Whether nothing is left to fill in."""
    open_keys = (recipe.model.num_classes, recipe.run.dtype)
    return "auto" not in open_keys and recipe.run.length_images is not None


def resolve_for(recipe: Recipe, dataset: int, num_classes: int, device: torch.device) -> Recipe:
    """`resolve` for a set of so many images and classes, which need not be here."""
    resolved = recipe.resolve(dataset, num_classes)
    dtype = resolved.run.dtype
    if dtype == "auto":
        dtype = "bfloat16" if has_fast_bfloat16(device) else "float32"
    if dtype == "float16" and device.type != "cuda":
        raise UsageError(
            f'run.dtype = "float16" is for CUDA; this trains on {device.type}, where it is slow or missing.',
            "Use --set run.dtype=bfloat16, or float32.",
        )
    return resolved.replace(run={"dtype": dtype})


def smoke(recipe: Recipe) -> Recipe:
    """Three real steps of a recipe at its own resolution and latent size, with the smallest networks.

    Fetched perceptual networks are left out, so that it runs anywhere; the run is named NAME-smoke.
    """
    perceptual = recipe.loss.perceptual
    table = recipe.to_table()
    table["name"] = f"{recipe.name}-smoke"
    table["model"] = {**table["model"], "size": "nano"}
    table["model"].pop("decoder_size", None)
    table["loss"]["perceptual"] = perceptual if recipe.loss.features else "none"
    images = SMOKE_STEPS * SMOKE_BATCH
    for key in ("length_epochs", "warmup_epochs"):
        table["run"].pop(key, None)
        table["optim"].pop(key, None)
    table["run"] |= {"length_images": images, "batch_size": SMOKE_BATCH, "dtype": "float32"}
    table["run"] |= {"checkpoint_images": images, "sample_images": images}
    table["optim"]["warmup_images"] = SMOKE_BATCH
    return Recipe.model_validate(table)


def plan(recipe: Recipe) -> Plan:
    """The size of a resolved recipe's training; nothing is allocated."""
    spec, kind = recipe.model, NETWORKS[recipe.model.kind]
    with torch.device("meta"):
        model = kind.build(spec)
    per_value = {"bfloat16": 2, "float16": 2, "float64": 8}.get(recipe.run.dtype, 4)
    trunks = [child for child in model.children() if isinstance(child, Trunk)]
    kept = kind.kept_passes * sum(trunk.width * len(trunk.blocks) for trunk in trunks)
    run = recipe.run
    at_once = min(run.micro_batch_size or run.batch_size, run.batch_size)
    activations = at_once * spec.tokens * kept * (1 if run.activation_checkpointing else KEPT_WIDTHS) * per_value
    parameters = parameter_count(model)
    return Plan(
        parameters=parameters,
        tokens=spec.tokens,
        latent_size=spec.latent_size,
        memory_bytes=parameters * BYTES_PER_PARAMETER + activations,
        images=total_steps(recipe) * recipe.run.batch_size,
        steps=total_steps(recipe),
    )
