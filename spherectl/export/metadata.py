"""What an exported file says of itself, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spherectl import __version__
from spherectl.api import Model
from spherectl.export.check import Difference
from spherectl.export.graphs import Part

KEPT = ("architecture", "recipe", "class_names", "channels", "data", "licence", "weights", "images_seen")


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: where.
        difference: from the model.
    """

    path: Path
    difference: Difference


def about(model: Model, part: Part, precision: str, difference: Difference) -> dict[str, Any]:
    """The model's header as far as it matters to whoever runs the file, and how far the file is from the model.

    Args:
        model: what was exported.
        part: which part of it.
        precision: of the file's weights.
        difference: measured.
    """
    return {
        **{key: model.header[key] for key in KEPT if key in model.header},
        "weights": model.weights,
        "format": 1,
        "model": {"name": model.name, "sha256": model.sha256},
        "part": part,
        "precision": precision,
        "image_range": [0, 1],
        "latent_shape": list(model.network.latent_shape),
        "num_classes": model.num_classes,
        "sigma_max": model.recipe.round_sigma(model.recipe.sample),
        "difference": difference.table(),
        "spherectl": __version__,
    }
