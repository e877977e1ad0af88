"""Files of latents: points on the sphere with the names of their pictures, written and read piece by piece.

    latents   (n, N, d) float32     labels   (n,) int64, where the model has classes

The header says which model made them, by name and hash; only that one can decode them.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from spherectl.api import Model
from spherectl.editing.rounds import decode
from spherectl.errors import FileError, UsageError
from spherectl.files import replacing
from spherectl.model.weights import HEADER_KEY, read_header

ARCHITECTURE = "latents"
FORMAT = 1
LATENTS, LABELS = "latents", "labels"


def write_latents(path: Path, model: Model, files: list[str], labels: Tensor | None, batches: Iterable[Tensor]) -> None:
    """Write latents as they come, whole or not at all; memory holds one batch.

    Args:
        path: of the file.
        model: that encoded them.
        files: names of the n pictures.
        labels: (n,) classes that they were encoded under; None for an unconditional model.
        batches: (B, N, d) float32, n in all.

    Raises:
        FileError: the place cannot be written.
    """
    tokens, channels = model.network.latent_shape
    about = {"format": FORMAT, "architecture": ARCHITECTURE, "model": model.name, "model_sha256": model.sha256}
    about |= {"weights": model.weights, "dtype": model.precision, "files": files}
    end = 4 * len(files) * tokens * channels
    table: dict[str, Any] = {"__metadata__": {HEADER_KEY: json.dumps(about, ensure_ascii=False)}}
    table[LATENTS] = {"dtype": "F32", "shape": [len(files), tokens, channels], "data_offsets": [0, end]}
    if labels is not None:
        table[LABELS] = {"dtype": "I64", "shape": [len(files)], "data_offsets": [end, end + 8 * len(files)]}
    text = json.dumps(table, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        written = sum(file.write(batch.float().cpu().contiguous().numpy().tobytes()) for batch in batches)
        assert written == end, f"{written} bytes of latents for {len(files)} pictures"
        if labels is not None:
            file.write(labels.long().cpu().numpy().tobytes())


@dataclass(frozen=True)
class Latents:
    """An open file of latents.

    Attributes:
        header: what it says of itself.
        labels: (n,) classes, or None.
    """

    header: dict[str, Any]
    labels: Tensor | None
    _slices: Any

    def __len__(self) -> int:
        """How many there are."""
        return len(self.header["files"])

    def read(self, start: int, stop: int) -> Tensor:
        """Latents `start` to `stop`: (stop - start, N, d) float32."""
        latents: Tensor = self._slices[start:stop]
        return latents

    def check_model(self, model: Model, path: Path) -> None:
        """Refuse another model than the one that encoded them.

        Raises:
            UsageError: it is another one.
        """
        made = self.header["model_sha256"]
        if made != model.sha256 or self.header["weights"] != model.weights:
            raise UsageError(
                f"{path} holds latents of {self.header['model']} ({self.header['weights']} weights, {made[:12]}), "
                f"which mean nothing to {model.name} ({model.weights} weights, {model.sha256[:12]}).",
                "Name the model that encoded them with --model.",
            )


@contextlib.contextmanager
def open_latents(path: Path) -> Iterator[Latents]:
    """Open a file of latents; they are read when they are asked for.

    Raises:
        FileError: no file, a damaged one, or one of another kind.
    """
    header = read_header(path)
    if header.get("architecture") != ARCHITECTURE or header.get("format") != FORMAT:
        raise FileError(
            f"{path} holds no latents of this version, but {header.get('architecture', 'something else')!r}.",
            "`spherectl encode` makes files of latents.",
        )
    with safetensors.safe_open(path, "pt") as file:
        names = set(file.keys())
        shape = file.get_slice(LATENTS).get_shape() if LATENTS in names else []
        if len(shape) != 3 or shape[0] != len(header.get("files", ())):
            raise FileError(f"{path} is damaged: its latents are not those of its files.", "Encode the pictures again.")
        labels = file.get_tensor(LABELS) if LABELS in names else None
        yield Latents(header, labels, file.get_slice(LATENTS))


def decoded(latents: Latents, model: Model, labels: Tensor | None, *, steps: int, batch: int) -> Iterator[Tensor]:
    """Pictures of latents, (B, 3, H, W) float32 in [0, 1], batch by batch.

    Args:
        latents: open.
        model: that encoded them.
        labels: (n,) classes to decode under; None: the null class.
        steps: 1 decodes; each further one is a round of encoding and decoding without noise.
        batch: pictures at once.
    """
    for start in range(0, len(latents), batch):
        stop = min(start + batch, len(latents))
        chosen = None if labels is None else labels[start:stop]
        yield decode(model, latents.read(start, stop), chosen, steps=steps)
