"""Feature networks as files: the format of `spherectl.model.formats.weights`, with architecture "feature-network"."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from spherectl import zoo
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.features.networks import KINDS, build_network
from spherectl.files import expanded, is_regular
from spherectl.model.formats import weights
from spherectl.model.formats.header import Header, header_of
from spherectl.recipe import MAX_CLASSES, MAX_IMAGE_SIZE
from spherectl.safetensors_header import safetensors_header
from spherectl.shown import quoted
from spherectl.validation import validated

ARCHITECTURE = "feature-network"
FORMAT = 1

MAX_STAGES = 8  # each halves the image; ours have 3
MAX_LAYERS = 64  # of one stage; ours have at most 2
MAX_WIDTH = 4_096  # channels of a stage; ours have at most 128

Widths = Annotated[list[Annotated[int, Field(ge=1, le=MAX_WIDTH)]], Field(min_length=1, max_length=MAX_STAGES)]
Layers = Annotated[list[Annotated[int, Field(ge=1, le=MAX_LAYERS)]], Field(min_length=1, max_length=MAX_STAGES)]


class Arguments(BaseModel):
    """What a network of `KINDS` is built with; the layers of its stages under the name that its kind has for them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    num_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    widths: Widths | None = None
    convolutions: Layers | None = None
    blocks: Layers | None = None

    @model_validator(mode="after")
    def _check(self) -> Arguments:
        if len({len(many) for many in (self.widths, self.convolutions, self.blocks) if many is not None}) > 1:
            raise ValueError("arguments: the lists are not of one length")
        return self


class FeatureHeader(Header):
    """What a feature network's file says of itself."""

    kind: str
    arguments: Arguments
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    use: str = ""
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> FeatureHeader:
        if len(self.class_names) not in (0, self.arguments.num_classes):
            raise ValueError(f"class_names: {len(self.class_names)} for {self.arguments.num_classes} classes")
        return self


def save_feature_network(
    path: Path, network: nn.Module, kind: str, arguments: dict[str, Any], about: dict[str, Any]
) -> None:
    """Write a folded network and all that is needed to build it again.

    Args:
        path: the `.safetensors` file; it appears whole or not at all.
        network: what `spherectl.features.fit.fit` returns.
        kind: a key of `KINDS`.
        arguments: what the network was built with, but `norm`.
        about: what the header tells beside that: image_size (needed), class_names, data, licence, accuracy, ...
    """
    header = {**about, "format": FORMAT, "architecture": ARCHITECTURE, "kind": kind, "arguments": arguments}
    weights.save_file(path, network.state_dict(), header)


def load_feature_network(name_or_path: str | Path) -> nn.Module:
    """A feature network of the zoo, or of a file: frozen, in eval mode, float32, on the CPU.

    Args:
        name_or_path: a name in the zoo, as in `loss.perceptual = "features:NAME"`, or a path.

    Raises:
        UsageError: there is no such network, or the file holds a model of another architecture.
        FileError: the file is damaged.
    """
    path = find_feature_network(name_or_path)
    header = read_feature_header(path)
    damaged = FileError(f"{path} does not hold the tensors its header announces; it is damaged.")
    try:
        with torch.device("meta"):  # nothing is allocated before the file's tensors are known to fit
            network = build_network(header["kind"], header["arguments"])
    except SpherectlError:
        raise
    except (TypeError, ValueError):  # lists of another kind of network
        raise damaged from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if expected != {name: info.shape for name, info in safetensors_header(path).tensors.items()}:
        raise damaged
    tensors = weights.read_tensors(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise FileError(f"{path}: {quoted(name)} holds no weights, but {tensor.dtype} that is not all finite.")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return network.requires_grad_(False).eval()


def read_feature_header(path: Path) -> dict[str, Any]:
    """The header of a feature network's file.

    Raises:
        UsageError: the file holds something else, or a kind of network this version does not know.
        FileError: the file is damaged.
    """
    contents = safetensors_header(path)
    header = header_of(contents, path, Header).table
    found = header["architecture"]
    if found != ARCHITECTURE:
        raise UsageError(
            f"{path} holds a model of the architecture {quoted(found)}; a {ARCHITECTURE} is needed here.",
            f"Those in the zoo: {', '.join(sorted(_entries())) or 'none'}.",
        )
    missing = {"format", "kind", "arguments", "image_size"} - header.keys()
    if missing:
        raise FileError(f"The header of {path} lacks {', '.join(sorted(missing))}, so its network is unknown.")
    if header["format"] != FORMAT or not isinstance(header["kind"], str) or header["kind"] not in KINDS:
        raise UsageError(
            f"{path} is a {ARCHITECTURE} of format {quoted(header['format'])}, kind {quoted(header['kind'])}; "
            f"this version reads format {FORMAT}, kinds {', '.join(KINDS)}.",
            "A newer spherectl may read it.",
        )
    validated(FeatureHeader, header, f"The header of {path}")
    return header


def find_feature_network(name_or_path: str | Path) -> Path:
    """The file behind a zoo name (fetched if need be) or a path; a name goes before a path that reads the same.

    Raises:
        UsageError: there is none; the sentence lists those that exist.
        FileError: the zoo's file is missing or damaged.
        SpherectlError: it cannot be fetched.
    """
    entries = _entries()
    if str(name_or_path) in entries:
        return zoo.fetch(entries[str(name_or_path)])
    path = expanded(name_or_path)
    if is_regular(path):
        return path
    raise UsageError(
        f"There is no feature network {quoted(str(name_or_path))}, in the zoo or as a file.",
        f"Those in the zoo: {', '.join(sorted(entries)) or 'none'}.",
    )


def fingerprint(network: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a network's weights: equal for copies, whatever file they came in."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _entries() -> dict[str, zoo.Entry]:
    return {name: entry for name, entry in zoo.index().items() if entry.kind == "features"}
