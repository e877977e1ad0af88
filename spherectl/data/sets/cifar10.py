"""CIFAR-10 in its binary version (the Python version is pickled): 32 px photographs, which are held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.data.sets import DatasetRecord, Download, Say, read_class_names
from spherectl.errors import FileError
from spherectl.files import is_there, read_bytes

if TYPE_CHECKING:
    from spherectl.data.image_set import Pixels
    from spherectl.data.names import Split

URL, MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"

MAX_ROWS = 20_000  # of a file; the published ones have 10,000

_FOLDER = "cifar-10-batches-bin"
_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_ROW = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes


def find(root: Path) -> Path | None:
    """The folder at or below `root` with the binary version's files."""
    for folder in (root, root / _FOLDER):
        if any(is_there(folder / name) for name in ("test_batch.bin", "data_batch_1.bin")):
            return folder
    return None


def read(folder: Path, split: Split, _say: Say | None = None) -> Pixels:
    """Images uint8 (n, 3, 32, 32) and labels int64 (n,).

    Raises:
        FileError: a file is missing, is not a whole number of rows, or holds a label above 9.
    """
    import numpy as np
    import torch

    from spherectl.data.image_set import Pixels, check_labels

    parts = []
    for path in (folder / name for name in _FILES[split]):
        try:
            content = np.frombuffer(read_bytes(path, MAX_ROWS * _ROW), np.uint8)
        except OSError as error:
            raise FileError(
                f"Cannot read {path}: {error.strerror or error}.", "Fetch CIFAR-10's binary version."
            ) from None
        if len(content) == 0 or len(content) % _ROW:
            raise FileError(
                f"{path} is damaged: expected rows of {_ROW} bytes, got {len(content)} bytes in all.",
                "Remove the folder and fetch the set again.",
            )
        parts.append(content.reshape(-1, _ROW))
        check_labels(parts[-1][:, 0], len(RECORD.class_names), path)
    table = torch.from_numpy(np.concatenate(parts))  # (n, 3073)
    return Pixels(table[:, 1:].reshape(-1, 3, 32, 32).contiguous(), table[:, 0].long())


def _fetch(into: Path) -> None:
    from torchvision.datasets.utils import extract_archive

    from spherectl.data.download import bring

    bring(URL, MD5, into)
    extract_archive(str(into / URL.rpartition("/")[2]), remove_finished=True)


RECORD = DatasetRecord(
    name="cifar10",
    place="the set's own files",
    licence="unknown (none stated by its authors)",
    class_names=read_class_names("cifar10"),
    called=r"cifar[-_ ]?10(?!0)",
    train_images=50_000,
    image_px="32",
    find=find,
    expected="data_batch_1.bin ... data_batch_5.bin and test_batch.bin (binary version: nothing is unpickled)",
    read=read,
    download=Download(
        title="CIFAR-10 (binary version)",
        folder=_FOLDER,
        site="www.cs.toronto.edu/~kriz/cifar.html",
        megabytes=170,
        fetch=_fetch,
    ),
)
