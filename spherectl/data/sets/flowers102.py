"""Oxford Flowers-102: photographs of flowers, their labels in MATLAB's tables, which scipy reads."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spherectl.data.sets import DatasetRecord, Download, Say, read_class_names
from spherectl.errors import FileError, SpherectlError
from spherectl.files import is_folder, is_there, read_bytes

if TYPE_CHECKING:
    from spherectl.data.listings import Listing
    from spherectl.data.names import Split

# Of a table, packed or not; the published ones have 502 and 14,989 bytes, 65,512 if they are unpacked.
MAX_BYTES = 1 << 20

_IMAGES = 8189
_BEGINNING = 128
_PACKED = 15
_NUMBERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "single", "double")


def find(root: Path) -> Path | None:
    """The folder at or below `root` with the images (jpg/) and labels (imagelabels.mat)."""
    for folder in (root, root / "flowers-102"):
        if is_folder(folder / "jpg") and is_there(folder / "imagelabels.mat"):
            return folder
    return None


def read(folder: Path, split: Split, _say: Say | None = None) -> Listing:
    """The images of one split.

    "train" is every image, as the paper trains on and measures against all of them (section 7); "test" is the set's
    own test split.

    Raises:
        SpherectlError: scipy, which reads the label files, is not installed.
        FileError: a label file is missing or damaged.
    """
    import numpy as np
    import torch

    from spherectl.data.listings import Listing
    from spherectl.data.names import pack_names

    labels = _read_table(folder / "imagelabels.mat", "labels", 102)
    if len(labels) != _IMAGES:
        raise FileError(f"{folder / 'imagelabels.mat'}: expected {_IMAGES} labels, got {len(labels)}.")
    numbers = np.arange(1, len(labels) + 1)
    if split == "test":
        numbers = np.unique(_read_table(folder / "setid.mat", "tstid", _IMAGES))
    names = pack_names([f"jpg/image_{i:05d}.jpg" for i in numbers])
    return Listing(folder, names, torch.from_numpy(labels[numbers - 1] - 1), RECORD.class_names)


def _read_table(path: Path, key: str, max_number: int) -> Any:
    """A table of numbers from 1 to `max_number` in one of MATLAB's files: int64 (n,)."""
    import numpy as np

    try:
        from scipy.io import loadmat, whosmat
    except ImportError:
        raise SpherectlError(
            f"The labels of Flowers-102 ({path}) need scipy to be read.", "pip install scipy"
        ) from None
    try:
        file = io.BytesIO(_checked(read_bytes(path, MAX_BYTES)))
        # Of other kinds scipy makes as many empty places as the header says, however few are filled.
        kinds = {name: kind for name, shape, kind in whosmat(file) if math.prod(shape) <= MAX_BYTES}
        file.seek(0)
        wanted = [key] if kinds.get(key) in _NUMBERS else ["none of it"]
        found = np.asarray(loadmat(file, variable_names=wanted)[key]).ravel()
    # scipy raises what its parser trips over; each means that the file is not what was published.
    except Exception as error:  # noqa: BLE001
        reason = getattr(error, "strerror", None) or f"no readable table {key!r}"
        raise FileError(f"Cannot read {path}: {reason}.", "Remove the file and fetch it again.") from None
    if found.dtype.kind not in "iuf" or not len(found) or not ((found >= 1) & (found <= max_number)).all():
        raise FileError(
            f"{path}: expected {key}, numbers from 1 to {max_number}.", "Remove the file and fetch it again."
        )
    return found.astype(np.int64)


def _checked(content: bytes) -> bytes:
    """A file of MATLAB 5 to 7, as published, if none of its tables unpacks to more than `MAX_BYTES`."""
    if content[_BEGINNING - 4 : _BEGINNING] != b"\0\1IM":
        raise ValueError("another kind of file")
    at = _BEGINNING
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind == _PACKED:
            unpacking = zlib.decompressobj()
            unpacking.decompress(content[at + 8 : at + 8 + size], MAX_BYTES)
            if unpacking.unconsumed_tail:
                raise ValueError("a table larger than any of the set")
        at += 8 + size
    return content


def _fetch(into: Path) -> None:
    from torchvision.datasets import Flowers102

    from spherectl.data.download import bring

    for name, md5 in Flowers102._file_dict.values():  # noqa: SLF001 - torchvision has no public name for it
        bring(f"{Flowers102._download_url_prefix}{name}", md5, into / "flowers-102")  # noqa: SLF001
    # Having found the files it reads the labels, for which it needs scipy; our own reader says so if that is missing.
    with contextlib.suppress(ModuleNotFoundError):
        Flowers102(into, download=True)
    (into / "flowers-102" / "102flowers.tgz").unlink(missing_ok=True)


RECORD = DatasetRecord(
    name="flowers102",
    place="the set's own files",
    licence="unknown (none stated by its authors)",
    class_names=read_class_names("flowers102"),
    called=r"flower",
    train_images=_IMAGES,
    find=find,
    expected="jpg/, imagelabels.mat and setid.mat",
    read=read,
    download=Download(
        title="Flowers-102",
        folder="flowers-102",
        site="www.robots.ox.ac.uk/~vgg/data/flowers/102",
        megabytes=345,
        fetch=_fetch,
    ),
)
