"""Fetching the published sets. torchvision knows their addresses and MD5 sums.

Their files come as all others do (`spherectl.downloader`: limits, attempts, proxies), because torchvision would write
until the disk is full. A set is fetched into a folder beside its final place and renamed, so that a killed download
never looks like a set.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

from spherectl.data.sets import Download, Say
from spherectl.errors import FileError, SpherectlError
from spherectl.fetch import download


def bring(url: str, md5: str, into: Path) -> None:
    """Fetch one file with that MD5 sum to where torchvision looks for it before it would fetch it.

    Raises:
        SpherectlError: the network refuses, or what arrives is another file.
        FileError: it cannot be written.
    """
    from torchvision.datasets.utils import check_integrity

    file = into / url.rpartition("/")[2]
    into.mkdir(parents=True, exist_ok=True)
    download(url, file, Path(file.name))
    if not check_integrity(file, md5):
        raise SpherectlError(f"Cannot fetch {file.name}: what comes from {url} has not the published MD5 sum.")


def fetch_set(source: Download, data: Path, *, offline: bool = False, say: Say | None = None) -> Path:
    """Fetch a set into the data folder; nothing is done if it is there.

    Args:
        source: which set.
        data: the data folder; the set arrives in a sub-folder.
        offline: refuse instead of using the network.
        say: called with a sentence before the download starts.

    Returns:
        The set's own folder.

    Raises:
        FileError: the data folder cannot be written.
        SpherectlError: offline, the network refuses, or what arrives has not the published MD5 sum.
    """
    from filelock import FileLock

    place = data / source.folder
    if place.exists():
        return place
    by_hand = f"Get it from {source.site} yourself, and give its folder with --data PATH."
    if offline:
        raise SpherectlError(f"{source.title} is not in {data}, and offline mode forbids fetching it.", by_hand)
    partial = data / f".{source.folder}.partial"
    try:
        data.mkdir(parents=True, exist_ok=True)
        with FileLock(data / f".{source.folder}.lock"):
            if place.exists():  # another process fetched it while this one waited
                return place
            if say is not None:
                say(f"Fetching {source.title} ({source.megabytes} MB) from {source.site} into {data}")
            _fetch_quietly(source, partial, by_hand)
            (partial / source.folder).replace(place)
            shutil.rmtree(partial, ignore_errors=True)
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(f"Cannot write to the data folder {data}: {error.strerror or error}.", by_hand) from None
    return place


def _fetch_quietly(source: Download, into: Path, by_hand: str) -> None:
    try:
        # torchvision shows bars of its own; only the command line narrates.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            source.fetch(into)
    except FileError:
        raise
    except SpherectlError as error:
        raise SpherectlError(error.message, by_hand) from None
