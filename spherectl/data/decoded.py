"""Sets whose images are decoded from files on access: folders, lists and shards.

Letters: n images, B batch, S image size.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spherectl.data.decode import ImageError, cannot_read, decode_image, load_image
from spherectl.data.image_set import FITS, ImageSet, Read
from spherectl.data.listings import Listing
from spherectl.data.shards import ShardIndex
from spherectl.data.tars import read_member
from spherectl.data.transforms import to_grey
from spherectl.data.unreadable import tolerated
from spherectl.errors import FileError, UsageError
from spherectl.fetch import file_hash
from spherectl.files import open_regular

# Files whose sizes an identity looks at: a second's work on a local disk, of larger sets as many spread over all.
MAX_SIZED = 200_000
# Files whose beginnings it reads, and how many bytes: so many that a set of other images is told from it, so few that a
# disk of a network has them in seconds.
MAX_SAMPLED, MAX_BEGINNING = 256, 1 << 16


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
            return FITS[self.fit](decoded, self.image_size)
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


def _spread(n: int, max_count: int) -> range:
    """At most so many of n numbers, evenly spread."""
    return range(0, n, -(-n // max_count))


def _beginning(file: Path, start: int = 0, max_bytes: int = MAX_BEGINNING) -> bytes:
    """The first bytes of a file from a place on; none where it cannot be read, which is told when it is needed."""
    try:
        with open_regular(file) as opened:
            opened.seek(start)
            return opened.read(max_bytes)
    except OSError:
        return b""


def _size(file: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return -1
