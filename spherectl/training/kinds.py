"""What training asks of each kind of model, by the recipe's `model.kind`; its networks are `model.kinds`'s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from spherectl import api
from spherectl.baselines import DiffusionModel, Vae
from spherectl.data.datasets import ImageSet
from spherectl.training import previews
from spherectl.training.steps import DiffusionStep, SphereStep, Step, VaeStep


class Kind(NamedTuple):
    """A kind of model.

    Attributes:
        step: its objective.
        loaded: makes networks and a header a model that can draw.
        grids: images that such a model shows of its training.
    """

    step: type[Step]
    loaded: Callable[..., Any]
    grids: Callable[[Any, ImageSet], dict[str, Tensor]]


KINDS: dict[str, Kind] = {
    "sphere": Kind(SphereStep, api.Model, previews.grids),
    "vae": Kind(VaeStep, Vae, previews.vae_grids),
    "diffusion": Kind(DiffusionStep, DiffusionModel, previews.diffusion_grids),
}
