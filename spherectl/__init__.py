"""spherectl: train, sample, edit and measure Sphere Encoder image models.

    import spherectl
    model = spherectl.load("fashion-mnist")
    for batch in spherectl.generate(model, classes=["sneaker", "bag"], steps=4):
        batch.pil()[0].save("first.png")

Names are looked up on first use, so that `import spherectl` and the command line's help stay quick.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spherectl.api import (
        Generated,
        Losses,
        LossWeights,
        Model,
        SampleSpec,
        TrainingNoise,
        generate,
        load,
        objective,
        to_pil,
        training_noise,
    )
    from spherectl.edits import edit, encode, harmonize, interpolate, restore

    __version__: str

# Where each name is: asking those modules themselves would import torch.
_HOME = {
    "spherectl.api": (
        *("Generated", "LossWeights", "Losses", "Model", "SampleSpec", "TrainingNoise"),
        *("generate", "load", "objective", "to_pil", "training_noise"),
    ),
    "spherectl.edits": ("edit", "encode", "harmonize", "interpolate", "restore"),
}

__all__ = [
    "Generated",
    "LossWeights",
    "Losses",
    "Model",
    "SampleSpec",
    "TrainingNoise",
    "__version__",
    "edit",
    "encode",
    "generate",
    "harmonize",
    "interpolate",
    "load",
    "objective",
    "restore",
    "to_pil",
    "training_noise",
]


def __getattr__(name: str) -> Any:
    # Only the names above: `from spherectl import zoo` asks here first, and must not import torch on the way.
    if name == "__version__":
        return _version()
    for module, names in _HOME.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'spherectl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


@functools.cache  # every image asks for it, and the metadata is parsed each time
def _version() -> str:
    """The installed distribution's version; "0+unknown" for a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("spherectl")
    except PackageNotFoundError:
        return "0+unknown"
