"""Tar shards on an HTTP server: listed by an index, fetched one by one into the cache.

The index is WebDataset's: {"wids_version": 1, "shardlist": [{"url": "000000.tar", "nsamples": 1000}, ...]}, addresses
relative to it; "filesize" and "md5sum" are checked where they are given. Class names come from classes.txt or
class_names.json beside the index; without them the set has no classes. So all that a training plans with is known
before the first shard is here. A few shards are kept at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field

from spherectl.addresses import MAX_ADDRESS
from spherectl.data.shards import CLASS_FILES, expand_braces, parse_class_names
from spherectl.data.tars import compressed, is_compressed
from spherectl.documents import parse_table
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import RefusedError, check_url, download, fetch_text
from spherectl.files import is_regular, read_text, replacing, write_text
from spherectl.settings import load_settings, origin
from spherectl.validation import validated

T = TypeVar("T")

# Shards whose images are shuffled together.
WINDOW = 8
# Shards kept: those being read, those read ahead, and those that a slower process still reads.
KEPT = 3 * WINDOW

INDEX = "index.json"

MAX_LISTED = 200_000  # shards; sets of hundreds of millions have some ten thousand
MAX_IN_SHARD = 1_000_000  # images; WebDataset's own default is 100,000
MAX_IMAGES = 1 << 26  # of a set: the order of an epoch is made in memory, and takes 16 bytes of each
MAX_SHARD = 1 << 40  # bytes of a shard that an index may state; whether it fits the disk is looked at before it comes
NONE_THERE = (403, 404, 410)  # how stores say so


class _Listed(BaseModel):
    """One shard."""

    model_config = ConfigDict(strict=True)

    url: Annotated[str, Field(min_length=1, max_length=MAX_ADDRESS)]
    nsamples: Annotated[int, Field(ge=0, le=MAX_IN_SHARD)]
    filesize: Annotated[int, Field(ge=0, le=MAX_SHARD)] | None = None
    md5sum: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{32})?$")] | None = None


class _Document(BaseModel):
    """The index; what else WebDataset writes into it is not used."""

    model_config = ConfigDict(strict=True)

    wids_version: Annotated[int, Field(ge=1, le=1)]
    shardlist: Annotated[list[_Listed], Field(min_length=1, max_length=MAX_LISTED), FailFast()]


@dataclass(frozen=True)
class RemoteIndex:
    """The shards of a set.

    Attributes:
        urls: one a shard.
        counts: images in each.
        sizes: bytes of each; 0 where the index does not say.
        md5s: of each, in hexadecimal digits; empty where the index does not say.
        class_names: by number; empty where the set has no classes.
        folder: where fetched shards are kept; another one for each state of the index.
    """

    urls: tuple[str, ...]
    counts: tuple[int, ...]
    sizes: tuple[int, ...]
    md5s: tuple[str, ...]
    class_names: tuple[str, ...]
    folder: Path

    def path(self, number: int) -> Path:
        """Where shard `number` is kept."""
        return self.folder / f"{number:06d}.tar"


def is_url(place: str) -> bool:
    """Whether a place is an address rather than a path."""
    return "://" in place


def open_index(url: str) -> RemoteIndex:
    """Read the index of a set; no shard is fetched.

    Args:
        url: https (or http on this machine) address of the index, or of a folder (ending in /) or a brace pattern of
            tars beside which it lies under the name index.json.

    Raises:
        UsageError: the address is neither, or the pattern names a shard that the index does not have.
        FileError: the index or the class file is not as described, or the cache cannot be written.
        SpherectlError: offline, no answer, or an error from the server.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise UsageError(f"Cannot read shards at {url}: {error}.") from None
    if is_compressed(url):
        raise compressed(url)
    pattern = url if url.endswith(".tar") else ""
    index_url = urllib.parse.urljoin(url, INDEX) if pattern or url.endswith("/") else url
    kept = load_settings().cache / "shards" / hashlib.sha256(index_url.encode()).hexdigest()[:16]
    entries = _fetch_document(index_url, kept / INDEX, _parse_index)
    if pattern:
        by_url = {entry["url"]: entry for entry in entries}
        wanted = expand_braces(pattern)
        if missing := [one for one in wanted if one not in by_url]:
            raise UsageError(
                f"{index_url} does not list {len(missing)} of the {len(wanted):,} shards of {url}: {missing[0]}."
            )
        entries = [by_url[one] for one in wanted]
    if (images := sum(entry["nsamples"] for entry in entries)) > MAX_IMAGES:
        raise FileError(f"{index_url} lists {images:,} images; at most {MAX_IMAGES:,} can be shuffled.")
    stated = json.dumps(entries).encode()
    return RemoteIndex(
        urls=tuple(entry["url"] for entry in entries),
        counts=tuple(entry["nsamples"] for entry in entries),
        sizes=tuple(entry["filesize"] for entry in entries),
        md5s=tuple(entry["md5sum"] for entry in entries),
        class_names=_fetch_class_names(index_url, kept),
        folder=kept / hashlib.sha256(stated).hexdigest()[:16],
    )


class StoppedError(Exception):
    """A fetch given up because nobody waits for it any more."""


def fetch_shard(index: RemoteIndex, number: int, stop: threading.Event | None = None) -> Path:
    """Shard `number` in the cache, fetched if it is not there; of several processes one fetches.

    Raises:
        StoppedError: `stop` was set meanwhile.
        FileError: the cache cannot be written, or what comes is not what the index says.
        SpherectlError: offline, no answer, or an error from the server.
    """
    from filelock import FileLock

    def check(_done: int, _total: int, _note: str = "", /) -> None:
        if stop is not None and stop.is_set():
            raise StoppedError

    path, url = index.path(number), index.urls[number]
    with contextlib.suppress(OSError):  # not there, or a cache that can only be read
        os.utime(path)  # room is made where it was wanted longest ago
    if is_regular(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not is_regular(path):
                _refuse_offline(url)
                for leftover in path.parent.glob(f".{path.name}.*"):  # of a killed process; the lock is ours
                    leftover.unlink(missing_ok=True)
                with replacing(path) as temporary:
                    download(url, temporary, path, check, index.sizes[number] or None)
                    _check(temporary, url, index.md5s[number])
                _make_room(index.folder)
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(f"Cannot write to the cache {path.parent}: {error.strerror or error}.") from None
    return path


def _refuse_offline(url: str) -> None:
    if load_settings().offline:
        raise SpherectlError(
            f"{url} is not in the cache, and it is not fetched because {origin('offline')} says to stay offline."
        )


def _fetch_document(url: str, kept: Path, parse: Callable[[str, str], T]) -> T:
    """What `parse` makes of a text and its address; fetched anew each time, offline as it was last seen.

    It is kept once it is known to be valid.
    """
    if load_settings().offline and is_regular(kept):
        try:
            return parse(read_text(kept), url)
        except SpherectlError:
            raise
        except OSError as error:
            raise FileError(f"Cannot read {kept}: {error.strerror}.", "Remove it, and fetch it again.") from None
    _refuse_offline(url)
    text = fetch_text(url, str(kept))
    found = parse(text, url)
    if not is_regular(kept):  # a pipe, which is not replaced
        with contextlib.suppress(OSError):
            kept.unlink()
    write_text(kept, text)
    return found


def _fetch_class_names(index_url: str, kept: Path) -> tuple[str, ...]:
    for name in CLASS_FILES:
        url = urllib.parse.urljoin(index_url, name)
        if load_settings().offline and not is_regular(kept / name):
            continue
        try:
            return _fetch_document(url, kept / name, parse_class_names)
        except RefusedError as error:
            if error.status not in NONE_THERE:
                raise
            (kept / name).unlink(missing_ok=True)
    return ()


def _parse_index(text: str, url: str) -> list[dict[str, Any]]:
    """The shards with absolute addresses; sizes and sums that the index leaves out are 0 and empty."""
    hint = 'Expected {"wids_version": 1, "shardlist": [{"url": ..., "nsamples": ...}, ...]}.'
    document = validated(_Document, parse_table(text, url), url, hint)
    return [
        {
            "url": _shard_url(url, shard.url, i),
            "nsamples": shard.nsamples,
            "filesize": shard.filesize or 0,
            "md5sum": (shard.md5sum or "").lower(),
        }
        for i, shard in enumerate(document.shardlist)
    ]


def _shard_url(index_url: str, place: str, number: int) -> str:
    """The absolute address of a shard; the index states it relative to its own."""
    try:
        address = urllib.parse.urljoin(index_url, place)
        check_url(address)
    except ValueError as error:
        raise FileError(f"{index_url}: shardlist.{number}.url: {error}.") from None
    if is_compressed(address):
        raise compressed(address)
    return address


def _check(file: Path, url: str, md5: str) -> None:
    if md5:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            raise FileError(f"What came from {url} is damaged: its MD5 is {found}; the index says {md5}.")


def _make_room(folder: Path) -> None:
    """Remove shards beyond those that are kept, longest unused first."""
    used: list[tuple[int, Path]] = []
    for path in folder.glob("[0-9]*.tar"):
        try:
            used.append((path.stat().st_mtime_ns, path))
        except FileNotFoundError:  # another process makes room too
            continue
    for _, path in sorted(used)[:-KEPT]:
        path.unlink(missing_ok=True)
