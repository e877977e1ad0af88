"""Files of latents: points on the sphere with the names of their images, written and read piece by piece.

    latents   (n, N, d) float32     labels   (n,) int64, where the model has classes

The header says which model made them, by name and hash; only that one can decode them.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import FailFast, Field
from torch import Tensor

from spherectl.api import Model
from spherectl.editing.rounds import decode
from spherectl.errors import FileError, UsageError
from spherectl.files import replacing
from spherectl.model.formats.header import HEADER_KEY, Header, header_of
from spherectl.recipe import MAX_CLASSES
from spherectl.safetensors_header import TensorInfo, contents, opened
from spherectl.shown import quoted

ARCHITECTURE = "latents"
FORMAT = 1
LATENTS, LABELS = "latents", "labels"
AGAIN = "Encode the images again."

MAX_FILES = 1_000_000  # images in one file of latents
MAX_HEADER = 128 << 20  # bytes; their names are in it
MAX_PATH = 4_096  # characters of a name, as long as a path may be on Linux

File = Annotated[str, Field(max_length=MAX_PATH)]


class LatentsHeader(Header):
    """The header of a file of latents."""

    model: Annotated[str, Field(max_length=1_000)]
    model_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?\z")]
    weights: Literal["ema", "raw"]
    files: Annotated[list[File], Field(min_length=1, max_length=MAX_FILES), FailFast()]


def write_latents(
    path: Path, model: Model, files: list[str], labels: Tensor | None, batches: Iterable[tuple[list[int], Tensor]]
) -> None:
    """Write latents as they come, whole or not at all; memory holds one batch.

    Args:
        path: of the file.
        model: that encoded them.
        files: names of the n images, of characters that UTF-8 has.
        labels: (n,) classes that they were encoded under; None for an unconditional model.
        batches: numbers of B images, and (B, N, d) float32; images that are in none are left out.

    Raises:
        UsageError: more images than a file has room for; before anything is encoded.
        FileError: the place cannot be written.
    """
    head = _head(model, files, has_labels=labels is not None)
    head += b" " * (-len(head) % 8)
    if len(files) > MAX_FILES or len(head) > MAX_HEADER:
        raise UsageError(
            f"One file holds the latents of at most {MAX_FILES:,} images; got {len(files):,}.",
            "Encode them in several parts.",
        )
    kept: list[int] = []
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for numbers, latents in batches:
            assert latents.shape == (len(numbers), *model.network.latent_shape)
            file.write(latents.float().cpu().contiguous().numpy().tobytes())
            kept += numbers
        if labels is not None:
            file.write(labels[kept].long().cpu().numpy().tobytes())
        if len(kept) < len(files):  # a header of fewer is no longer: spaces fill its place
            file.seek(struct.calcsize("<Q"))
            head = _head(model, [files[number] for number in kept], has_labels=labels is not None).ljust(len(head))
            file.write(head)


def _head(model: Model, files: list[str], *, has_labels: bool) -> bytes:
    """The beginning of a file of latents, in the format of safetensors."""
    tokens, channels = model.network.latent_shape
    about = {"format": FORMAT, "architecture": ARCHITECTURE, "model": model.name, "model_sha256": model.sha256}
    about |= {"weights": model.weights, "dtype": model.precision, "files": files}
    end = 4 * len(files) * tokens * channels
    table: dict[str, Any] = {"__metadata__": {HEADER_KEY: json.dumps(about, ensure_ascii=False)}}
    table[LATENTS] = {"dtype": "F32", "shape": [len(files), tokens, channels], "data_offsets": [0, end]}
    if has_labels:
        table[LABELS] = {"dtype": "I64", "shape": [len(files)], "data_offsets": [end, end + 8 * len(files)]}
    return json.dumps(table, ensure_ascii=False).encode()


@dataclass(frozen=True)
class Latents:
    """An open file of latents.

    Attributes:
        header: of the file.
        labels: (n,) classes, or None.
        shape: (N, d) of one latent.
    """

    header: dict[str, Any]
    labels: Tensor | None
    shape: tuple[int, int]
    _file: BufferedReader
    _place: int
    _path: Path

    def __len__(self) -> int:
        """How many there are."""
        return len(self.header["files"])

    def read(self, start: int, stop: int) -> Tensor:
        """Latents `start` to `stop`: (stop - start, N, d) float32.

        Raises:
            FileError: they are not finite numbers, or the file was cut short meanwhile.
        """
        size = 4 * math.prod(self.shape)
        found = _numbers(self._file, self._path, self._place + start * size, (stop - start) * size, torch.float32)
        if not found.isfinite().all():
            raise FileError(f"{self._path} is damaged: latents {start} to {stop - 1} are not all finite.", AGAIN)
        return found.reshape(stop - start, *self.shape)

    def check_model(self, model: Model, path: Path) -> None:
        """Refuse another model than the one that encoded them.

        Raises:
            UsageError: it is another model.
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
    with opened(path) as file:
        found = contents(file, path, max_bytes=MAX_HEADER)
        header = header_of(found, path, Header).table
        if header["architecture"] != ARCHITECTURE or header["format"] != FORMAT:
            raise FileError(
                f"{path} holds no latents of this version, but {quoted(header['architecture'])}.",
                "`spherectl encode` makes files of latents.",
            )
        header_of(found, path, LatentsHeader)
        count = len(header["files"])
        match found.tensors.get(LATENTS):
            case TensorInfo("F32", (length, tokens, channels), place, _) if length == count:
                pass
            case _:
                raise FileError(f"{path} is damaged: its latents are not those of its files.", AGAIN)
        labels = None
        match found.tensors.get(LABELS):
            case None:
                pass
            case TensorInfo("I64", (length,), start, stop) if length == count:
                labels = _numbers(file, path, start, stop - start, torch.int64)
                if not ((labels >= 0) & (labels <= MAX_CLASSES)).all():
                    raise FileError(f"{path} is damaged: its labels are no classes.", AGAIN)
            case _:
                raise FileError(f"{path} is damaged: its labels are not those of its files.", AGAIN)
        yield Latents(header, labels, (tokens, channels), file, place, path)


def _numbers(file: BufferedReader, path: Path, place: int, size: int, dtype: torch.dtype) -> Tensor:
    """So many bytes of an open file as numbers: read, not mapped, since a file that shrinks would end the process."""
    file.seek(place)
    content = bytearray(file.read(size))
    if len(content) != size:
        raise FileError(f"{path} was cut short while it was read.", AGAIN)
    return torch.frombuffer(content, dtype=dtype) if size else torch.empty(0, dtype=dtype)


def decoded(latents: Latents, model: Model, labels: Tensor | None, *, steps: int, batch: int) -> Iterator[Tensor]:
    """Images of latents, (B, 3, H, W) float32 in [0, 1], batch by batch.

    Args:
        latents: open.
        model: that encoded them.
        labels: (n,) classes to decode under; None: the null class.
        steps: 1 decodes; each further one is a round of encoding and decoding without noise.
        batch: images at once.
    """
    for start in range(0, len(latents), batch):
        stop = min(start + batch, len(latents))
        chosen = None if labels is None else labels[start:stop]
        yield decode(model, latents.read(start, stop), chosen, steps=steps)
