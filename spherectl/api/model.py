"""A loaded model: an `nn.Module` over the bare networks, which speaks of images in [0, 1] and of classes by name.

Shapes: B images, N tokens, d token channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from spherectl.api.files import Source, WeightSet
from spherectl.api.hub import Pretrained
from spherectl.api.inputs import FLOATS, Classes, Images, as_images, check_plain, class_labels
from spherectl.checks import check_choice
from spherectl.classes import names_of
from spherectl.errors import UsageError
from spherectl.model import compiled, sampler
from spherectl.model.devices import DTYPES, PRECISIONS, Precision, check_compilable
from spherectl.model.formats.weights import Package
from spherectl.model.sphere import SphereEncoder, parameter_count
from spherectl.recipe import Recipe
from spherectl.timing import Stopwatch

FIXED = "pos_embed"  # the parameter that no training changes


class Model(Pretrained, nn.Module):
    """A Sphere Encoder, from `spherectl.load` or `Model.from_pretrained`.

    It is loaded in eval mode without gradients; `train()` turns them on. `forward` is `reconstruct` with gradients.
    `to`, `parameters` and `state_dict` are PyTorch's; the keys are those of published checkpoints (`encoder....`,
    `decoder....`).

    Attributes:
        encoder, decoder: the networks, which speak [-1, 1].
        network: both as one `SphereEncoder`.
        name: of the zoo entry, run or file.
        recipe: from the header; its [sample] table holds the defaults of `generate`.
        class_names: empty where there are none.
        header: what the file says of itself.
        weights: "ema" or "raw", the set in use.
        compiled: whether `generate` goes through torch.compile; encode, decode and forward never do.
        watch: if it is set, `generate` counts its stages "noise", "encoder" and "decoder".

    >>> import spherectl
    >>> spherectl.load("fashion-mnist", device="cpu", dtype="float32")
    Model(fashion-mnist: 32 x 32 px, 10 classes, latents (64, 8), 3,848,548 ema parameters, float32 on cpu)
    """

    def __init__(
        self,
        network: SphereEncoder,
        header: dict[str, Any],
        *,
        name: str,
        device: torch.device,
        precision: Precision = "float32",
        weights: WeightSet = "ema",
        file: Path | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_choice(weights, ("ema", "raw"), "weights")
        check_choice(compile, (False, True), "compile")
        dtype = DTYPES[check_choice(precision, PRECISIONS, "precision")]
        if compile:
            check_compilable(device, precision)
        self.encoder, self.decoder = network.encoder, network.decoder
        object.__setattr__(self, "network", network.to(device, dtype))  # not a second name for each weight
        self._set_int8(precision == "int8")
        self.training = False
        self.compiled = compile
        self.weights: WeightSet = "raw" if header.get("weights", "raw") == "raw" else weights
        self.name, self.header = name, header
        self.recipe: Recipe = Package(header, {}).recipe
        named: Sequence[str] = header.get("class_names") or names_of(str(header.get("data", "")), self.num_classes)
        self.class_names: tuple[str, ...] = tuple(named)
        self.watch: Stopwatch | None = None
        self._source = Source(file)
        self._changed, self._marks = False, self._versions()
        self._networks = self._make_networks()

    # What it is

    network: SphereEncoder

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.encoder.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights in memory."""
        return self.encoder.pos_embed.dtype

    @property
    def precision(self) -> Precision:
        """The name of `dtype`; or "int8", where the blocks compute in int8 and all else in bfloat16."""
        return "int8" if self.encoder.int8 else next(name for name in PRECISIONS if DTYPES[name] == self.dtype)

    @property
    def num_classes(self) -> int:
        """Classes without the null class; 0 for an unconditional model."""
        return self.encoder.num_classes

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(N, d) of one latent."""
        return self.network.latent_shape

    @property
    def image_size(self) -> int:
        """Height and width of its images in pixels."""
        return self.recipe.model.image_size

    @property
    def networks(self) -> tuple[sampler.Network, sampler.Network]:
        """What `generate` calls: encoder and decoder, compiled or not."""
        return self._networks

    @property
    def sha256(self) -> str:
        """Hash of the file it came from; empty if it came from none, or its weights have been changed since.

        Computed when it is first asked for: beside a forward pass it would slow that down by more than it takes.
        """
        return "" if self.is_changed() else self._source.sha256

    def is_changed(self) -> bool:
        """Whether the weights are others than those that were loaded, as after a step of training.

        >>> import spherectl
        >>> spherectl.load("fashion-mnist", device="cpu").is_changed()
        False
        """
        return self._changed or self._marks != self._versions()

    def __repr__(self) -> str:
        side, classes = self.image_size, f"{self.num_classes} classes" if self.num_classes else "unconditional"
        return (
            f"Model({self.name}: {side} x {side} px, {classes}, latents {self.latent_shape}, "
            f"{parameter_count(self):,} {self.weights} parameters, {self.precision} on {self.device})"
        )

    # Images to latents and back

    def forward(self, images: Images, labels: Classes = None) -> Tensor:
        """Encode and decode without noise, with gradients: (B, 3, H, W) in [0, 1] on the model's device.

        Args:
            images: as for `encode`.
            labels: as `classes` of `encode`.

        >>> import spherectl, torch
        >>> model = spherectl.load("fashion-mnist", device="cpu", dtype="float32").train()
        >>> images = torch.rand(4, 3, 32, 32)
        >>> loss = torch.nn.functional.mse_loss(model(images, "sneaker"), images)
        >>> loss.backward()
        """
        x = self._from_unit(as_images(images, self.recipe))
        y = self.labels(labels, len(x))
        return sampler.to_unit(self.network.decode(self.network.encode(x, y), y))

    @torch.no_grad()
    def encode(self, images: Images, classes: Classes = None) -> Tensor:
        """Points on the sphere of images.

        Args:
            images: floats (B, 3, H, W) in [0, 1], uint8, numpy arrays, a PIL image, or a list of single images
                (`spherectl.api.inputs.as_images` has all forms).
            classes: one for all, or one for each image; numbers or names. None: the null class.

        Returns:
            (B, N, d) float32 (float64 of a model in float64).

        Raises:
            UsageError: no such images, or classes that do not fit.

        >>> import spherectl
        >>> from PIL import Image
        >>> model = spherectl.load("fashion-mnist", device="cpu")
        >>> model.encode(Image.new("RGB", (640, 480)), "bag").shape
        torch.Size([1, 64, 8])
        """
        x = self._from_unit(as_images(images, self.recipe))
        return self.network.encode(x, self.labels(classes, len(x)))

    @torch.no_grad()
    def decode(self, latents: Tensor, classes: Classes = None) -> Tensor:
        """Images of points on the sphere.

        Args:
            latents: (B, N, d) floating point.
            classes: as for `encode`.

        Returns:
            (B, 3, H, W) in [0, 1], float32 (float64 of a model in float64). `spherectl.to_pil` makes PIL images of it.

        Raises:
            UsageError: no such latents, or classes that do not fit.

        >>> import spherectl, torch
        >>> model = spherectl.load("fashion-mnist", device="cpu")
        >>> spherectl.to_pil(model.decode(torch.randn(2, 64, 8), ["bag", 5]))[0].size
        (32, 32)
        """
        tokens, channels = self.latent_shape
        check_plain(latents, "latents")
        if latents.dtype not in FLOATS:
            raise UsageError(f"Expected latents of floating point numbers, got {latents.dtype}.")
        if latents.dim() != 3 or len(latents) == 0 or tuple(latents.shape[1:]) != (tokens, channels):
            raise UsageError(f"Expected latents of shape (B, {tokens}, {channels}), got {tuple(latents.shape)}.")
        if not latents.isfinite().all():
            raise UsageError("Expected latents of finite numbers; some are infinite or NaN.")
        v = latents.to(self.device, self.dtype)
        return sampler.to_unit(self.network.decode(v, self.labels(classes, len(latents))))

    def reconstruct(self, images: Images, classes: Classes = None) -> Tensor:
        """Encode and decode without noise or gradients; arguments as `encode`, result as `decode`.

        >>> import spherectl
        >>> from PIL import Image
        >>> model = spherectl.load("fashion-mnist", device="cpu")
        >>> model.reconstruct([Image.new("RGB", (32, 32)), Image.new("L", (28, 28))]).shape
        torch.Size([2, 3, 32, 32])
        """
        return self.decode(self.encode(images, classes), classes)

    def labels(self, classes: Classes, batch: int) -> Tensor | None:
        """(B,) label tensor on the model's device; None for unconditional models.

        Args:
            classes: one for all, or one for each image: numbers, or names of which the beginning is enough. None: the
                null class. Weights of all classes, (B, num_classes + 1) floats, are handed on: they mix the classes'
                embeddings.
            batch: B.

        Raises:
            UsageError: an unknown class, or another number of classes than images.

        >>> import spherectl
        >>> spherectl.load("fashion-mnist", device="cpu").labels(["sneaker", 3, "none"], 3)
        tensor([ 7,  3, 10])
        """
        return class_labels(classes, batch, self.num_classes, self.class_names, self.name, self.device)

    def check_guidance(self, scale: float) -> None:
        """Refuse guidance of a model without classes.

        Raises:
            UsageError: the scale is not 1, and there are none.

        >>> import spherectl
        >>> spherectl.load("fashion-mnist", device="cpu").check_guidance(2.0)
        """
        if scale != 1.0 and self.num_classes == 0:
            raise UsageError(f"{self.name} is unconditional: guidance needs classes.", "Leave --guidance at 1.")

    def _from_unit(self, images: Tensor) -> Tensor:
        """[0, 1] to [-1, 1], on the model's device and in its dtype."""
        return (images.to(self.device) * 2 - 1).to(self.dtype)

    def package(self) -> Package:
        """The model as a file holds it; changed weights have no scores, and a parent.

        >>> import spherectl
        >>> spherectl.load("fashion-mnist", device="cpu").package().header["data"]
        'fashion-mnist'
        """
        header = {**self.header, "weights": self.weights}
        if self.is_changed():
            header |= {"scores": [], "parent": self._source.sha256}
        return Package(header, self.state_dict())

    # What nn.Module asks for

    def train(self, mode: bool = True) -> Self:
        """Training mode, as of every module. The first time, it lets the parameters have gradients.

        All but the fixed position embeddings have them then; those that are frozen later stay so. The networks compute
        the same in both modes: there is no dropout in them.

        >>> import spherectl
        >>> model = spherectl.load("fashion-mnist", device="cpu").train()
        >>> sum(not p.requires_grad for p in model.parameters())
        2
        """
        super().train(mode)
        if mode and not any(parameter.requires_grad for parameter in self.parameters()):
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.rpartition(".")[2] != FIXED)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half`, `cuda` and the like do: int8 is given up where the dtype or the device becomes another."""
        changed, device, dtype = self.is_changed(), self.device, self.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if (self.device, self.dtype) != (device, dtype):
            self._set_int8(False)
        # What half precision has lost does not come back.
        self._changed = changed or (self.dtype != dtype and dtype.itemsize < torch.float32.itemsize)
        self._marks = self._versions()
        self._networks = self._make_networks()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_networks": None, "_changed": self.is_changed(), "_marks": None, "watch": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._marks = self._versions()
        self._networks = self._make_networks()

    def _set_int8(self, on: bool) -> None:
        self.encoder.int8 = self.decoder.int8 = on

    def _make_networks(self) -> tuple[sampler.Network, sampler.Network]:
        return compiled.compiled(self.network) if self.compiled else (self.encoder, self.decoder)

    def _versions(self) -> list[tuple[int, int]]:
        """Which tensors the weights are, and how often each was changed in place."""
        return [(id(parameter), parameter._version) for parameter in self.parameters()]  # noqa: SLF001
