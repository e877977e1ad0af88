"""What a fetch brings: the files of one model, and whether they may come."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import MAX_PART, RefusedError, fetch_file, file_hash
from spherectl.files import is_regular
from spherectl.model.formats.header import read_header
from spherectl.model.formats.layouts import below
from spherectl.progress import Progress, part_of
from spherectl.settings import Settings, origin
from spherectl.zoo import hub
from spherectl.zoo.entries import MODEL_SUFFIX, Entry, cached_path
from spherectl.zoo.receipts import load_note, save_note

FREE = {
    *("apache-2.0", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "unlicense", "0bsd", "zlib", "bsl-1.0", "mpl-2.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-3.0", "cc-by-sa-3.0", "public-domain", "cdla-permissive-2.0"),
}


class ConsentError(UsageError):
    """A fetch needs a word first: that a licence is accepted, or that an unverified source is trusted."""


@dataclass(frozen=True)
class Piece:
    """One file of a parcel.

    Attributes:
        path: what it is called in the layout; empty for a model file.
        urls: addresses, tried in order.
        sha256: that the index, the hub or an earlier fetch knows; empty if nobody does.
        bytes: of it, if they are known.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str = ""
    bytes: int | None = None


@dataclass(frozen=True)
class Parcel:
    """The files of one model, found but not yet fetched.

    Attributes:
        name: of the entry, or hf:user/repo.
        place: below the cache, without a suffix.
        source: address or repository.
        pieces: one model file, or the two files of a published checkpoint.
        licence: of the weights.
        revision: commit of a repository; empty elsewhere.
        known: whether the index says all hashes, so that nothing is taken on trust.
        facts: of the entry, which a conversion compares with and puts into its header.
    """

    name: str
    place: str
    source: str
    pieces: tuple[Piece, ...]
    licence: str
    revision: str = ""
    known: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int | None:
        """Of all files, if they are known."""
        sizes = [piece.bytes for piece in self.pieces]
        return None if None in sizes else sum(size or 0 for size in sizes)


def find_parcel(entry: Entry, settings: Settings) -> Parcel:
    """The files of a remote entry; a repository of the hub is listed, at the commit that was seen before if any was.

    Raises:
        UsageError: the repository has no such model, or may not be read.
        SpherectlError: no answer from the hub, or offline.
    """
    place = f"zoo/{entry.name}"
    facts = entry.model_dump(include={"kind", "classes", "image_size", "data_licence", "recipe", "licence"})
    if entry.hub:
        name = hub.HubName(entry.hub, entry.folder or "", entry.revision)
        return replace(_on_the_hub(name, place, settings, entry), facts=facts)
    if entry.published:
        pieces = tuple(
            Piece(file.path, (f"{entry.published}{file.path}",), file.sha256 or "", file.bytes) for file in entry.files
        )
    else:
        pieces = (Piece("", entry.urls, entry.sha256 or "", entry.bytes),)
    known = all(piece.sha256 for piece in pieces)
    return Parcel(entry.name, place, entry.source, pieces, entry.licence, known=known, facts=facts)


def find_on_the_hub(name: hub.HubName, settings: Settings) -> Parcel:
    """The files of a model that was named by its repository; naming it is trusting it."""
    return replace(_on_the_hub(name, hub_place(name), settings), known=True)


def hub_place(name: hub.HubName) -> str:
    """Where a model of the hub is kept, below the cache.

    Raises:
        UsageError: the name is too long for a file's.
    """
    file = re.sub(r"[^A-Za-z0-9._@-]", "--", str(name).removeprefix(hub.PREFIX))
    if len(file) > MAX_PART:
        raise UsageError(f"{name} is too long a name: as that of a file it has {len(file)} characters of {MAX_PART}.")
    return f"zoo/hf/{file}"


def needs_trust(parcel: Parcel, settings: Settings) -> bool:
    """Whether nobody has said what the files must be: neither the index nor an earlier fetch."""
    return not parcel.known and not load_note(parcel.place, settings).get("files")


def needs_acceptance(parcel: Parcel, settings: Settings) -> bool:
    """Whether the licence is non-free or unknown, and was not accepted yet."""
    return not is_free(parcel.licence) and load_note(parcel.place, settings).get("accepted") != parcel.licence


def is_free(licence: str) -> bool:
    """Whether a licence is one of those that need no word of consent."""
    return re.sub(r"[\s_]+", "-", licence.strip().lower()) in FREE


def fetch_parcel(
    parcel: Parcel,
    settings: Settings,
    progress: Progress | None = None,
    *,
    trust: bool = False,
    accept: bool = False,
) -> Path:
    """Fetch the files of a parcel into the cache, and note what was seen.

    Args:
        parcel: from `find_parcel`.
        settings: name the cache.
        progress: called with bytes done and bytes in all, over all files.
        trust: take files whose hashes nobody has stated, and note those that come.
        accept: the licence is accepted.

    Returns:
        The model file, or the folder in the published layout.

    Raises:
        ConsentError: trust or acceptance is needed.
        FileError: what came is not a model, or not what came before; the cache cannot be written.
        SpherectlError: it cannot be fetched.
    """
    from filelock import FileLock

    if settings.offline:  # nothing is fetched, and what is here came with consent
        return _fetch(parcel, settings, progress)
    _ask(parcel, settings, trust=trust, accept=accept)
    base = settings.cache / parcel.place
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(base.with_name(f".{base.name}.lock")):
            if accept and needs_acceptance(parcel, settings):
                save_note(parcel.place, settings, name=parcel.name, accepted=parcel.licence)
            return _fetch(parcel, settings, progress)
    except OSError as error:
        raise FileError(f"Cannot write to the cache {base.parent}: {error.strerror or error}.") from None


def _fetch(parcel: Parcel, settings: Settings, progress: Progress | None) -> Path:
    """All files of a parcel, as the index states them or as they were seen before."""
    seen: dict[str, str] = load_note(parcel.place, settings).get("files", {})
    if parcel.revision or not parcel.known:
        _compare(parcel, seen)
    made = settings.cache / f"{parcel.place}{MODEL_SUFFIX}"
    if len(parcel.pieces) > 1 and is_regular(made):  # the model that was made of the folder
        if all(piece.sha256 in ("", seen.get(piece.path)) for piece in parcel.pieces):
            return made
        made.unlink()
    found, done = {}, 0
    for piece in parcel.pieces:
        path = _fetch_piece(parcel, piece, seen.get(piece.path, ""), settings, part_of(progress, done, parcel.bytes))
        done += path.stat().st_size
        found[piece.path] = file_hash(path)
    if settings.offline:
        return cached_path(parcel.place, settings)
    facts = {key: value for key, value in parcel.facts.items() if value is not None}
    about = {"name": parcel.name, "source": parcel.source, "revision": parcel.revision, "licence": parcel.licence}
    save_note(parcel.place, settings, **about, bytes=done, files=found, facts=facts)
    return cached_path(parcel.place, settings)


def _fetch_piece(parcel: Parcel, piece: Piece, seen: str, settings: Settings, progress: Progress | None) -> Path:
    filename = f"{parcel.place}/{piece.path}" if piece.path else f"{parcel.place}{MODEL_SUFFIX}"
    sha256 = piece.sha256 or seen
    if not sha256 and not settings.offline:  # what an earlier fetch left without noting it
        (settings.cache / filename).unlink(missing_ok=True)
    try:
        path = fetch_file(
            piece.urls,
            filename,
            sha256=sha256,
            size=piece.bytes,
            headers=hub.headers if parcel.revision else None,
            progress=progress,
            settings=settings,
        )
    except RefusedError as error:
        raise hub.explained(error, hub.parse_name(parcel.source)) if parcel.revision else error from None
    if not piece.path:
        _check_model(path)
    return path


def _on_the_hub(name: hub.HubName, place: str, settings: Settings, entry: Entry | None = None) -> Parcel:
    if settings.offline:
        raise SpherectlError(
            f"{name} is not in the cache, and it is not fetched because {origin('offline')} says to stay offline."
        )
    seen = load_note(place, settings)
    listing = hub.list_files(replace(name, revision=str(seen.get("revision") or name.revision)))
    paths = hub.choose(listing, name, entry.name if entry else "")
    pieces = tuple(
        Piece(below(path) or "", (listing.url(path),), listing.files[path].sha256, listing.files[path].bytes)
        for path in paths
    )
    stated = entry.licence if entry and entry.licence != "unknown" else listing.licence
    return Parcel(entry.name if entry else str(name), place, str(name), pieces, stated, revision=listing.commit)


def _ask(parcel: Parcel, settings: Settings, *, trust: bool, accept: bool) -> None:
    """Raise for a missing word of consent."""
    trust_first = needs_trust(parcel, settings) and not trust
    accept_first = needs_acceptance(parcel, settings) and not accept
    if not trust_first and not accept_first:
        return
    why = [f"its licence is {parcel.licence}, which was not accepted yet"] * accept_first
    why += ["the index does not state its SHA-256, so what comes would be taken on trust"] * trust_first
    options = " --trust" * trust_first + " --accept-licence" * accept_first
    origin_of = f" from {parcel.source}" if parcel.source != parcel.name else ""
    raise ConsentError(
        f"{parcel.name}{origin_of} is not fetched: {', and '.join(why)}.",
        f"`spherectl zoo fetch {parcel.name}{options}` fetches it; what is seen then is noted and compared next time.",
    )


def _compare(parcel: Parcel, seen: dict[str, str]) -> None:
    for piece in parcel.pieces:
        before = seen.get(piece.path)
        if seen and piece.sha256 and before != piece.sha256:
            what = piece.path or "the model file"
            raise FileError(
                f"{parcel.name} has changed since it was first fetched: {what} had SHA-256 {str(before)[:12]}..., "
                f"and {parcel.source} now states {piece.sha256[:12]}....",
                f"If that is right, `spherectl zoo rm {parcel.name} --forget`, and fetch it again.",
            )


def _check_model(path: Path) -> None:
    try:
        read_header(path)
    except FileError:
        path.unlink(missing_ok=True)
        raise
