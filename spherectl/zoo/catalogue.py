"""All that the zoo knows: its own index and a user's further ones, files or addresses, one upon the other.

An index that has an address is kept in the cache, so that it can be used offline, and asked for again once a day. Files
that lie beside it are remote to us: `file = "x.safetensors"` means the address beside the index's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import urllib.parse
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from spherectl.documents import parse_toml
from spherectl.errors import FileError, SpherectlError
from spherectl.fetch import RefusedError, check_relative, check_url, fetch_text, refuse_archive
from spherectl.files import read_text, write_text
from spherectl.settings import Settings, load_settings, origin, packaged
from spherectl.shown import listed, shortened
from spherectl.validation import describe
from spherectl.zoo.entries import MAX_ENTRIES, MAX_INDEX, MAX_NAME, MAX_SHOWN, Entry, Table

REFRESH_S = 24 * 3600
MAX_CARD = 1 << 18  # bytes; ours have 2 to 7 kB


class _Index(Table):
    entry: Annotated[tuple[Entry, ...], Field(max_length=MAX_ENTRIES)] = ()


def read_index(path: Path) -> tuple[Entry, ...]:
    """The entries of one index file, in its order.

    Raises:
        FileError: it cannot be read, or is not valid; all mistakes at once.
    """
    try:
        text = read_text(path, MAX_INDEX)
    except OSError as error:
        raise FileError(f"Cannot read the zoo index {path}: {error.strerror}.") from None
    return check_index(parse_index(text, str(path)), str(path), path.parent)


def parse_index(text: str, where: str) -> dict[str, Any]:
    """The table in an index that comes from `where`.

    Raises:
        FileError: it is not TOML.
    """
    try:
        return parse_toml(text)
    except ValueError as error:
        raise FileError(f"Cannot read the zoo index {where}: {error}.", "An index is a TOML file.") from None


def check_index(table: dict[str, Any], where: str, folder: Path) -> tuple[Entry, ...]:
    """The entries of the table in an index; `folder` holds its embedded files and cards.

    Raises:
        FileError: it is not valid; all mistakes at once.
    """
    try:
        return _Index.model_validate(table, context=folder).entry
    except ValidationError as error:
        problems = describe(error, _Index, lambda path: _name(path, table))
        raise FileError(f"The zoo index {where} is not valid: {listed(problems, MAX_SHOWN, '; ')}.") from None


def index(settings: Settings | None = None, *, refresh: bool = False) -> dict[str, Entry]:
    """All entries by name: the zoo's own, then those of the setting `zoo_index`.

    Args:
        settings: which indexes; None: those in force.
        refresh: ask for indexes that have an address again, however new the kept ones are.

    Raises:
        FileError: an index cannot be read, is not valid (all mistakes at once), repeats a name, or names a file outside
            its folder.
        SpherectlError: one that has an address is not in the cache and cannot be fetched.
    """
    settings = settings or load_settings()
    entries: dict[str, Entry] = {}
    for place in (packaged("zoo") / "index.toml", *settings.zoo_index):
        if isinstance(place, Path) and not os.path.lexists(place):
            raise FileError(f"There is no zoo index {place}.", f"It is named in {origin('zoo_index')}.")
        found = read_index(place) if isinstance(place, Path) else _read_remote(place, settings, refresh)
        for entry in found:
            if entry.name in entries:
                raise FileError(f"{place}: the name {entry.name} occurs twice; names must be unique over all indexes.")
            entries[entry.name] = entry
    return entries


def read_card(entry: Entry) -> str:
    """An entry's model card, NAME.md beside its index; empty if it has none, or it cannot be had.

    That of an index with an address comes from beside it, the first time.
    """
    try:
        if not entry.has_card and entry.card_url and not load_settings().offline:
            write_text(entry.card, fetch_text(entry.card_url, entry.card.name, max_bytes=MAX_CARD))
        return read_text(entry.card, MAX_CARD) if entry.has_card else ""
    except (SpherectlError, OSError):
        return ""


def _read_remote(url: str, settings: Settings, refresh: bool) -> tuple[Entry, ...]:
    try:
        check_url(url)
        refuse_archive(urllib.parse.urlsplit(url).path)
    except ValueError as error:
        raise FileError(f"Cannot read the zoo index {url}: {error}.") from None
    folder = settings.cache / "zoo" / "indexes" / hashlib.sha256(url.encode()).hexdigest()[:16]
    kept = folder / "index.toml"
    entries, age = _read_kept(kept, url, settings)
    if settings.offline and entries is None:
        raise SpherectlError(
            f"The zoo index {url} is not in the cache, and {origin('offline')} says to stay offline.",
            "Run `spherectl zoo ls` once where there is a network, or take it out of the setting zoo_index.",
        )
    if not settings.offline and (entries is None or refresh or not 0 <= age < REFRESH_S):
        text = _fetch_index(url, kept, must=entries is None or refresh)
        if text is not None:
            entries = _check_remote(text, url, folder)  # before it takes the place of one that can be used
            with contextlib.suppress(SpherectlError, OSError):  # a cache that cannot be written keeps what it has
                write_text(kept, text)
                for card in folder.glob("*.md"):
                    card.unlink(missing_ok=True)
    return entries or ()


def _read_kept(kept: Path, url: str, settings: Settings) -> tuple[tuple[Entry, ...] | None, float]:
    """The entries of the kept copy, and its age in seconds; None for what is not there, or is damaged and comes anew.

    Raises:
        FileError: it is damaged, and nothing is fetched.
    """
    try:
        return _check_remote(read_text(kept, MAX_INDEX), url, kept.parent), time.time() - kept.stat().st_mtime
    except FileError:
        if settings.offline:
            raise
        return None, 0
    except OSError:
        return None, 0


def _fetch_index(url: str, kept: Path, must: bool) -> str | None:
    """The text of an index; None if it does not come, need not come, and is asked for again tomorrow."""
    try:
        return fetch_text(url, "the zoo index", max_bytes=MAX_INDEX)
    except RefusedError:
        raise
    except SpherectlError:
        if must:
            raise
        with contextlib.suppress(OSError):
            kept.touch()
        return None


def _check_remote(text: str, url: str, folder: Path) -> tuple[Entry, ...]:
    """The entries of an index that comes from an address, which may name files beside it."""
    table = parse_index(text, url)
    listed = table.get("entry")
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict):
            continue
        if isinstance(entry.get("file"), str) and not entry.get("urls"):
            entry["urls"] = [_beside(url, entry.pop("file"))]
        published = entry.get("published")
        if isinstance(published, str) and "://" not in published:
            entry["published"] = _beside(url, published)
        entry.pop("default", None)  # a fresh installation's model is that of its own index
    entries = check_index(table, url, folder)
    for one in entries:
        addresses = (*one.urls, *((one.published,) if one.published else ()))
        if url.startswith("https:") and any(not address.startswith("https:") for address in addresses):
            raise FileError(f"The zoo index {url} is not valid: entry {one.name} leads from https to http.")
        one.remember_card_url(urllib.parse.urljoin(url, f"{one.name}.md"))
    return entries


def _beside(url: str, file: str) -> str:
    try:
        check_relative(file)
    except ValueError as error:
        raise FileError(f"The zoo index {url} is not valid: {error}.") from None
    return urllib.parse.urljoin(url, urllib.parse.quote(file))


def _name(path: str, table: dict[str, Any]) -> str:
    """A place in an index as people find it: "entry NAME, key" of "entry.3.key"."""
    first, _, rest = path.partition(".")
    number, _, key = rest.partition(".")
    if not number.isdigit():
        return path
    entry = table[first][int(number)]
    name = entry.get("name") if isinstance(entry, dict) else None
    entry_name = shortened(name, MAX_NAME) if isinstance(name, str) else f"number {int(number) + 1}"
    return f"entry {entry_name}, {key}" if key else f"entry {entry_name}"
