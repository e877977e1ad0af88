"""Writing files so that a reader, a full disk or a killed process never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from spherectl.errors import FileError

# To read it is to set it: of two threads at once the second would read the first one's 0, and leave it behind.
_umask_is_read = threading.Lock()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on leaving, sync it and rename it to `path`.

    If the body raises, nothing appears under `path` and the temporary file is removed. The file gets the mode that
    the process's umask gives to new files.

    Raises:
        FileError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
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
    """SHA-256 of a file, 64 hexadecimal digits; of an open one from where it stands."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return file_hash(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_write(path: Path, error: OSError) -> FileError:
    reason = error.strerror or str(error)
    return FileError(f"Cannot write {path}: {reason}.", "Nothing was changed; choose another place or make room.")


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
