"""Cut this excerpt from the published files: python tests/data/fashion-excerpt/make.py FASHION_MNIST_FOLDER."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np

COUNTS = {"train": 30, "t10k": 10}  # of each class, the first in the published order


def main() -> None:
    source, target = Path(sys.argv[1]), Path(__file__).parent
    for split, count in COUNTS.items():
        images = gzip.decompress((source / f"{split}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((source / f"{split}-labels-idx1-ubyte.gz").read_bytes())
        classes = np.frombuffer(labels, np.uint8, offset=8)
        chosen = np.sort(np.concatenate([np.flatnonzero(classes == c)[:count] for c in range(10)]))
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)[chosen]
        write(target / f"{split}-images-idx3-ubyte.gz", pixels)
        write(target / f"{split}-labels-idx1-ubyte.gz", classes[chosen])


def write(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
