"""The feature networks: files in this folder, with `RECORDS` of all that the program knows of them.

A file here is found by its being here. `evaluate --features`, `features ls`, `features train`, `doctor`, the perceptual
loss and the table in docs/evaluation.md look records up. A record is read without torch, so a file imports what its
functions need inside them. Networks that people add to their zoo have no record: their files say what they are.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from spherectl.progress import Progress


class Source(NamedTuple):
    """A file of weights on the network."""

    url: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class FitPlan:
    """How a network of the zoo is made.

    Attributes:
        kind: a key of `spherectl.features.networks.KINDS`.
        arguments: of that class, without `num_classes` and `norm`.
        seed: of the first weights, the order and the shifts.
        epochs: passes over the training set.
        use: what the network is for, "loss" or "scores"; one network is never both for one model.
        data: the data set it learns from, which has a recipe of the same name.
        batch_size: images a step.
        lr: highest learning rate, reached after a fifth of the steps; falls to 0 along a cosine.
        weight_decay: of AdamW.
        shift_px: each image is moved by up to this many pixels in each direction, its edge repeated in the gap.
        label_smoothing: of the cross-entropy.
    """

    kind: str
    arguments: dict[str, Any]
    seed: int
    epochs: int
    use: str
    data: str = "fashion-mnist"
    batch_size: int = 128
    lr: float = 4e-3
    weight_decay: float = 0.05
    shift_px: int = 2
    label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureRecord:
    """What the program knows of one feature network.

    Attributes:
        name: of --features, of a file in the zoo, or in the loss.
        use: what it is for.
        licence: of the weights.
        weights: where they come from, for people.
        width: D of the embedding that scores compare; 0 where it has none.
        classes: K of its logits; 0 where it has none.
        image_px: the side of its images; None takes any size.
        source: the file of its weights, kept in the cache below `cache`.
        cache: a folder of the cache.
        plan: how a network of the zoo is trained.
        load: `load(file, progress)` gives the network for scores, frozen, in eval mode: torch-fidelity's, or one with
            `embed` (and `head`) for float images. The file is None, or weights that somebody named.
        layers: names of the embedding and of the logits in what a torch-fidelity network gives.
        identity: begins the network's name in stored statistics; empty: the class of the network.
        takes_file: whether --features NAME:PATH names the weights.
    """

    name: str
    use: str
    licence: str
    weights: str
    width: int = 0
    classes: int = 0
    image_px: int | None = None
    source: Source | None = None
    cache: str = "torchvision"
    plan: FitPlan | None = None
    load: Callable[[Path | None, Progress | None], Any] | None = None
    layers: tuple[str, str | None] = ("embedding", "logits")
    identity: str = ""
    takes_file: bool = False

    @property
    def place(self) -> str:
        """Where the file of `source` is kept, below the cache."""
        return f"{self.cache}/{self.source.url.rpartition('/')[2]}" if self.source else ""


@functools.cache
def records() -> dict[str, FeatureRecord]:
    """Every record by name."""
    files = sorted(file.name for file in pkgutil.iter_modules(__path__))
    return {record.name: record for file in files for record in importlib.import_module(f"{__name__}.{file}").RECORDS}


def plans() -> dict[str, FitPlan]:
    """The plans of the networks that `features train` makes."""
    return {name: record.plan for name, record in records().items() if record.plan is not None}
