"""What a training's weights are before its first step: start values, or those of another model where they fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spherectl.errors import UsageError
from spherectl.recipe import Recipe
from spherectl.registry import NetworkKind
from spherectl.shown import listed


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
