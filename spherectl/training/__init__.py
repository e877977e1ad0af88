"""Training: a step, the loop around it, optimiser, moving average, checkpoints, the run folder.

    from spherectl.training import Step, train

`train` trains a recipe in a run folder. `Step` is what you give it to train on a loss of your own
(docs/own-networks.md). Both are looked up on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spherectl.training.loop import Outcome, train
    from spherectl.training.step import Part, Step

__all__ = ["Outcome", "Part", "Step", "train"]

_MODULES = {"Outcome": "loop", "train": "loop", "Part": "step", "Step": "step"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
