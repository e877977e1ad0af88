"""Files from the network: verified by SHA-256, kept in the cache, whole or not at all."""

from __future__ import annotations

import hashlib
import string
import time
import urllib.parse
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Any

from spherectl.errors import SpherectlError, UsageError
from spherectl.files import replacing
from spherectl.settings import Settings, load_settings, origin

# Called with bytes done and bytes in all (0 where the server does not say).
Progress = Callable[[int, int], None]

ATTEMPTS = 3  # to fetch one file, with waits of 1 and 2 seconds between
TIMEOUT_S = 30  # without an answer from the server
BUSY = (408, 429, 500, 502, 503, 504)  # answers that mean "later", not "no"
SHORTEST_HASH = 8  # digits; some publishers state no more


class RefusedError(SpherectlError):
    """The server answers, and its answer is no: trying again does not help."""


def fetch_url(
    url: str, sha256: str, filename: str, progress: Progress | None = None, settings: Settings | None = None
) -> Path:
    """A file from the network, kept in the cache; a file there with the right hash is returned without a connection.

    Args:
        url: https, or http on this machine.
        sha256: of the file: 64 hexadecimal digits, or its first 8 or more where the publisher states no more.
        filename: its name in the cache, relative; folders are made.
        progress: called with bytes done and bytes in all.
        settings: names the cache and whether to stay offline; None: those in force.

    Raises:
        SpherectlError: offline, no answer, an error from the server, or a file with another hash (which is not kept).
        FileError: the cache cannot be written.
        UsageError: an argument is not as described.
    """
    try:
        check_url(url)
        check_relative(filename)
    except ValueError as error:
        raise UsageError(f"Cannot fetch {filename}: {error}.") from None
    if len(sha256) < SHORTEST_HASH or not set(sha256) <= set(string.hexdigits.lower()):
        raise UsageError(f"Cannot fetch {filename}: expected a SHA-256 in hexadecimal digits, got {sha256!r}.")
    settings = settings or load_settings()
    path = settings.cache / filename
    if path.is_file() and file_hash(path).startswith(sha256):
        return path
    if settings.offline:
        state = "damaged" if path.is_file() else "missing"
        raise SpherectlError(
            f"{path} is {state}, and it is not fetched because {origin('offline')} says to stay offline.",
            _by_hand(url, path),
        )
    with replacing(path) as temporary:
        download(url, temporary, path, progress)
        if not file_hash(temporary).startswith(sha256):
            raise SpherectlError(
                f"What came from {url} is not {path.name} as it is known: its SHA-256 does not begin with "
                f"{sha256[:12]}, so it was not kept.",
                "If the connection is to be trusted, the file was replaced: tell spherectl's maintainers.",
            )
    return path


def file_hash(file: Path | BufferedReader) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; of an open one from where it stands."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return file_hash(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_relative(file: str) -> None:
    """Refuse a name that could lead out of the folder it is meant for.

    Raises:
        ValueError: it is absolute, has "..", or means something else on another system.
    """
    path = PurePath(file)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
        raise ValueError(f"expected a path inside the folder, got {file!r}")


def check_url(url: str) -> None:
    """Refuse an address that is neither encrypted nor on this machine.

    Raises:
        ValueError: it is such an address.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise ValueError(f"expected an https address, got {url!r}")


def download(url: str, temporary: Path, path: Path, progress: Progress | None = None) -> None:
    """Fetch `url` to `temporary`, trying again with growing waits where that can help.

    Args:
        url: an address that `check_url` has passed.
        temporary: is written; a connection that breaks off before the announced length is an error.
        path: what it will be called, for the error's hint.
        progress: called with bytes done and bytes in all.

    Raises:
        RefusedError: the server says no.
        SpherectlError: no answer, or a busy server, at every attempt.
    """
    import pooch
    import requests

    for attempt in range(ATTEMPTS):
        bar = _ByteCount(progress) if progress else False
        # pooch writes in pieces of 1 KiB unless told otherwise.
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 20, timeout=TIMEOUT_S)
        try:
            downloader(url, str(temporary), None)
            return
        except requests.RequestException as error:
            if attempt == ATTEMPTS - 1 or not _may_pass(error):
                kind = SpherectlError if _may_pass(error) else RefusedError
                raise kind(f"Cannot fetch {path.name} from {url}: {_reason(error)}.", _by_hand(url, path)) from None
        time.sleep(2**attempt)


def _may_pass(error: Any) -> bool:
    """Whether trying again can help: no answer or a busy server, but not a wrong address or a refusal."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in BUSY
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


def _reason(error: Any) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_S} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


def _by_hand(url: str, path: Path) -> str:
    return f"Where there is a network, download {url} and put it at {path}."


class _ByteCount:
    """What pooch wants of a progress bar, handing on to a callback."""

    def __init__(self, progress: Progress) -> None:
        self.total = 0
        self._done = 0
        self._progress = progress

    def update(self, count: int) -> None:
        """Count more bytes; pooch counts whole pieces, so the last one may overshoot."""
        self._done = min(self._done + count, self.total) if self.total else self._done + count
        self._progress(self._done, self.total)

    def reset(self) -> None:
        """Start again from nothing, as pooch does before it reports the total."""
        self._done = 0

    def close(self) -> None:
        """Nothing to close."""
