"""What a training's weights are before its first step: start values, or those of another model where they fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spherectl.errors import UsageError
from spherectl.model.formats.weights import Package, read_package
from spherectl.model.sphere import parameter_count
from spherectl.recipe import Recipe
from spherectl.registry import NETWORKS, NetworkKind
from spherectl.shown import listed

MIN_SHARE = 0.01  # of the weights; less is a mistake, not fine-tuning


@dataclass(frozen=True)
class Start:
    """A model to start from.

    Attributes:
        package: its file.
        share: of its weights that fit the recipe's networks.
        anew: tensors of these networks that keep their start values.
    """

    package: Package
    share: float
    anew: int


def start_values(kind: NetworkKind, recipe: Recipe) -> nn.Module:
    """The networks of a recipe on the CPU, with start values that depend on `run.seed` alone.

    Raises:
        UsageError: they hold state beside their parameters, which a checkpoint would not keep.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        networks: nn.Module = kind.build(recipe.model)
    left_out = networks.state_dict().keys() - dict(networks.named_parameters()).keys()
    if left_out:
        raise UsageError(
            f"Networks of the kind {kind.name!r} have state beside their parameters: {listed(sorted(left_out), 3)}.",
            "Use layers without running statistics (GroupNorm, not BatchNorm), and register_buffer(persistent=False).",
        )
    if kind.initialise is not None:
        kind.initialise(networks, recipe.run.seed)
    return networks


def take_over(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Copy weights of equal name and shape into a model; returns the names that kept their start values."""
    taken = fitting(model, weights)
    with torch.no_grad():
        for name, parameter in taken.items():
            parameter.copy_(weights[name])
    return [name for name, _ in model.named_parameters() if name not in taken]


def fitting(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """The model's parameters that have a weight of equal name and shape."""
    return {name: p for name, p in model.named_parameters() if name in weights and weights[name].shape == p.shape}


def start_from(path: Path, name: str, recipe: Recipe) -> Start:
    """Read the model that a training starts from.

    Args:
        path: of its file or folder.
        name: what errors call it.
        recipe: of the training, resolved.

    Raises:
        UsageError: hardly any of its weights fit the recipe's networks.
    """
    kind = NETWORKS[recipe.model.kind]
    package = read_package(path, kind.header_name)
    with torch.device("meta"):
        networks: nn.Module = kind.build(recipe.model)
    taken = fitting(networks, package.weights)
    share = sum(p.numel() for p in taken.values()) / parameter_count(networks)
    if share < MIN_SHARE:
        raise UsageError(
            f"{name} has networks of another shape than the recipe {recipe.name}: {share:.1%} of its weights fit, so "
            "there is nothing to start from.",
            "Choose a model and a recipe whose [model] tables agree in size and image_size.",
        )
    return Start(package, share, len(list(networks.parameters())) - len(taken))
