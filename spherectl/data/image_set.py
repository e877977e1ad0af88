"""What a data set is to the rest of the program: images of one size with labels, by number.

Letters: n images, B batch, S image size.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from spherectl.data.decode import ImageError, cannot_read, decode_image, load_image
from spherectl.data.folders import Listing
from spherectl.data.shards import ShardIndex
from spherectl.data.tars import read_member
from spherectl.data.transforms import adm_crop, as_image, fit_crop, fit_pad, pad_or_adm, pad_to, to_grey
from spherectl.data.unreadable import tolerated
from spherectl.errors import FileError, UsageError
from spherectl.fetch import file_hash
from spherectl.files import open_regular

# How a decoded image becomes uint8 (3, S, S). "adm" is the evaluation's crop, also of what is too large to be padded.
Fit = Literal["crop", "pad", "adm", "pad or adm"]
_FITS = {"crop": fit_crop, "pad": fit_pad, "adm": adm_crop, "pad or adm": pad_or_adm}

# Files whose sizes an identity looks at: a second's work on a local disk, of larger sets as many spread over all.
MAX_SIZED = 200_000
# Files whose beginnings it reads, and how many bytes: so many that a set of other images is told from it, so few that a
# disk of a network has them in seconds.
MAX_SAMPLED, MAX_BEGINNING = 256, 1 << 16


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
        return torch.stack([_FITS[self.fit](as_image(decoded), self.image_size) for decoded in pixels])


@dataclass(eq=False, repr=False, kw_only=True)
class DecodedImages(ImageSet):
    """Images decoded from files on access; nothing is kept."""

    in_memory: ClassVar[bool] = False

    @abstractmethod
    def where(self, index: int) -> str:
        """The file of image `index`, as errors call it."""

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Image `index`, decoded; ImageError where it cannot be."""

    def label(self, index: int) -> int:
        """The class of image `index`."""
        return int(self.labels[index])

    def read(self, indices: Tensor | Sequence[int]) -> Read:
        """As `ImageSet.read`."""
        found = [self._next_readable(int(index)) for index in indices]
        images = torch.stack([image for _, image in found])  # (B, 3, S, S)
        return Read(
            to_grey(images) if self.grey else images,
            torch.tensor([self.label(shown) for shown, _ in found]),
            tuple(self.where(int(index)) for index, (shown, _) in zip(indices, found, strict=True) if index != shown),
        )

    def _next_readable(self, index: int) -> tuple[int, Tensor]:
        """The number and the pixels, uint8 (3, S, S), of the first image from `index` on that can be read."""
        n = len(self)
        for shown in ((index + step) % n for step in range(tolerated(n))):
            try:
                return shown, self._fitted(shown)
            except ImageError:
                continue
        last = (index + tolerated(n)) % n
        return last, self._fitted(last)

    def _gather(self, indices: Tensor) -> Tensor:
        return torch.stack([self._fitted(int(index)) for index in indices])

    def _fitted(self, index: int) -> Tensor:
        decoded = self.load(index)
        try:
            return _FITS[self.fit](decoded, self.image_size)
        except UsageError as error:
            raise UsageError(f"{self.where(index)}: {error.message}", error.hint) from None


@dataclass(eq=False, repr=False, kw_only=True)
class FolderImages(DecodedImages):
    """Images in the files of `listing`."""

    listing: Listing

    def where(self, index: int) -> str:
        """The file of image `index`, as errors call it."""
        return str(self.listing.path(index))

    def load(self, index: int) -> Image.Image:
        """Image `index`, decoded; ImageError where it cannot be."""
        return load_image(self.listing.path(index))

    def _listing(self) -> Iterator[bytes]:
        yield self.listing.names.tobytes()
        sizes = (_size(self.listing.path(index)) for index in _spread(len(self), MAX_SIZED))
        yield np.fromiter(sizes, np.int64).tobytes()
        for index in _spread(len(self), MAX_SAMPLED):
            yield _beginning(self.listing.path(index))

    def _contents(self) -> Iterator[bytes]:
        for index in range(len(self)):
            try:
                yield bytes.fromhex(file_hash(self.listing.path(index)))
            except OSError as error:
                raise FileError(f"Cannot read {self.listing.path(index)}: {error.strerror or error}.") from None


@dataclass(eq=False, repr=False, kw_only=True)
class ShardImages(DecodedImages):
    """Images in the tars of `index`."""

    index: ShardIndex

    def where(self, index: int) -> str:
        """The file of image `index`, as errors call it: tar/member."""
        name = os.fsdecode(bytes(self.index.images.names[index]))
        return f"{self.index.paths[self.index.shard[index]]}/{name}"

    def load(self, index: int) -> Image.Image:
        """Image `index`, decoded; ImageError where it cannot be."""
        return decode_image(self._content(index), self.where(index))

    def _listing(self) -> Iterator[bytes]:
        yield "\n".join(path.name for path in self.index.paths).encode(errors="surrogateescape")
        yield self.index.shard.tobytes()
        images = self.index.images
        for part in (images.names, images.offsets, images.sizes):
            yield part.tobytes()
        for index in _spread(len(self), MAX_SAMPLED):
            path, size = self.index.paths[self.index.shard[index]], int(images.sizes[index])
            yield _beginning(path, int(images.offsets[index]), min(size, MAX_BEGINNING))

    def _content(self, index: int) -> bytes:
        path, images = self.index.paths[self.index.shard[index]], self.index.images
        try:
            return read_member(path, int(images.offsets[index]), int(images.sizes[index]))
        except OSError as error:
            raise cannot_read(self.where(index), error.strerror or str(error)) from None

    def _contents(self) -> Iterator[bytes]:
        for index in range(len(self)):
            yield hashlib.sha256(self._content(index)).digest()


def _spread(n: int, most: int) -> range:
    """At most so many of n numbers, evenly spread."""
    return range(0, n, -(-n // most))


def _beginning(file: Path, start: int = 0, most: int = MAX_BEGINNING) -> bytes:
    """The first bytes of a file from a place on; none where it cannot be read, which is told when it is needed."""
    try:
        with open_regular(file) as opened:
            opened.seek(start)
            return opened.read(most)
    except OSError:
        return b""


def _size(file: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def check_labels(labels: npt.NDArray[np.uint8], classes: int, path: Path) -> None:
    """Refuse labels of a published set that are no number of a class; the error names the file."""
    if labels.size and labels.max() >= classes:
        raise FileError(f"{path}: expected labels below {classes}, got {labels.max()}.")
