"""What a name in a recipe stands for: every kind of network and every logger is one record here.

Recipes, trainings, model files, sizes, errors and `doctor` look the records up. `register` adds one, and nothing else
has to change: docs/own-networks.md adds networks, CONTRIBUTING.md a logger. To look a record up loads no torch: ours
name the functions that need it (`later`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from spherectl.shown import quoted

Function = Callable[..., Any]

# Kinds that earlier versions had in the package. Their recipes, runs and model files are read by experiments/.
OF_EXPERIMENTS = ("vae", "diffusion")
EXPERIMENTS = "`python -m experiments` in place of `spherectl`, in a checkout"


@dataclass(frozen=True)
class NetworkKind:
    """A kind of network, and how it is trained. Only the first four have to be given.

    Attributes:
        name: `model.kind` of its recipes.
        networks: what it consists of, in words, as in "E and D".
        build: of a `ModelSpec` makes an nn.Module whose children are the networks.
        step: of a resolved `Recipe` and a perceptual distance or None makes a `training.Step`, which has the loss.
        architecture: what the header of its model files says; empty: the name.
        initialise: gives a module start values from a seed; None: those that `build` gives it, from the run's seed.
        problems: of a `Recipe` gives a list of what does not go with this kind, each as "dotted.key: reason".
        gflop: of a resolved `Recipe` gives GFLOP of a training step for each image; None: metrics have no `mfu`.
        kept_passes: passes of the networks in one step that keep activations for the backward pass.
        load: of a module, a header, `name` and `device` makes what `previews` takes; None: it takes the module.
        previews: of a loaded model and an `ImageSet` makes images (3, H, W) by name, at least "samples"; None: none.
        autoencoder: of a model file, an image size and a device opens an `evaluation.autoencoders.Autoencoder`, which
            `plot posterior-hole --vae` compares with; None: it refuses this kind.
        sampling: the command that samples from a run, {} standing for its folder.
    """

    name: str
    networks: str
    build: Function
    step: Function
    architecture: str = ""
    initialise: Function | None = None
    problems: Callable[[Any], list[str]] | None = None
    gflop: Callable[[Any], float] | None = None
    kept_passes: int = 1
    load: Function | None = None
    previews: Function | None = None
    autoencoder: Function | None = None
    sampling: str = ""

    @property
    def header_name(self) -> str:
        """What the header of its model files says."""
        return self.architecture or self.name


@dataclass(frozen=True)
class LoggerKind:
    """Somewhere that a training shows its curves and images.

    Attributes:
        name: as `run.loggers` has it.
        module: that has to be installed.
        install: how, in words.
        open: of a run folder, `step` (steps done before) and `last_step` makes a context manager of a
            `training.loggers.Logger`.
    """

    name: str
    module: str
    install: str
    open: Function

    @property
    def installed(self) -> bool:
        """Whether its module is there; nothing is imported."""
        return importlib.util.find_spec(self.module) is not None


def later(module: str, name: str) -> Function:
    """A function of a module that is imported when the function is first called."""

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    return call


def _sphere_problems(recipe: Any) -> list[str]:
    return ["loss.kl: a part of a VAE's loss alone; a Sphere Encoder has no posterior"] if recipe.loss.kl else []


SPHERE = NetworkKind(
    name="sphere",
    networks="E and D",
    architecture="sphere-encoder",
    build=later("spherectl.model.sphere", "build"),
    initialise=later("spherectl.model.sphere", "initialise"),
    step=later("spherectl.training.step", "sphere_step"),
    gflop=later("spherectl.training.flops", "sphere_gflop"),
    problems=_sphere_problems,
    kept_passes=2,  # E(x), D on two latents an image, E(x_large)
    load=later("spherectl.api", "Model"),
    previews=later("spherectl.training.previews", "grids"),
    sampling="spherectl sample --model {}",
)
TENSORBOARD = LoggerKind(
    name="tensorboard",
    module="tensorboard",
    install="pip install 'spherectl[tb]'",
    open=later("spherectl.training.tensorboard", "opened"),
)

NETWORKS: dict[str, NetworkKind] = {SPHERE.name: SPHERE}
LOGGERS: dict[str, LoggerKind] = {TENSORBOARD.name: TENSORBOARD}

Kind = TypeVar("Kind", NetworkKind, LoggerKind)


def register(kind: Kind) -> Kind:
    """Add a record, or replace the one of its name; returns it."""
    records: dict[type, dict[str, Any]] = {NetworkKind: NETWORKS, LoggerKind: LOGGERS}
    records[type(kind)][kind.name] = kind
    return kind


def network_problem(name: object) -> str:
    """Why there is no such kind of network, or the empty string where there is one."""
    if isinstance(name, str) and name in NETWORKS:
        return ""
    if name in OF_EXPERIMENTS:
        return f"networks of the kind {quoted(name)} are in experiments/: use {EXPERIMENTS}"
    return f"expected {_choices(NETWORKS)}, got {quoted(name)}"


def logger_problem(name: object) -> str:
    """Why there is no such logger, or the empty string where there is one."""
    return "" if isinstance(name, str) and name in LOGGERS else f"expected {_choices(LOGGERS)}, got {quoted(name)}"


def of_header(architecture: Any) -> NetworkKind | None:
    """The kind whose model files say so; None where there is none."""
    return next((kind for kind in NETWORKS.values() if kind.header_name == architecture), None)


def _choices(records: dict[str, Any]) -> str:
    *others, last = (quoted(name) for name in records)
    return f"{', '.join(others)} or {last}" if others else last
