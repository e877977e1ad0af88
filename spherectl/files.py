"""Files: read without waiting for a pipe or filling the memory, written whole or not at all.

Reading raises OSError with a `strerror` that follows "Cannot read PATH: ", so that callers name what the file is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path

from spherectl.errors import FileError, SpherectlError, UsageError

# A document that people write (recipe, card, index, settings, class names); a longer one is none.
MAX_DOCUMENT = 16 << 20

# To read it is to set it: of two threads at once the second would read the first one's 0, and leave it behind.
_umask_is_read = threading.Lock()


def open_regular(path: Path | str) -> BufferedReader:
    """A file opened for reading, at its beginning.

    A pipe or a device would be waited for, or never end: they are refused, and opening one does not block.

    Raises:
        OSError: it is missing, is no regular file, or may not be read.
    """
    # Windows has neither flag.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags)
    except ValueError:  # a zero byte in the name, or a name that the file system's encoding lacks
        raise _unreadable(errno.EINVAL, "no file can have this name", path) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _unreadable(errno.EINVAL, NOT_REGULAR, path) from None
        raise
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return BufferedReader(FileIO(handle, "rb"))
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise _unreadable(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise _unreadable(errno.EINVAL, NOT_REGULAR, path)


NOT_REGULAR = "it is not a regular file"


def read_bytes(path: Path | str, most: int = MAX_DOCUMENT) -> bytes:
    """A file's whole content.

    Args:
        path: of it.
        most: bytes it may have.

    Raises:
        OSError: as `open_regular`, or it has more.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _unreadable(errno.EFBIG, f"it has more than {most:,} bytes", path)
    return content


def read_text(path: Path | str, most: int = MAX_DOCUMENT) -> str:
    """A file's whole content as UTF-8; a byte order mark at its beginning is none of it.

    Raises:
        OSError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(errno.EILSEQ, f"byte {error.start:,} is not UTF-8", path) from None


def expanded(path: Path | str) -> Path:
    """A path with ~ and ~USER replaced by the user's home.

    Raises:
        UsageError: there is no such user, or no home is known.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, KeyError):
        raise UsageError(f"{path}: there is no home folder of that user.", "Write ./~... for a name with ~.") from None


def is_regular(path: Path | str) -> bool:
    """Whether there is a regular file of that name; never raises, whatever the name."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path | str) -> bool:
    """Whether there is a folder of that name; never raises, whatever the name."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for long names and folders that may not be entered


def is_there(path: Path | str) -> bool:
    """Whether there is anything of that name; never raises, whatever the name."""
    return os.path.exists(path)  # noqa: PTH110 - as above


def _unreadable(number: int, reason: str, path: Path | str) -> OSError:
    return OSError(number, reason, str(path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on leaving, sync it and rename it to `path`.

    If the body raises, nothing appears under `path` and the temporary file is removed. The file gets the mode that
    the process's umask gives to new files.

    Raises:
        FileError: the folder cannot be written, the disk is full, or `path` is a pipe or a device, which stays.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise _unreadable(errno.EINVAL, NOT_REGULAR, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{path.suffix}")
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from None
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_folder(path.parent)
    except SpherectlError:
        raise
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all (UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def claimed(stem: str, suffix: str = ".png") -> Iterator[Path]:
    """The first of STEM.png, STEM-1.png, ... in the working folder that is free, held by an empty file meanwhile.

    If the body raises, the name is free again.

    Args:
        stem: of the name; what is not a letter, a digit, a dot or a dash becomes a dash.
        suffix: of the name; the empty string claims a folder.

    Raises:
        FileError: the folder cannot be written.
    """
    stem = re.sub(r"[^\w.-]+", "-", stem)
    for number in itertools.count():
        path = Path(f"{stem}{f'-{number}' if number else ''}{suffix}")
        try:
            path.touch(exist_ok=False) if suffix else path.mkdir()
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise FileError(f"Cannot write {path}: {error.strerror}.", "Choose another place with --out.") from None
    try:
        yield path
    except BaseException:
        with contextlib.suppress(OSError):  # a folder that holds something already stays
            path.unlink(missing_ok=True) if suffix else path.rmdir()
        raise


def asked_or_claimed(out: Path | None, stem: str, suffix: str = ".png") -> contextlib.AbstractContextManager[Path]:
    """The place that was asked for, or a name that is `claimed`."""
    return claimed(stem, suffix) if out is None else contextlib.nullcontext(out)


def file_hash(file: Path | BufferedReader) -> str:
    """SHA-256 of a whole file, 64 hexadecimal digits.

    Where an open one stands is neither asked nor changed: threads and forked processes share that place.

    Raises:
        OSError: as `open_regular`.
    """
    if isinstance(file, Path):
        with open_regular(file) as opened:
            return file_hash(opened)
    digest, place = hashlib.sha256(), 0
    while piece := _read_at(file, place):
        digest.update(piece)
        place += len(piece)
    return digest.hexdigest()


def _read_at(file: BufferedReader, place: int, size: int = 1 << 20) -> bytes:
    """At most so many bytes of an open file, from a place on."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, place)
    file.seek(place)  # Windows, where no process is forked
    return file.read(size)


def _cannot_write(path: Path, error: OSError) -> FileError:
    reason = error.strerror or str(error)
    return FileError(
        f"Cannot write {path}: {reason}.", "Under that name all is as it was; choose another place or make room."
    )


def _umask() -> int:
    with _umask_is_read:
        current = os.umask(0)
        os.umask(current)
    return current


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system can (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
