"""Feature networks as files: the one-file format of `spherectl.model.weights`, architecture "feature-network"."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from spherectl import zoo
from spherectl.errors import FileError, UsageError
from spherectl.features.networks import KINDS, build_network
from spherectl.model import weights

ARCHITECTURE = "feature-network"
FORMAT = 1


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
    try:
        network = build_network(header["kind"], header["arguments"])
        network.load_state_dict(weights.read_tensors(path))
    except (RuntimeError, TypeError, ValueError):
        raise FileError(f"{path} does not hold the tensors its header announces; it is damaged.") from None
    return network.requires_grad_(False).eval()


def read_feature_header(path: Path) -> dict[str, Any]:
    """The header of a feature network's file.

    Raises:
        UsageError: the file holds something else, or a kind of network this version does not know.
        FileError: the file is damaged.
    """
    header = weights.read_header(path)
    found = header.get("architecture")
    if found != ARCHITECTURE:
        raise UsageError(
            f"{path} holds a model of the architecture {found!r}; a {ARCHITECTURE} is needed here.",
            f"Those in the zoo: {', '.join(sorted(_entries())) or 'none'}.",
        )
    missing = {"format", "kind", "arguments", "image_size"} - header.keys()
    if missing:
        raise FileError(f"The header of {path} lacks {', '.join(sorted(missing))}, so its network is unknown.")
    if header["format"] != FORMAT or header["kind"] not in KINDS:
        raise UsageError(
            f"{path} is a {ARCHITECTURE} of format {header['format']!r}, kind {header['kind']!r}; this version reads "
            f"format {FORMAT}, kinds {', '.join(KINDS)}.",
            "A newer spherectl may read it.",
        )
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
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    raise UsageError(
        f"There is no feature network {str(name_or_path)!r}, in the zoo or as a file.",
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
