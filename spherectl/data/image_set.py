"""What a data set is to the rest of the program: images of one size with labels, by number.

Letters: n images, B batch, S image size.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spherectl.data.transforms import adm_crop, as_image, fit_crop, fit_pad, pad_or_adm, pad_to, to_grey
from spherectl.errors import FileError

# How a decoded image becomes uint8 (3, S, S). "adm" is the evaluation's crop, also of what is too large to be padded.
Fit = Literal["crop", "pad", "adm", "pad or adm"]
FITS = {"crop": fit_crop, "pad": fit_pad, "adm": adm_crop, "pad or adm": pad_or_adm}


class Pixels(NamedTuple):
    """Images held in memory, as the reader of a published set gives them."""

    pixels: Tensor  # uint8 (n, H, W) grey or (n, 3, H, W)
    labels: Tensor  # (n,) int64


class Read(NamedTuple):
    """Images as training reads them."""

    images: Tensor  # (B, 3, S, S) uint8
    labels: Tensor  # (B,) int64
    unreadable: tuple[str, ...]  # names of those that others stand for


@dataclass(eq=False, repr=False, kw_only=True)
class ImageSet(Dataset[Tensor], ABC):
    """Images of one size with labels, by number.

    Attributes:
        name: what the set is called; for a folder of people's own images the folder's name.
        root: where it is read from: a folder, a list, or a pattern of shards.
        class_names: one a class; empty where there are no classes.
        labels: (n,) int64; zeros where there are no classes, -1 where they are known only once read.
        licence: what its makers say about its use.
        image_size: S.
        fit: how an image is brought to that size.
        grey: whether colours are replaced by their luminance, in three equal channels.
        in_memory: whether gathering needs no decoding.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    labels: Tensor
    licence: str
    image_size: int
    fit: Fit = "crop"
    grey: bool = False
    in_memory: ClassVar[bool]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` as uint8 (3, S, S)."""
        return self.gather([index])[0]

    @property
    def origin(self) -> str:
        """What `data.root` has to be for the set to be opened again from any folder.

        Raises:
            FileError: its name is not UTF-8, so that no recipe can hold it.
        """
        origin = str(self.root.absolute())
        try:
            origin.encode()
        except UnicodeEncodeError:
            raise FileError(
                f"The name of {origin} is not UTF-8, so that no recipe can hold it.",
                "Rename it, or give the path of a link to it: ln -s OLD NEW.",
            ) from None
        return origin

    @property
    def shard_counts(self) -> tuple[int, ...]:
        """Images in each shard, where the order has to keep to shards; else empty."""
        return ()

    def gather(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The images of those numbers, in that order: uint8 (B, 3, S, S).

        Raises:
            IndexError: a number is not below n.
            ImageError: a file cannot be read as an image.
            UsageError: an image is too large for the fit "pad".
        """
        images = self._gather(torch.as_tensor(indices, dtype=torch.int64))  # (B, 3, S, S)
        return to_grey(images) if self.grey else images

    def read(self, indices: Tensor | Sequence[int]) -> Read:
        """The same with labels, for training: for an image that cannot be read stands the next one that can.

        The next of n - 1 is 0. The label is that of the image shown.

        Raises:
            ImageError: more images in a row cannot be read than may be unreadable in the whole set.
            IndexError, UsageError: as `gather`.
        """
        numbers = torch.as_tensor(indices, dtype=torch.int64)
        return Read(self.gather(numbers), self.labels[numbers], ())

    def fingerprint(self) -> str:
        """SHA-256 over what `gather` depends on: contents of the images in their order, size, fit and colours.

        Raises:
            FileError: a file cannot be read.
        """
        fit = self.fit.removesuffix(" or adm")  # what both take becomes the same images
        digest = hashlib.sha256(f"{self.image_size} {fit} {self.grey} {len(self)}\n".encode())
        for content in self._contents():
            digest.update(content)
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """What a resumed training compares: {"images": n, "class_names": [...], "listing": 64 hexadecimal digits}.

        The listing is a SHA-256 of the names relative to the set, the labels, the sizes in bytes and the beginnings of
        `MAX_SAMPLED` files spread over the set (of sets in memory: of the pixels), and does not depend on where the set
        lies. Not noticed: another image of the same name and size that is none of those; of more than `MAX_SIZED`
        files, one whose size was not looked at.
        """
        digest = hashlib.sha256(self.labels.contiguous().numpy().tobytes())
        for part in self._listing():
            digest.update(part)
        return {"images": len(self), "class_names": list(self.class_names), "listing": digest.hexdigest()}

    def _listing(self) -> Iterator[bytes | memoryview]:
        """What tells the set from others at little cost, wherever it lies."""
        return self._contents()

    @abstractmethod
    def _gather(self, indices: Tensor) -> Tensor:
        """As `gather`, in the image's own colours."""

    @abstractmethod
    def _contents(self) -> Iterator[bytes | memoryview]:
        """What tells the images from others, in their order."""


@dataclass(eq=False, repr=False, kw_only=True)
class MemoryImages(ImageSet):
    """Images held as one array `pixels`: uint8 (n, H, W) grey or (n, 3, H, W)."""

    pixels: Tensor
    in_memory: ClassVar[bool] = True

    def _contents(self) -> Iterator[bytes | memoryview]:
        yield f"{tuple(self.pixels.shape)}".encode()
        yield self.pixels.contiguous().numpy().data  # not a copy, which a set in memory may have no room for

    def _gather(self, indices: Tensor) -> Tensor:
        pixels = self.pixels[indices]  # (B, H, W) or (B, 3, H, W)
        if pixels.ndim == 3:
            pixels = pixels[:, None].expand(-1, 3, -1, -1)  # (B, 3, H, W)
        fits = max(pixels.shape[-2:]) <= self.image_size
        if self.fit == "pad" or (self.fit == "pad or adm" and fits):
            return pad_to(pixels, self.image_size).contiguous()
        if pixels.shape[-2:] == (self.image_size, self.image_size):
            return pixels.contiguous()
        return torch.stack([FITS[self.fit](as_image(decoded), self.image_size) for decoded in pixels])


def check_labels(labels: npt.NDArray[np.uint8], classes: int, path: Path) -> None:
    """Refuse labels of a published set that are no number of a class; the error names the file."""
    if labels.size and labels.max() >= classes:
        raise FileError(f"{path}: expected labels below {classes}, got {labels.max()}.")
