"""One tar in WebDataset's layout: which pictures lie in it, where in the file, of which class.

A shard is an uncompressed tar. Its members KEY.jpg (or .jpeg, .png, .webp) are the pictures; KEY.cls, a number as text,
or KEY.json, an object with "label" (or "class_id"), is a picture's class. Everything else is ignored. An index of
byte offsets, made once by reading the headers, gives random access: one seek a picture.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from spherectl.data.folders import pack_names
from spherectl.errors import FileError, UsageError

SUFFIXES = ("jpg", "jpeg", "png", "webp")
UNLABELLED = -1

_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE)
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstandard
# WebDataset's rule: the key is the name up to the first dot after the last slash; what follows says what it is.
_MEMBER = re.compile(r"^(?P<key>(?:.*/)?[^./][^./]*)\.(?P<suffix>[^/]+)$")
_LABEL_BYTES = 1 << 20  # a longer label file is none
_MOST_CLASSES = 1_000_000


class Shard(NamedTuple):
    """The pictures of one tar, in the order of their headers.

    Attributes:
        names: (n,) members' names as bytes.
        offsets: (n,) int64 first byte in the tar.
        sizes: (n,) int64 bytes.
        labels: (n,) int64; -1 where there is none.
    """

    names: npt.NDArray[np.bytes_]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


class MissingShardError(FileError):
    """A shard that is not there."""


def read_shard(path: Path) -> Shard:
    """The pictures of one tar; only headers and labels are read.

    Raises:
        MissingShardError: it is not there.
        FileError: it cannot be read, is compressed or no tar, is cut off, or a key has two pictures or a label that is
            no number.
    """
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            _refuse_compressed(path, file.read(6))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member, key, suffix in _members(tar):
                    if suffix in SUFFIXES:
                        if (other := pictures.setdefault(key, member)) is not member:
                            raise FileError(
                                f"{path} has two pictures of one key: {other.name} and {member.name}; expected one."
                            )
                    elif suffix == "cls" or (suffix == "json" and key not in labels):
                        label = _label(tar, member, suffix, path)
                        if label is not None:
                            labels[key] = label
                _refuse_rest(file, tar.offset, path)
    except tarfile.TarError as error:
        raise FileError(f"{path} is not a whole tar file: {error}.", "Remove it and fetch or make it again.") from None
    except OSError as error:
        kind = MissingShardError if isinstance(error, FileNotFoundError) else FileError
        raise kind(f"Cannot read the shard {path}: {error.strerror or error}.") from None
    return Shard(
        pack_names([member.name for member in pictures.values()]),
        np.array([member.offset_data for member in pictures.values()], np.int64),
        np.array([member.size for member in pictures.values()], np.int64),
        np.array([labels.get(key, UNLABELLED) for key in pictures], np.int64),
    )


def read_member(path: Path, offset: int, size: int) -> bytes:
    """The content of one member, by its place in the tar; OSError where the file cannot be read."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def is_compressed(name: str) -> bool:
    """Whether a name is that of a compressed tar."""
    return bool(_COMPRESSED.search(name))


def compressed(name: str) -> UsageError:
    """The sentence for a compressed tar."""
    return UsageError(
        f"{name} is compressed, so that pictures in it cannot be read one by one; expected a plain .tar.",
        "Unpack it once (gunzip keeps the tar); the pictures in it are compressed already.",
    )


def _refuse_compressed(path: Path, beginning: bytes) -> None:
    if beginning.startswith(_MAGIC):
        raise compressed(str(path))


def _refuse_rest(file: BinaryIO, end: int, path: Path) -> None:
    """tarfile takes a damaged header for the end: at the real one there is nothing, or a block of zeros."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
        raise FileError(
            f"{path} is damaged: byte {end:,} begins neither a member nor the end.",
            "Remove it and fetch or make it again.",
        )


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """The regular files of a tar with key and suffix, one at a time."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
        match = _MEMBER.match(member.name)
        if match and member.isreg() and not member.issparse():
            yield member, match["key"], match["suffix"].lower()


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, path: Path) -> int | None:
    """The class number in a .cls or .json member; None where a .json has none."""
    file = tar.extractfile(member) if member.size <= _LABEL_BYTES else None
    text = file.read() if file is not None else b""
    label: object
    try:
        if suffix == "cls":
            label = int(text)
        else:
            entry = json.loads(text)
            if not isinstance(entry, dict) or not {"label", "class_id"} & entry.keys():
                return None
            label = entry.get("label", entry.get("class_id"))
    except ValueError:
        label = text[:40].decode(errors="replace").strip()
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < _MOST_CLASSES:
        raise FileError(f"{path}: {member.name} has the label {label!r}; expected a number from 0.")
    return label
