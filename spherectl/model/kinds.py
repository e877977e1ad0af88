"""The networks of every kind of model, by the recipe's `model.kind`, and what their files call them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from spherectl.model import diffusion, sphere, vae
from spherectl.recipe import ModelSpec

BUILDERS: dict[str, Callable[[ModelSpec], nn.Module]] = {
    "sphere": sphere.build,
    "vae": vae.build,
    "diffusion": diffusion.build,
}


def build(spec: ModelSpec) -> nn.Module:
    """The networks of a [model] table, each a child of the module; as `sphere.build` otherwise."""
    return BUILDERS[spec.kind](spec)
