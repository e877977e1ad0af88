"""spherectl: train, sample, edit and measure Sphere Encoder image models.

    import spherectl
    model = spherectl.load("fashion-mnist")
    for batch in spherectl.generate(model, classes=[0, 1, 2], steps=4): ...

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
        training_noise,
    )

    __version__: str

# What spherectl.api offers, by name: asking the module itself would import torch.
__all__ = [
    "Generated",
    "LossWeights",
    "Losses",
    "Model",
    "SampleSpec",
    "TrainingNoise",
    "__version__",
    "generate",
    "load",
    "objective",
    "training_noise",
]


def __getattr__(name: str) -> Any:
    # Only the names above: `from spherectl import zoo` asks here first, and must not import torch on the way.
    if name == "__version__":
        return _version()
    if name in __all__:
        from spherectl import api

        return getattr(api, name)
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
