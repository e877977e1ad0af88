"""Places that a person names: turned into paths, and found writable before anything is computed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import expanded
from spherectl.shown import quoted, shortened

MAX_NAME = 255  # bytes of the name of a file; Linux, macOS and Windows take no longer one
MAX_PATH = 4_095  # bytes of a path; Linux takes no longer one
MAX_PARTS = 200  # folders within folders; making them calls itself at each


def place(text: str, what: str = "The path") -> Path:
    """The path that a person's text stands for, whether or not there is anything.

    Args:
        text: as given on a command line or in a setting; ~ and ~USER are homes.
        what: what errors call it, as in "--out".

    Raises:
        UsageError: it is empty, no file can have this name, or there is no such user.
    """
    if not text:
        raise UsageError(f"{what} is empty.", "Write . for the folder you are in.")
    path = Path(text)
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        size = len(os.fsencode(text))
    except UnicodeError:
        raise UsageError(f"{what}: no file can have the name {quoted(text)}.") from None
    if "\0" in text:
        raise UsageError(f"{what}: no file can have the name {quoted(text)}, with a zero byte.")
    if longest > MAX_NAME or size > MAX_PATH or len(path.parts) > MAX_PARTS:
        raise UsageError(
            f"{what}: expected names of at most {MAX_NAME} bytes, {MAX_PATH:,} bytes and {MAX_PARTS} parts in all, "
            f"got {shortened(quoted(text), 80)}.",
        )
    return expanded(path) if text.startswith("~") else path  # a path forgets the ./ of ./~name


def check_writable(out: Path, *, folder: bool = False) -> None:
    """Refuse a place that cannot be written, before anything is computed; nothing is made there.

    Args:
        out: a file, replaced if it is there, or a folder that files are put in.
        folder: which of both.

    Raises:
        UsageError: the name is taken by something else.
        FileError: no file can be made there.
    """
    existing = out
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            out.stat()  # is_dir and exists hide what is wrong with a name
        if out.is_dir() and not folder:
            raise UsageError(f"{out} is a folder; a file of that name cannot be written.")
        if out.exists() and not out.is_dir() and (folder or not out.is_file()):
            what = "a file, not a folder" if out.is_file() else "a pipe or a device, which would be replaced"
            raise UsageError(f"Cannot write {out}: it is {what}.")
        above = (out if folder else out.parent).absolute()
        existing = next(one for one in (above, *above.parents) if one.exists())
        if not existing.is_dir():
            raise UsageError(f"Cannot write {out}: {existing} is a file, not a folder.")
        # Asking for permissions is not enough: a superuser has them all, also where nothing can be written.
        # The name is as long as that which `files.replacing` will write to.
        prefix, suffix = (".", ".tmp") if folder else (f".{out.name}.", f".tmp{out.suffix}")
        with tempfile.NamedTemporaryFile(dir=existing, prefix=prefix, suffix=suffix) as file:
            file.write(b" ")  # a file-size limit or a full disk shows here
            file.flush()
    except SpherectlError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"Cannot write {out}: no file can be made in {existing} ({reason}).", "Choose another place."
        ) from None
    except ValueError:
        raise UsageError(f"No file can have the name {quoted(str(out))}.") from None
