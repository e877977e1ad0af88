"""What may be fetched at all: from which addresses, redirected where, and how much; and the errors where it may not."""

from __future__ import annotations

import shutil
import urllib.parse
from pathlib import Path

from spherectl.errors import FileError, SpherectlError
from spherectl.shown import quoted

MAX_ADDRESS = 8_192  # characters; signed addresses of stores have 2,000
MAX_FILE = 32 << 30  # bytes of a file whose size nobody states; the largest published checkpoints have a third of it
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RefusedError(SpherectlError):
    """The server answers, and its answer is no: trying again does not help.

    Args:
        message, hint: as for every error.
        status: of the answer; 0 where it was no status that refused.
    """

    def __init__(self, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class MismatchError(SpherectlError):
    """What came is not the file that was expected; it was not kept."""


def check_url(url: str) -> None:
    """Refuse an address that is neither encrypted nor on this machine, or that is none.

    Raises:
        ValueError: it is such an address; the message follows a colon.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # whose range is looked at when it is asked for
        host = parts.hostname or ""
        host.encode("idna")
    except ValueError:
        raise ValueError(f"expected an address, got {quoted(url)}") from None
    if len(url) > MAX_ADDRESS or not url.isprintable():
        raise ValueError(f"expected an address, got {quoted(url)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"expected an address of {quoted(host)} without a name and password (~/.netrc may hold them)")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        raise ValueError(f"expected an https address, got {quoted(url)}")


def is_loopback(url: str) -> bool:
    """Whether an address that `check_url` has passed is on this machine, so that no proxy knows it."""
    return urllib.parse.urlsplit(url).hostname in LOOPBACK


def redirected(address: str, location: str) -> str:
    """The address that an answer's Location leads to.

    From an encrypted address only another one is taken; from this machine's only what could be fetched anyway.

    Args:
        address: that was asked.
        location: the header, its bytes as Latin-1.

    Raises:
        ValueError: it may not be asked; the message follows "the server redirects to".
    """
    try:
        location = location.encode("latin-1").decode("utf-8")
        target = urllib.parse.urljoin(address, location)
        scheme = urllib.parse.urlsplit(target).scheme
    except ValueError:
        raise ValueError(f"{quoted(location)}, which is no address") from None
    if scheme != "https" and not (scheme == "http" and urllib.parse.urlsplit(address).scheme == "http"):
        raise ValueError(f"{quoted(target)}, which is not encrypted")
    try:
        check_url(target)
    except ValueError:
        plain = "which is not encrypted" if scheme == "http" else "which is no address that is asked"
        raise ValueError(f"{quoted(target)}, {plain}") from None
    return target


def check_room(name: str, folder: Path, needed: int, kept: int = 0) -> None:
    """Refuse a file for which the disk of a folder has no room, or too little is left beside it.

    Args:
        name: of the file.
        folder: where it is to be, or is to be made.
        needed: bytes that are to come.
        kept: bytes that have to be left.

    Raises:
        FileError: there is no room.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed + kept > free:
        wanted = f"needs {needed / 1e6:,.0f} MB more" if needed else f"leaves less than {kept / 1e6:,.0f} MB free"
        raise FileError(
            f"{name} {wanted}, and the disk of {folder} has {free / 1e6:,.0f} MB free.",
            "Make room, or name a folder on another disk as SPHERECTL_CACHE.",
        )
