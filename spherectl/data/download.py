"""Fetching the published sets, of which torchvision knows the addresses and MD5 sums, and how they are unpacked.

Their files come as all others do (`spherectl.transfer`: limits, attempts, proxies); torchvision would write what comes
until the disk is full. A set is fetched into a folder beside its final place and renamed, so that a killed download
never looks like a set.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from spherectl.data.emoji import fetch_emoji
from spherectl.errors import FileError, SpherectlError
from spherectl.fetch import download

Fetched = Literal["fashion-mnist", "emoji", "cifar10", "flowers102"]


CIFAR10_URL, CIFAR10_MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"


class _Source(NamedTuple):
    title: str
    folder: str  # what arrives, below the data folder
    site: str
    megabytes: int
    fetch: Callable[[Path], object]


def _bring(url: str, md5: str, into: Path) -> None:
    """One file with that MD5 sum, put where torchvision looks for it before it would fetch it."""
    from torchvision.datasets.utils import check_integrity

    file = into / url.rpartition("/")[2]
    into.mkdir(parents=True, exist_ok=True)
    download(url, file, Path(file.name))
    if not check_integrity(file, md5):
        raise SpherectlError(f"Cannot fetch {file.name}: what comes from {url} has not the published MD5 sum.")


def _fetch_fashion_mnist(into: Path) -> None:
    from torchvision.datasets import FashionMNIST

    for name, md5 in FashionMNIST.resources:
        _bring(f"{FashionMNIST.mirrors[0]}{name}", md5, into / "FashionMNIST" / "raw")
    FashionMNIST(into, download=True)


def _fetch_cifar10(into: Path) -> None:
    # Not torchvision.datasets.CIFAR10: that is the pickled version.
    from torchvision.datasets.utils import extract_archive

    _bring(CIFAR10_URL, CIFAR10_MD5, into)
    extract_archive(str(into / CIFAR10_URL.rpartition("/")[2]), remove_finished=True)


def _fetch_flowers102(into: Path) -> None:
    from torchvision.datasets import Flowers102

    for name, md5 in Flowers102._file_dict.values():  # noqa: SLF001 - torchvision has no public name for it
        _bring(f"{Flowers102._download_url_prefix}{name}", md5, into / "flowers-102")  # noqa: SLF001
    # Having found the files it reads the labels, for which it needs scipy; our own reader says so if that is missing.
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
    try:
        # torchvision draws bars of its own; narration is the command line's.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            source.fetch(into)
    except FileError:
        raise
    except SpherectlError as error:
        raise SpherectlError(error.message, by_hand) from None
