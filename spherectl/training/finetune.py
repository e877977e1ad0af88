"""Starting from the weights of another model (fine-tuning): what fits is taken, the rest keeps its start values."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
