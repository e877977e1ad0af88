"""Training images from shards on a server: fetched when they are wanted, or a little before.

The order of training keeps to shards (`spherectl.data.order`), so that few are needed at a time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from spherectl.data.decode import cannot_read, decode_image
from spherectl.data.decoded import DecodedImages
from spherectl.data.remote import KEPT, RemoteIndex, fetch_shard
from spherectl.data.tars import MissingShardError, Shard, read_member, read_shard
from spherectl.errors import FileError, SpherectlError

T = TypeVar("T")

# Tries to read a shard before others, who make room for theirs, are taken for too many.
ATTEMPTS = 10


@dataclass(eq=False, repr=False, kw_only=True)
class RemoteImages(DecodedImages):
    """Images in shards on a server, fetched when they are wanted.

    Attributes:
        url: what it was opened by.
        index: the shards.
    """

    url: str
    index: RemoteIndex
    _open: OrderedDict[int, Shard] = field(default_factory=OrderedDict, init=False)

    def __post_init__(self) -> None:
        self._ends = np.cumsum(self.index.counts)  # of each shard in the numbers of images

    @property
    def origin(self) -> str:
        """What `data.root` has to be for the set to be opened again from any folder."""
        return self.url

    @property
    def shard_counts(self) -> tuple[int, ...]:
        """Images in each shard: the order keeps to shards."""
        return self.index.counts

    def shards_of(self, numbers: Tensor) -> list[int]:
        """The shards that hold some images, sorted."""
        found: list[int] = np.unique(np.searchsorted(self._ends, numbers.numpy(), side="right")).tolist()
        return found

    def where(self, index: int) -> str:
        """The file of image `index`, as errors call it: address/member."""
        shard, inside = self._place(index)
        name = os.fsdecode(bytes(self._shard(shard).names[inside]))
        return f"{self.index.urls[shard]}/{name}"

    def label(self, index: int) -> int:
        """The class of image `index`; 0 where the set has no classes."""
        if not self.class_names:
            return 0
        shard, inside = self._place(index)
        label = int(self._shard(shard).labels[inside])
        if not 0 <= label < len(self.class_names):
            found = "has no label" if label < 0 else f"is of class {label}"
            raise FileError(f"{self.where(index)} {found}; the class file has {len(self.class_names)} names.")
        return label

    def load(self, index: int) -> Image.Image:
        """Image `index`, decoded; ImageError where it cannot be."""
        number, inside = self._place(index)
        shard = self._shard(number)
        offset, size = int(shard.offsets[inside]), int(shard.sizes[inside])
        try:
            content = self._read(number, lambda path: read_member(path, offset, size))
        except SpherectlError:
            raise
        except OSError as error:
            raise cannot_read(self.where(index), error.strerror or str(error)) from None
        return decode_image(content, self.where(index))

    def _listing(self) -> Iterator[bytes]:
        names = [url.rpartition("/")[2] for url in self.index.urls]
        yield repr((names, self.index.counts, self.index.sizes, self.index.md5s)).encode()

    def _place(self, index: int) -> tuple[int, int]:
        """Shard of image `index`, and its number in it."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard] - self.index.counts[shard])

    def _shard(self, number: int) -> Shard:
        """The images of a shard, fetched if need be; the last few shards stay in memory."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        fetch_shard(self.index, number)
        shard = self._read(number, read_shard)
        if len(shard.names) != self.index.counts[number]:
            raise FileError(
                f"{self.index.urls[number]} holds {len(shard.names)} images; the index says "
                f"{self.index.counts[number]}."
            )
        self._open[number] = shard
        if len(self._open) > KEPT:
            self._open.popitem(last=False)
        return shard

    def _read(self, number: int, read: Callable[[Path], T]) -> T:
        """What `read` finds in the file of a shard, fetched again where someone has made room since it came."""
        path = self.index.path(number)
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError, MissingShardError):
                return read(path)
            fetch_shard(self.index, number)
        return read(path)

    def _contents(self) -> Iterator[bytes]:
        """The index tells them from others; the shards are not fetched for it."""
        yield self.index.folder.name.encode()


class Ahead:
    """Fetches the shards that will be wanted next, in a thread, while images of others are read.

    Its failures are not told: whoever wants the shard will fetch it again, and meet the same.
    """

    def __init__(self, images: RemoteImages) -> None:
        self._images = images
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._asked: set[int] = set()

    def expect(self, numbers: Tensor) -> None:
        """Fetch the shards of images with these numbers unless that is under way."""
        wanted = self._images.shards_of(numbers)
        for shard in wanted:
            if shard not in self._asked:
                self._thread.submit(fetch_shard, self._images.index, shard, self._stop)
        self._asked = set(wanted)

    def close(self) -> None:
        """Give up what is under way; returns within a piece of a download."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)
