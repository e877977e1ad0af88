"""What `import spherectl` offers: load a model, encode, decode, reconstruct, generate.

Images are float (B, 3, H, W) in [0, 1] here; latents are points on the sphere, (B, N, d); labels are class numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spherectl import zoo
from spherectl.checks import (
    MAX_BATCH,
    MAX_GUIDANCE,
    MAX_STEPS,
    as_whole,
    check_choice,
    check_number,
    check_seed,
    check_whole,
)
from spherectl.classes import names_of, parse_classes
from spherectl.errors import UsageError
from spherectl.files import file_hash
from spherectl.model import compiled, sampler, seeding
from spherectl.model.devices import (
    DTYPES,
    PRECISIONS,
    Dtype,
    Precision,
    check_compilable,
    choose_device,
    choose_precision,
    finish,
)
from spherectl.model.formats import weights
from spherectl.model.formats.conversion import converted
from spherectl.model.formats.layouts import weights_file
from spherectl.model.objective import Losses, LossWeights, TrainingNoise, objective, training_noise
from spherectl.model.sphere import SphereEncoder
from spherectl.recipe import Recipe, SampleSpec
from spherectl.safetensors_header import opened
from spherectl.sampling import Guide, Strength
from spherectl.settings import load_settings
from spherectl.shown import quoted
from spherectl.timing import Stopwatch

__all__ = [
    "Generated",
    "LossWeights",
    "Losses",
    "Model",
    "SampleSpec",
    "TrainingNoise",
    "generate",
    "load",
    "objective",
    "training_noise",
]

TOLERANCE = 1e-6
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Classes = Sequence[str | int] | Tensor | None


@dataclass(frozen=True)
class Generated:
    """One finished batch.

    Attributes:
        images: (B, 3, H, W) in [0, 1], float32 (float64 of a model in float64), on the CPU.
        labels: (B,) class numbers, the null class being `num_classes`; None for unconditional models.
        indices: (B,) each image's number in the run, which with the seed decides its noise.
    """

    images: Tensor
    labels: Tensor | None
    indices: Tensor


class Model:
    """A loaded Sphere Encoder.

    Attributes:
        network: the bare networks, which speak [-1, 1].
        name: of the zoo entry, run or file.
        recipe: from the header; its [sample] table holds the defaults of `generate`.
        class_names: empty where there are none.
        header: everything the file says of itself.
        device: where it computes.
        precision: in what; int8 is for the products of the blocks, all else is bfloat16 then.
        dtype: of the weights in memory.
        weights: "ema" or "raw", the set in use.
        networks: what `generate` calls, encoder and decoder.
        compiled: whether they went through torch.compile; those of `network`, which encode and decode call, never do.
        watch: if it is set, `generate` counts its stages "noise", "encoder" and "decoder".
    """

    def __init__(
        self,
        network: SphereEncoder,
        header: dict[str, Any],
        *,
        name: str,
        device: torch.device,
        precision: Precision = "float32",
        weights_kind: Literal["ema", "raw"] = "ema",
        file: Path | None = None,
        compile: bool = False,
    ) -> None:
        check_choice(weights_kind, ("ema", "raw"), "weights_kind")
        check_choice(compile, (False, True), "compile")
        dtype = DTYPES[check_choice(precision, PRECISIONS, "precision")]
        if compile:
            check_compilable(device, precision)
        self.network = network.to(device, dtype)
        for trunk in (network.encoder, network.decoder):
            trunk.int8 = precision == "int8"
        self.precision: Precision = precision
        self.compiled = compile
        plain: tuple[sampler.Network, sampler.Network] = (network.encoder, network.decoder)
        self.networks = compiled.compiled(self.network) if compile else plain
        self.weights: Literal["ema", "raw"] = "raw" if header.get("weights", "raw") == "raw" else weights_kind
        self.name, self.header, self.device, self.dtype = name, header, device, dtype
        self.recipe: Recipe = weights.Package(header, {}).recipe
        named: Sequence[str] = header.get("class_names") or names_of(str(header.get("data", "")), self.num_classes)
        self.class_names: tuple[str, ...] = tuple(named)
        self.watch: Stopwatch | None = None
        # Held open, so that the hash is of what was loaded, even if a training writes a newer model under its name.
        self._file = opened(weights_file(file)) if file else None
        self._sha256: str | None = None
        if self._file is not None:
            weakref.finalize(self, self._file.close)

    @property
    def num_classes(self) -> int:
        """Classes without the null class; 0 for an unconditional model."""
        return self.network.num_classes

    @property
    def sha256(self) -> str:
        """Hash of the file the model came from; empty for a model that came from none.

        Computed when it is first asked for: beside a forward pass it would slow that down by more than it takes.
        """
        if self._sha256 is None:  # no lock, which a fork could leave locked: two threads find the same
            self._sha256 = file_hash(self._file) if self._file is not None else ""
        return self._sha256

    @torch.no_grad()
    def encode(self, images: Tensor, classes: Classes = None) -> Tensor:
        """Points on the sphere of images.

        Args:
            images: (B, 3, H, W) in [0, 1], at the model's size.
            classes: one for each image, numbers or names; None: the null class.

        Returns:
            (B, N, d) float32 (float64 of a model in float64).

        Raises:
            UsageError: no such images, or classes that do not fit.
        """
        self.check_images(images)
        x = (images.to(self.device) * 2 - 1).to(self.dtype)
        return self.network.encode(x, self.labels(classes, len(images)))

    @torch.no_grad()
    def decode(self, latents: Tensor, classes: Classes = None) -> Tensor:
        """Images of points on the sphere.

        Args:
            latents: (B, N, d) floating point.
            classes: as for `encode`.

        Returns:
            (B, 3, H, W) in [0, 1], float32 (float64 of a model in float64).

        Raises:
            UsageError: no such latents, or classes that do not fit.
        """
        tokens, channels = self.network.latent_shape
        _check_floats(latents, "latents")
        if latents.dim() != 3 or len(latents) == 0 or tuple(latents.shape[1:]) != (tokens, channels):
            raise UsageError(f"Expected latents of shape (B, {tokens}, {channels}), got {tuple(latents.shape)}.")
        if not latents.isfinite().all():
            raise UsageError("Expected latents of finite numbers; some are infinite or NaN.")
        v = latents.to(self.device, self.dtype)
        return sampler.to_unit(self.network.decode(v, self.labels(classes, len(latents))))

    def reconstruct(self, images: Tensor, classes: Classes = None) -> Tensor:
        """Encode and decode without noise: (B, 3, H, W) in [0, 1] to the same."""
        return self.decode(self.encode(images, classes), classes)

    def labels(self, classes: Classes, batch: int) -> Tensor | None:
        """(B,) label tensor on the model's device; None for unconditional models.

        Weights of all classes, (B, num_classes + 1) floats, are handed on: they mix the classes' embeddings.

        Raises:
            UsageError: an unknown class, or another number of classes than images.
        """
        if classes is None or self.num_classes == 0:
            return self.network.null_labels(batch, self.device)
        if isinstance(classes, Tensor) and classes.is_floating_point():
            if tuple(classes.shape) != (batch, self.num_classes + 1):
                raise UsageError(
                    f"Expected weights of shape ({batch}, {self.num_classes + 1}), got {tuple(classes.shape)}."
                )
            if not classes.isfinite().all():
                raise UsageError("Expected weights of classes that are finite; some are infinite or NaN.")
            return classes.to(self.device)
        chosen = [self._number(c) for c in _listed(classes)]
        if len(chosen) != batch:
            raise UsageError(f"Expected one class for each of {batch} images, got {len(chosen)}.")
        return torch.tensor(chosen, device=self.device)

    def _number(self, one: str | int) -> int:
        if one == self.num_classes:
            return self.num_classes
        numbers = parse_classes([one], self.class_names, self.num_classes, self.name)
        if len(numbers) != 1:
            raise UsageError(f"Expected one class for each image, got {quoted(one)}, which is {len(numbers)}.")
        return numbers[0]

    def check_guidance(self, scale: float) -> None:
        """Refuse guidance of a model without classes.

        Raises:
            UsageError: the scale is not 1, and there are none.
        """
        if scale != 1.0 and self.num_classes == 0:
            raise UsageError(f"{self.name} is unconditional: guidance needs classes.", "Leave --guidance at 1.")

    def check_images(self, images: Tensor) -> None:
        """Refuse what is not images of the model's size.

        Raises:
            UsageError: not floats in [0, 1] of shape (B, 3, H, W).
        """
        side = self.recipe.model.image_size
        _check_tensor(images, "images")
        if images.dim() != 4 or len(images) == 0 or tuple(images.shape[1:]) != (3, side, side):
            raise UsageError(f"Expected images of shape (B, 3, {side}, {side}), got {tuple(images.shape)}.")
        if images.dtype not in FLOATS:
            raise UsageError(f"Expected float images in [0, 1], got {images.dtype}.", "Divide bytes by 255.")
        low, high = float(images.min()), float(images.max())
        if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:
            raise UsageError(f"Expected float images in [0, 1], got {images.dtype} from {low:g} to {high:g}.")


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype | torch.dtype = "auto",
    weights_kind: Literal["ema", "raw"] = "ema",
    compile: bool = False,
) -> Model:
    """Load a model.

    Args:
        model: a zoo name, a model file, a run folder, a published checkpoint folder or hf:user/repo; None: the setting,
            else the newest run, else the embedded model.
        device: auto, cpu, cuda, cuda:1, mps, or a torch.device.
        dtype: a name or a torch.dtype. "auto" is bfloat16 on CUDA and on CPUs where it is measured to be faster,
            float32 elsewhere; "int8" is faster still on such CPUs, at a price in exactness; "float64" is for
            comparisons; "float16" is for CUDA.
        weights_kind: averaged weights where there are any, or those of the last step.
        compile: draw through torch.compile, on CUDA through CUDA graphs. The first batch of a size waits for the
            compiler, a shorter last batch is filled up, and the last bits are others than without.

    Raises:
        UsageError, FileError: no such model, or one that cannot be read; or none that can be compiled here; an
            argument that is none of those above.
    """
    if model is not None and not isinstance(model, str | Path):
        raise UsageError(f"model: expected a name or a path, got {quoted(model)}.")
    found = zoo.find_model(None if model is None else str(model), load_settings())
    return load_found(found, device=device, dtype=dtype, weights_kind=weights_kind, compile=compile)


def load_found(
    found: zoo.Found,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype | torch.dtype = "auto",
    weights_kind: Literal["ema", "raw"] = "ema",
    compile: bool = False,
) -> Model:
    """`load` for a model that `zoo.find_model` found; a fetched checkpoint is converted the first time."""
    check_choice(weights_kind, ("ema", "raw"), "weights_kind")
    where = choose_device(device)
    found = dataclasses.replace(found, path=converted(found.path, load_settings()))
    package = weights.read_package(found.path, raw=weights_kind == "raw")
    if weights_kind == "raw" and package.raw is None and found.kind == "run":
        package = weights.Package(package.header, package.weights, _newest_raw(found.path.parent))
    network = weights.instantiate(package, weights_kind)
    precision = choose_precision(dtype, where, network)
    return Model(
        network,
        package.header,
        name=found.name,
        device=where,
        precision=precision,
        weights_kind=weights_kind,
        file=found.path,
        compile=compile,
    )


def generate(
    model: Model,
    count: int = 16,
    *,
    classes: Classes = None,
    steps: int | None = None,
    guidance: float | None = None,
    guide: Guide | None = None,
    noise: Literal["shared", "fresh"] | None = None,
    strength: Strength | None = None,
    noise_deg: float | Literal["training"] | None = None,
    seed: int = 0,
    batch: int = 64,
) -> Iterator[Generated]:
    """Draw images, in finished batches.

    Image i depends on the seed, i, its class and the settings; in float32 on a CPU not on `batch` or `count`, unless it
    is drawn by a compiled model.

    Args:
        model: from `load`.
        count: images in all.
        classes: numbers or names, taken in turn; None: all classes in turn.
        steps, guidance, guide, noise, strength: None takes the model's own [sample] table.
        noise_deg: largest angle of the noise between steps, in degrees below 90, or "training", the largest usual one
            there; None as above.
        seed: 64-bit seed.
        batch: images computed together.

    Yields:
        `Generated` batches in order.

    Raises:
        UsageError: an unknown class, or a setting out of range; before anything is drawn.
    """
    how = {"noise": noise, "strength": strength, "noise_deg": noise_deg}
    settings = sample_settings(model, steps=steps, guidance=guidance, guide=guide, **how)
    count, batch = check_whole(count, "count", 1), check_whole(batch, "batch", 1, MAX_BATCH)
    seed = check_seed(seed)
    labels = spread_classes(model, count, classes)
    return _batches(model, labels, count, settings, seed, batch)


def sample_settings(model: Model, **changes: Any) -> SampleSpec:
    """The model's [sample] table with some keys changed, checked; None leaves a key as it is.

    Raises:
        UsageError: a value of another type or out of range, or guidance of an unconditional model.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if "steps" in given:  # the table's own checks say the range; text and True they would take for numbers
        given["steps"] = check_whole(given["steps"], "sample.steps", 1, MAX_STEPS)
    if "guidance" in given:
        given["guidance"] = check_number(given["guidance"], "sample.guidance", 1, MAX_GUIDANCE)
    if given.get("noise_deg", "training") != "training":
        given["noise_deg"] = check_number(given["noise_deg"], "sample.noise_deg", 0, below=90)
    settings: SampleSpec = model.recipe.replace(sample=given).sample
    model.check_guidance(settings.guidance)
    return settings


def spread_classes(model: Model, count: int, classes: Classes) -> Tensor | None:
    """(count,) labels: the asked classes in turn, so that they share the images evenly; None where there are none."""
    if classes is None:
        numbers = list(range(model.num_classes))
    else:
        numbers = parse_classes(_listed(classes), model.class_names, model.num_classes, model.name)
    if model.num_classes == 0:
        return None
    return torch.tensor(numbers)[torch.arange(count) % len(numbers)]


def _batches(
    model: Model, labels: Tensor | None, count: int, settings: SampleSpec, seed: int, batch: int
) -> Iterator[Generated]:
    for start in range(0, count, batch):
        indices = torch.arange(start, min(start + batch, count))
        computed = indices
        if model.compiled:  # for one size: the last batch is filled up with its first image
            computed = torch.cat((indices, indices[:1].expand(min(batch, count) - len(indices))))
        chosen = None if labels is None else labels[computed]
        images = sample_indices(model, computed, chosen, settings, seed)[: len(indices)]
        yield Generated(images, None if chosen is None else chosen[: len(indices)], indices)


@torch.no_grad()
def sample_indices(model: Model, indices: Tensor, labels: Tensor | None, settings: SampleSpec, seed: int) -> Tensor:
    """Images of given numbers in a run.

    Args:
        model: from `load`.
        indices: (B,) image numbers.
        labels: (B,) classes, or None.
        settings: steps, guidance, noise.
        seed: of the run.

    Returns:
        (B, 3, H, W) float32 in [0, 1] on the CPU.
    """
    where, shape = indices.to(model.device), model.network.latent_shape
    y = None if labels is None else labels.to(model.device)
    noise, networks = seeding.noise, model.networks
    if model.watch is not None:
        timed, wait = model.watch.timed, finish(model.device)
        noise = timed("noise", noise, wait)
        networks = (timed("encoder", networks[0], wait), timed("decoder", networks[1], wait))

    @functools.cache
    def round_noise(k: int) -> Tensor:
        return noise(seed, seeding.ROUND, where, shape, k)

    if y is not None:
        networks = sampler.guided(*networks, torch.full_like(y, model.num_classes), settings.guidance, settings.guide)
    images = sampler.generate(
        *networks,
        noise(seed, seeding.INITIAL, where, shape),
        y,
        steps=settings.steps,
        sigma_max=model.recipe.round_sigma(settings),
        noise=lambda k: round_noise(1 if settings.noise == "shared" else k),
        strength=settings.strength,
    )
    return images.cpu()


def _newest_raw(run: Path) -> dict[str, Tensor] | None:
    from spherectl.training import checkpoint  # only this one question needs it

    found = checkpoint.checkpoints(run / "checkpoints")
    return checkpoint.read_part(found[-1], "model") if found else None


def _check_tensor(value: object, what: str) -> None:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
        kind = f"a tensor of another layout ({value.layout})" if isinstance(value, Tensor) else quoted(value)
        raise UsageError(f"Expected {what} as a plain torch.Tensor, got {kind}.")


def _check_floats(value: Tensor, what: str) -> None:
    _check_tensor(value, what)
    if value.dtype not in FLOATS:
        raise UsageError(f"Expected {what} of floating point numbers, got {value.dtype}.")


def _listed(classes: object) -> list[str | int]:
    """Classes as they are asked for, one by one; what is no number and no name is refused.

    Raises:
        UsageError: it is.
    """
    if isinstance(classes, str):
        return [classes]
    given = classes.tolist() if isinstance(classes, Tensor | np.ndarray) else classes
    if isinstance(given, bytes) or not isinstance(given, Sequence):
        raise UsageError(f"Expected a list of class numbers or names, got {quoted(classes)}.")
    return [one if isinstance(one, str) else _class_number(one) for one in given]


def _class_number(one: object) -> int:
    number = as_whole(one)
    if number is None or abs(number) >= 2**63:
        raise UsageError(f"Expected a class number or name, got {quoted(one)}.")
    return number


def model_hash(path: Path) -> str:
    """SHA-256 of a model file; of a published checkpoint folder, that of its newest checkpoint."""
    return file_hash(weights_file(path))
