"""Files from the network: verified by SHA-256, kept in the cache, whole or not at all."""

from __future__ import annotations

import functools
import re
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from spherectl.addresses import MAX_FILE, RefusedError, check_room, check_url
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.files import MAX_DOCUMENT, file_hash, is_regular, read_text
from spherectl.progress import Progress
from spherectl.settings import Settings, load_settings, origin
from spherectl.shown import quoted

if TYPE_CHECKING:
    from spherectl.downloader import Downloader

__all__ = [
    "ARCHIVE",
    "MAX_FILE",
    "RefusedError",
    "check_relative",
    "check_room",
    "check_url",
    "download",
    "fetch_file",
    "fetch_text",
    "fetch_url",
    "file_hash",
    "refuse_archive",
]

SHORTEST_HASH = 8  # digits; some publishers state no more
WHOLE_HASH = 64
DOCUMENT_S = 120  # seconds in which a text has to come
MAX_PART = 200  # bytes of one part of a name; file systems take 255, and ours put words around it
ARCHIVE = re.compile(r"\.(zip|7z|rar|tgz|tbz2?|txz|tar|(tar\.)?(gz|bz2|xz|zst))$", re.IGNORECASE)


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
        FileError: the cache cannot be written, or has no room.
        UsageError: an argument is not as described.
    """
    if len(sha256) < SHORTEST_HASH or not set(sha256) <= set(string.hexdigits.lower()):
        raise UsageError(f"Cannot fetch {filename}: expected a SHA-256 in hexadecimal digits, got {quoted(sha256)}.")
    return fetch_file([url], filename, sha256=sha256, progress=progress, settings=settings)


def fetch_file(
    urls: Sequence[str],
    filename: str,
    *,
    sha256: str = "",
    size: int | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Path:
    """`fetch_url` from several addresses, tried in order; of several processes one fetches and the others wait.

    Args:
        urls: each https, or http on this machine.
        filename: its name in the cache.
        sha256: of the file, or its first digits; empty where nobody knows it: then a file that is there is taken.
        size: bytes it must have, where that is known.
        progress, settings: as for `fetch_url`, which raises the same.
    """
    from filelock import FileLock

    try:
        check_relative(filename)
        for url in urls:
            check_url(url)
    except ValueError as error:
        raise UsageError(f"Cannot fetch {filename}: {error}.") from None
    settings = settings or load_settings()
    path = settings.cache / filename
    if _is_right(path, sha256):
        return path
    if settings.offline:
        state = "damaged" if is_regular(path) else "missing"
        raise SpherectlError(
            f"{path} is {state}, and it is not fetched because {origin('offline')} says to stay offline.",
            f"Where there is a network, download {urls[0]} and put it at {path}.",
        )
    from spherectl.downloader import Downloader

    part = path.with_name(f".{path.name}.part")
    downloader = Downloader(part, path, sha256=sha256, size=size, progress=progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not _is_right(path, sha256):  # else another process fetched it while this one waited
                _fetch_first(urls, path, downloader)
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(
            f"Cannot write to the cache {path.parent}: {error.strerror or error}.",
            "Make room, or name another folder as SPHERECTL_CACHE.",
        ) from None
    return path


def fetch_text(
    url: str,
    name: str,
    size: int | None = None,
    max_bytes: int = MAX_DOCUMENT,
) -> str:
    """A small text from the network, which is not kept; raises as `fetch_file` does.

    Args:
        url: https, or http on this machine.
        name: what errors call it.
        size: bytes it must have, where that is known.
        max_bytes: it may have.
    """
    from spherectl.downloader import Downloader

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        Downloader(path, Path(name), size=size, max_bytes=max_bytes, within_s=DOCUMENT_S).gather(url)
        try:
            return read_text(path, max_bytes)
        except OSError as error:
            raise FileError(f"What came from {url} is no text: {error.strerror}.") from None


def download(url: str, temporary: Path, path: Path, progress: Progress | None = None, size: int | None = None) -> None:
    """Fetch `url` to `temporary`, trying again with growing waits where that can help.

    Args:
        url: an address that `check_url` has passed.
        temporary: is written; a connection that breaks off before the announced length is an error.
        path: what it will be called, for the error's hint.
        progress: called with bytes done and bytes in all.
        size: bytes it must have, where that is known.

    Raises:
        RefusedError: the server says no.
        SpherectlError: no answer, or a busy server, at every attempt; or what comes is too large or too slow.
    """
    from spherectl.downloader import Downloader

    downloader = Downloader(temporary.with_name(f"{temporary.name}.part"), path, size=size, progress=progress)
    try:
        downloader(url, str(temporary))
    except BaseException:
        downloader.drop()
        raise


def check_relative(file: str) -> None:
    """Refuse a name that could lead out of the folder it is meant for.

    Raises:
        ValueError: it is absolute, has "..", or means something else on another system.
    """
    path = PurePath(file)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
        raise ValueError(f"expected a path inside the folder, got {quoted(file)}")
    if not file.isprintable() or any(len(part.encode()) > MAX_PART for part in path.parts):
        raise ValueError(f"expected a path that can be written, got {quoted(file)}")


def refuse_archive(name: str) -> None:
    """Refuse a name that ends as an archive's does.

    Raises:
        ValueError: it does.
    """
    if found := ARCHIVE.search(name):
        raise ValueError(
            f"archives ({found[0]}) are never unpacked here; expected the model itself, got {quoted(name)}"
        )


def _fetch_first(urls: Sequence[str], path: Path, downloader: Downloader) -> None:
    """The file from the first address that gives it; the last one's error if none does."""
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it would tell each address on stderr
    known = f"sha256:{downloader.sha256}" if len(downloader.sha256) == WHOLE_HASH else None
    if known is None:
        path.unlink(missing_ok=True)  # pooch compares whole hashes only, and would keep what is there
    for number, url in enumerate(urls, start=1):
        try:
            pooch.retrieve(url, known, fname=path.name, path=path.parent, downloader=downloader)
            return
        except FileError:
            raise
        except SpherectlError:
            if number == len(urls):
                raise


def _is_right(path: Path, sha256: str) -> bool:
    if not is_regular(path) or not sha256:
        return is_regular(path)
    about = path.stat()
    return _hash_of(path, about.st_ino, about.st_size, about.st_mtime_ns).startswith(sha256)


@functools.lru_cache(maxsize=64)
def _hash_of(path: Path, *_state: int) -> str:
    """A file's hash, computed once a process for each state of it: of many threads that wait for it, the first does."""
    return file_hash(path)
