"""What is measured: models, each in every way this machine can run it.

The baseline is the plain model, eager, in float32: its recipe names an attention backend, so it never takes the
compiled kernels. Plain bfloat16 is the same with `.bfloat16()`. The other two are what `spherectl` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.timing import CPU, counted_gflop
from spherectl import api, zoo
from spherectl.model.devices import Precision, choose_precision, has_fast_bfloat16
from spherectl.model.formats import weights
from spherectl.model.formats.weights import Package
from spherectl.model.sphere import build, parameter_count
from spherectl.recipe import ModelSpec, Recipe, RunSpec, SampleSpec
from spherectl.settings import load_settings

# The ways; the first word is the precision.
BASELINE, PLAIN, KERNELS, INT8 = "float32", "bfloat16, plain", "bfloat16, kernels", "int8, kernels"
GUIDANCE = 1.4
SEED = 0
EMBEDDED = "fashion-mnist"
EMBEDDED_DRAWS = ((1, (1, 8, 64)), (4, (1, 8, 64)))


class TrainingNoise(NamedTuple):
    """What is drawn with a model of random weights: (steps, batches), and what is left out for its length."""

    title: str
    spec: ModelSpec
    draws: tuple[tuple[int, tuple[int, ...]], ...]
    left_out: tuple[tuple[int, int], ...] = ()


def spec_of(size: str, image_size: int = 32, num_classes: int = 10) -> ModelSpec:
    """Networks as in the paper: high latent resolution, which is patch 2 at 32 px and 8 at 256, and its pixel heads."""
    head: Literal["conv", "linear"] = "conv" if image_size == 32 else "linear"
    return ModelSpec(size=size, image_size=image_size, num_classes=num_classes, pixel_head=head)


# Times do not depend on the weights. A call of more than about ten seconds is made for the bars' sake alone.
RANDOM = {
    "small": TrainingNoise("small, 32 px, patch 2", spec_of("small"), ((1, (1, 8, 64)), (4, (8,))), ((4, 64),)),
    "base": TrainingNoise("base, 32 px, patch 2", spec_of("base"), ((1, (1, 8)), (4, (8,))), ((1, 64), (4, 64))),
    "base-256": TrainingNoise("base, 256 px, patch 8", spec_of("base", 256, 1000), ((1, (1,)),), ((1, 8),)),
}
NAMES = (EMBEDDED, *RANDOM)


@dataclass
class Subject:
    """A model in every way.

    Attributes:
        name: short, as in --models.
        title: of its tables.
        package: its float32 weights.
        models: by way; the ways in bfloat16 share their weights.
        draws: (steps, batches) to be timed.
        left_out: (steps, batch) that would take too long.
        sha256: of its file; empty for random weights.
    """

    name: str
    title: str
    package: Package
    models: dict[str, api.Model]
    draws: tuple[tuple[int, tuple[int, ...]], ...]
    left_out: tuple[tuple[int, int], ...] = ()
    sha256: str = ""
    _counted: dict[int, float] = field(default_factory=dict)

    @property
    def baseline(self) -> api.Model:
        """The plain model."""
        return self.models[BASELINE]

    @property
    def parameters(self) -> int:
        """Of both networks."""
        return parameter_count(self.baseline.network)

    def gflop(self, steps: int) -> float:
        """Products of drawing one image, counted once on the plain float32 path."""
        if steps not in self._counted:
            draw(self.baseline, 1, min(steps, 2))  # the class table is computed once, which is not counted
            self._counted[steps] = counted_gflop(lambda: draw(self.baseline, 1, steps))
        return self._counted[steps]


def embedded(name: str = EMBEDDED) -> Subject:
    """A model of the zoo, a model file or a run."""
    found = zoo.find_model(name, load_settings())
    package = weights.read_package(found.path)
    size = package.recipe.model
    title = f"{found.name} ({size.size}, {size.image_size} px, patch {size.patch})"
    models = ways(package, found.name)
    return Subject(found.name, title, package, models, EMBEDDED_DRAWS, sha256=api.model_hash(found.path))


def random(name: str) -> Subject:
    """A model of `RANDOM`."""
    title, spec, draws, left_out = RANDOM[name]
    package = random_package(name, spec)
    return Subject(name, title, package, ways(package, name), draws, left_out)


def random_package(name: str, spec: ModelSpec) -> Package:
    """Torch's own start values under a fixed seed: unlike ours they are quick to draw, and no output is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build(spec).requires_grad_(False)
    recipe = Recipe(name=name, model=spec, run=RunSpec(length_images=1))
    return Package({"recipe": recipe.to_table(), "weights": "raw"}, dict(network.named_parameters()))


def ways(package: Package, name: str) -> dict[str, api.Model]:
    """The model in every way this machine can run it, the baseline first."""
    half = Package(package.header, {key: tensor.bfloat16() for key, tensor in package.weights.items()})
    models = {BASELINE: model(package, name, "float32", plain=True)}
    if has_fast_bfloat16(CPU):  # elsewhere it would take hours
        models[PLAIN] = model(half, name, "bfloat16", plain=True)
    fast = model(half, name, "bfloat16")
    with torch.no_grad():
        if fast.network.encoder.path(CPU, torch.bfloat16) != "torch":
            models[KERNELS] = fast
    if fast.network.takes_kernels(CPU):
        models[INT8] = model(half, name, "int8")
    return models


def model(package: Package, name: str, precision: Precision, *, plain: bool = False) -> api.Model:
    """One model of its own over the package's tensors, which it shares where they have the precision's dtype."""
    table = package.header["recipe"]
    spec = {**table["model"], "attention": "sdpa" if plain else "auto"}
    header = {**package.header, "recipe": {**table, "model": spec}}
    network = weights.instantiate(Package(header, package.weights))
    return api.Model(network, header, name=name, device=CPU, precision=precision)


def best(package: Package, name: str) -> api.Model:
    """The model as `spherectl sample` runs it on this machine."""
    network = weights.instantiate(package)
    return model(package, name, choose_precision("auto", CPU, network))


def settings(model: api.Model, steps: int) -> SampleSpec:
    """The model's own settings at so many steps; guided where there are several steps, and classes."""
    return api.sample_settings(model, steps=steps, guidance=guidance(model, steps))


def guidance(model: api.Model, steps: int) -> float:
    """Guidance scale of a draw."""
    return GUIDANCE if steps > 1 and model.num_classes else 1.0


def what(steps: int) -> str:
    """A draw in words."""
    return "1 step" if steps == 1 else f"{steps} guided steps"


def labels_of(model: api.Model, indices: Tensor) -> Tensor | None:
    """(B,) classes of images (B,): all in turn."""
    return indices % model.num_classes if model.num_classes else None


def draw(model: api.Model, images: int | Iterable[int], steps: int) -> Tensor:
    """Images (n, 3, H, W) in [0, 1], computed together.

    Args:
        model: in one of the ways.
        images: how many, or which.
        steps: guided where more than one.
    """
    indices = torch.arange(images) if isinstance(images, int) else torch.tensor(list(images))
    return api.sample_indices(model, indices, labels_of(model, indices), settings(model, steps), SEED)
