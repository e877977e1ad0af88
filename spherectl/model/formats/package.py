"""A model as a file holds it: a header and tensors, and the networks that they are loaded into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spherectl.errors import FileError, UsageError
from spherectl.model.sphere import SphereEncoder, build
from spherectl.recipe import Recipe, parse
from spherectl.shown import listed, quoted

# The types that weights may have.
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MAX_PROBLEMS = 3  # that one sentence names


@dataclass(frozen=True)
class Package:
    """A model as a file holds it.

    Attributes:
        header: the file's header; at least `recipe` (a table) and `weights` ("ema" or "raw").
        weights: the tensors to use, averaged ones where there are any.
        raw: the raw tensors beside averaged `weights`, or None.
    """

    header: dict[str, Any]
    weights: dict[str, Tensor]
    raw: dict[str, Tensor] | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe in the header, checked once.

        Raises:
            FileError: the header has no valid recipe.
        """
        try:
            return parse(self.header["recipe"], "The model's header")
        except UsageError as error:
            raise FileError(error.message) from None


def packed(
    header: dict[str, Any], recipe: Recipe, weights: dict[str, Tensor], raw: dict[str, Tensor] | None
) -> Package:
    """A package whose recipe is parsed already."""
    package = Package(header, weights, raw)
    package.__dict__["recipe"] = recipe
    return package


def instantiate(package: Package, weights: Literal["ema", "raw"] = "ema") -> SphereEncoder:
    """Build the networks of a package and load its weights, in eval mode without gradients.

    Args:
        package: from `read_package`.
        weights: "ema" takes averaged weights where there are any; "raw" those of the last step.

    Raises:
        UsageError: raw weights are asked for and the file has none.
        FileError: tensors are missing, left over, or of another shape than the header's recipe says.
    """
    tensors = package.weights
    if weights == "raw" and package.header.get("weights", "raw") != "raw":
        if package.raw is None:
            raise UsageError("This model file has averaged (EMA) weights only.", "Leave --weights raw out.")
        tensors = package.raw
    with torch.device("meta"):
        model = build(package.recipe.model)
    fill(model, tensors)
    return model


def fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load weights into networks on the meta device, and set eval mode without gradients.

    Raises:
        FileError: tensors are missing, left over, or of another shape than the networks'.
    """
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is left over" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        named = listed(sorted(problems), MAX_PROBLEMS, "; ")
        raise FileError(f"The weights do not fit the header's recipe: {named}.")
    model.load_state_dict(tensors, assign=True)
    model.eval().requires_grad_(False)


def check_weights(tensors: dict[str, Tensor], what: str) -> None:
    """Refuse weights that are not floating point, or not finite numbers.

    Args:
        tensors: by name; every number is checked.
        what: the file's name in errors.

    Raises:
        FileError: names the first bad tensor.
    """
    check_types(tensors, what)
    check_finite(tensors, what)


def check_finite(tensors: dict[str, Tensor], what: str) -> None:
    """`check_weights` without looking at the types."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        # A sum is 20 times as fast as to ask of each number, and finite unless one is not, or all are enormous.
        total = tensor.sum(dtype=max(tensor.dtype, torch.float32, key=lambda dtype: dtype.itemsize))
        if not total.isfinite() and not tensor.isfinite().all():
            raise FileError(f"{what}: {quoted(name)} has weights that are not finite numbers.", "Fetch it again.")


def check_types(tensors: dict[str, Tensor], what: str) -> None:
    """`check_weights` without looking at the numbers."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS or tensor.layout != torch.strided:
            got = tensor.dtype if tensor.layout == torch.strided else tensor.layout
            known = listed(map(_name, FLOATS))
            raise FileError(f"{what}: {quoted(name)} has the type {_name(got)}, which no model has; known: {known}.")


def _name(kind: object) -> str:
    return str(kind).removeprefix("torch.")
