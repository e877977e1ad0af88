"""One tar in WebDataset's layout: which images lie in it, where in the file, of which class.

A shard is an uncompressed tar. Its members KEY.jpg (or .png or another suffix of images) are the images; KEY.cls, a
number as text, or KEY.json, an object with "label" (or "class_id"), is an image's class. Hidden members and everything
else are ignored. An index of byte offsets, made once by reading the headers, gives random access: one seek an image.
"""

from __future__ import annotations

import errno
import re
import tarfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from spherectl.classes import MAX_CLASSES
from spherectl.data import decode
from spherectl.data.names import MAX_NAME_BYTES, is_hidden, pack_names
from spherectl.documents import parse_json
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import open_regular
from spherectl.shown import quoted, shortened

SUFFIXES = tuple(suffix[1:] for suffix in decode.SUFFIXES)
UNLABELLED = -1

# ImageNet in one tar has 2.6 million members, with labels.
MAX_MEMBERS = 10_000_000
# Bytes that tarfile reads at once: attributes or a long name, as long as a header says. Real ones are below 64 KiB.
MAX_READ = 1 << 20
MAX_DIGITS = 64  # in a row, in attributes: tarfile's search takes the square of it
# Attributes that a tar gives all its members, each of which gets a copy of them.
MAX_COMMON = 100

_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE)
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstandard
# WebDataset's rule: the key is the name up to the first dot after the last slash; what follows says what it is.
_MEMBER = re.compile(r"^(?P<key>(?:.*/)?[^./][^./]*)\.(?P<suffix>[^/]+)$")
_LENGTH = re.compile(rb"(\d{1,7}) ")
_DIGITS = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))
_LABEL_BYTES = 1 << 20  # a longer label file is none


class Shard(NamedTuple):
    """The images of one tar, in the order of their headers.

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
    """The images of one tar; only headers and labels are read.

    Raises:
        MissingShardError: it is not there.
        FileError: it cannot be read, is compressed or no tar, is cut off, or a key has two images or a label that is
            no number.
    """
    images: dict[str, tuple[str, int, int]] = {}  # name, offset and size by key
    labels: dict[str, int] = {}
    try:
        with open_regular(path) as file:
            _refuse_compressed(path, file.read(6))
            file.seek(0)
            with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(file)), mode="r:", tarinfo=_Member) as tar:
                for member, key, suffix in _members(tar):
                    if suffix in SUFFIXES:
                        _add(images, key, member, path)
                    elif suffix == "cls" or (suffix == "json" and key not in labels):
                        label = _label(tar, member, suffix, path)
                        if label is not None:
                            labels[key] = label
                _refuse_rest(file, tar.offset, path)
    except SpherectlError:
        raise
    except OSError as error:
        kind = MissingShardError if isinstance(error, FileNotFoundError) else FileError
        raise kind(f"Cannot read the shard {path}: {error.strerror or error}.") from None
    # Over forged headers tarfile raises more than its own errors: ValueError, OverflowError, RecursionError, ...
    except Exception as error:  # noqa: BLE001
        reason = str(error) if isinstance(error, tarfile.TarError) else "a header in it has no sense"
        raise FileError(
            f"{path} is not a whole tar file: {shortened(reason)}.", "Remove it and fetch or make it again."
        ) from None
    return Shard(
        pack_names([name for name, _, _ in images.values()]),
        np.array([offset for _, offset, _ in images.values()], np.int64),
        np.array([size for _, _, size in images.values()], np.int64),
        np.array([labels.get(key, UNLABELLED) for key in images], np.int64),
    )


def _add(images: dict[str, tuple[str, int, int]], key: str, member: tarfile.TarInfo, path: Path) -> None:
    if key in images:
        raise FileError(f"{path} has two images of one key: {images[key][0]} and {member.name}; expected one.")
    images[key] = (member.name, member.offset_data, member.size)


def read_member(path: Path, offset: int, size: int) -> bytes:
    """The content of one member, by its place in the tar; OSError where it cannot be read, or is too large for one."""
    if size > decode.MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {decode.MAX_BYTES:,} bytes", str(path))
    with open_regular(path) as file:
        file.seek(offset)
        return file.read(size)


class _Bounded:
    """A file that reads at most `MAX_READ` at once, because tarfile believes the length that a header states."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise tarfile.ReadError(f"a header says that another one of {size:,} bytes follows")
        return self._file.read(size)


class _Member(tarfile.TarInfo):
    """A member whose attributes are looked at before tarfile parses them.

    Python 3.11 needs gigabytes and hours for attributes that overlap, and for long rows of digits.
    """

    def _proc_pax(self, tar: Any) -> Any:
        at = tar.fileobj.tell()
        _check_attributes(tar.fileobj.read(-(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE))
        tar.fileobj.seek(at)
        return super()._proc_pax(tar)  # type: ignore[misc]


def _check_attributes(block: bytes) -> None:
    """Refuse attributes that are not a row of records "LENGTH KEY=VALUE", or that no program writes."""
    content = block.rstrip(b"\0")
    if b"GNU.sparse" in content:
        raise tarfile.ReadError("it has sparse members; make it without them (tar without -S)")
    if _DIGITS.search(content):
        raise tarfile.ReadError(f"its attributes have numbers of more than {MAX_DIGITS} digits")
    at = 0
    while at < len(content):
        length = _LENGTH.match(content, at)
        end = at + int(length[1]) if length else at
        if end <= at or content[end - 1 : end] != b"\n":
            raise tarfile.ReadError("its attributes are damaged")
        at = end


def is_compressed(name: str) -> bool:
    """Whether a file of this name is a compressed tar."""
    return bool(_COMPRESSED.search(name))


def compressed(name: str) -> UsageError:
    """The sentence for a compressed tar."""
    return UsageError(
        f"{name} is compressed, so that images in it cannot be read one by one; expected a plain .tar.",
        "Unpack it once (gunzip keeps the tar); the images in it are compressed already.",
    )


def _refuse_compressed(path: Path, beginning: bytes) -> None:
    if beginning.startswith(_MAGIC):
        raise compressed(str(path))


def _refuse_rest(file: BufferedReader, end: int, path: Path) -> None:
    """tarfile takes a damaged header for the end: at the real one there is nothing, or a block of zeros."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
        raise FileError(
            f"{path} is damaged: byte {end:,} begins neither a member nor the end.",
            "Remove it and fetch or make it again.",
        )


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """The regular files of a tar with key and suffix, one at a time; hidden ones left out."""
    before = 0
    for _ in range(MAX_MEMBERS + 1):
        if (member := tar.next()) is None:
            return
        if member.size < 0 or tar.offset <= before:
            raise tarfile.ReadError(f"the header at byte {before:,} says that the next one lies before it")
        before = tar.offset
        if len(tar.pax_headers) > MAX_COMMON:
            raise tarfile.ReadError(f"it gives all members more than {MAX_COMMON} attributes")
        if len(member.name) > MAX_NAME_BYTES:
            raise tarfile.ReadError(f"a member's name has {len(member.name):,} characters")
        tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
        match = _MEMBER.match(member.name)
        if match and member.isreg() and not member.issparse() and not _is_hidden(member.name):
            yield member, match["key"], match["suffix"].lower()
    raise tarfile.ReadError(f"it has more than {MAX_MEMBERS:,} members")


def _is_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in name.split("/") if part not in (".", ".."))


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, path: Path) -> int | None:
    """The class number in a .cls or .json member; None where a .json has none."""
    file = tar.extractfile(member) if member.size <= _LABEL_BYTES else None
    text = file.read() if file is not None else b""
    label: object
    try:
        if suffix == "cls":
            label = int(text)
        else:
            entry = parse_json(text)
            if not isinstance(entry, dict) or not {"label", "class_id"} & entry.keys():
                return None
            label = entry.get("label", entry.get("class_id"))
    except ValueError:
        label = text[:40].decode(errors="replace").strip()
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < MAX_CLASSES:
        raise FileError(f"{path}: {member.name} has the label {quoted(label)}; expected a number from 0.")
    return label
