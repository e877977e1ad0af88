"""Fetching the published sets through torchvision, which knows their addresses and verifies their MD5 sums.

A set is fetched into a folder beside its final place and renamed, so that a killed download never looks like a set.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from spherectl.data.emoji import fetch_emoji
from spherectl.errors import FileError, SpherectlError

Fetched = Literal["fashion-mnist", "emoji", "cifar10", "flowers102"]


CIFAR10_URL, CIFAR10_MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"


class _Source(NamedTuple):
    title: str
    folder: str  # what arrives, below the data folder
    site: str
    megabytes: int
    fetch: Callable[[Path], object]


def _fetch_fashion_mnist(into: Path) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(into, download=True)


def _fetch_cifar10(into: Path) -> None:
    # Not torchvision.datasets.CIFAR10: that is the pickled version.
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(CIFAR10_URL, str(into), md5=CIFAR10_MD5, remove_finished=True)


def _fetch_flowers102(into: Path) -> None:
    from torchvision.datasets import Flowers102

    # Having fetched the files it reads the labels, for which it needs scipy; our own reader says so if that is missing.
    with contextlib.suppress(ModuleNotFoundError):
        Flowers102(into, download=True)
    (into / "flowers-102" / "102flowers.tgz").unlink(missing_ok=True)


_SOURCES: dict[str, _Source] = {
    "fashion-mnist": _Source(
        "Fashion-MNIST", "FashionMNIST", "github.com/zalandoresearch/fashion-mnist", 31, _fetch_fashion_mnist
    ),
    "emoji": _Source(
        "Noto Emoji and Twemoji",
        "emoji",
        "registry.npmjs.org",
        136,
        lambda into: fetch_emoji(into / "emoji"),
    ),
    "cifar10": _Source(
        "CIFAR-10 (binary version)", "cifar-10-batches-bin", "www.cs.toronto.edu/~kriz/cifar.html", 170, _fetch_cifar10
    ),
    "flowers102": _Source(
        "Flowers-102", "flowers-102", "www.robots.ox.ac.uk/~vgg/data/flowers/102", 345, _fetch_flowers102
    ),
}


def fetch_set(
    kind: Fetched, data: Path, *, offline: bool = False, progress: Callable[[str], None] | None = None
) -> Path:
    """Fetch a set into the data folder; nothing is done if it is there.

    Args:
        kind: which set.
        data: the data folder; the set arrives in a sub-folder.
        offline: refuse instead of using the network.
        progress: called with a sentence before the download starts.

    Returns:
        The set's own folder.

    Raises:
        FileError: the data folder cannot be written.
        SpherectlError: offline, the network refuses, or what arrives has not the published MD5 sum.
    """
    from filelock import FileLock

    source = _SOURCES[kind]
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
            if progress is not None:
                progress(f"Fetching {source.title} ({source.megabytes} MB) from {source.site} into {data}")
            _fetch_quietly(source, partial, by_hand)
            (partial / source.folder).replace(place)
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise FileError(f"Cannot write to the data folder {data}: {error.strerror or error}.", by_hand) from None
    return place


def _fetch_quietly(source: _Source, into: Path, by_hand: str) -> None:
    import http.client
    import urllib.error

    try:
        # torchvision draws bars of its own; narration is the command line's.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            source.fetch(into)
    # RuntimeError: torchvision gave up on every mirror, or the MD5 sum differs; its last line has the reason.
    except (urllib.error.URLError, http.client.HTTPException, RuntimeError, ConnectionError, TimeoutError) as error:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = re.sub(r"urlopen error |\[Errno -?\d+\] ", "", lines[-1]).strip(" <>.")
        raise SpherectlError(f"Cannot fetch {source.title} from {source.site}: {reason}.", by_hand) from None
