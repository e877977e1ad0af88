"""Fetching one model: which files it has, whether they may come, and what came."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import fetch_file, file_hash
from spherectl.files import is_regular, replacing
from spherectl.model.formats.header import read_header
from spherectl.model.formats.layouts import below
from spherectl.progress import Progress, part_of
from spherectl.settings import Settings
from spherectl.zoo import hub
from spherectl.zoo.entries import MODEL_SUFFIX, Entry, cached_path, is_present
from spherectl.zoo.receipts import load_receipt, save_receipt
from spherectl.zoo.repositories import HubName, Listing, choose, hub_place

FREE = {
    *("apache-2.0", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "unlicense", "0bsd", "zlib", "bsl-1.0", "mpl-2.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-3.0", "cc-by-sa-3.0", "public-domain", "cdla-permissive-2.0"),
}


class ConsentError(UsageError):
    """A fetch needs a word first: that a licence is accepted, or that an unverified source is trusted."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a model.

    Attributes:
        path: what it is called in the layout; empty for a model file.
        urls: addresses, tried in order; of a file on the hub its path in the repository.
        sha256: that the index, the hub or an earlier fetch states; empty if nobody does.
        bytes: of it, if they are known.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str = ""
    bytes: int | None = None


@dataclass(frozen=True)
class Download:
    """The files of one model, found but not yet fetched.

    Attributes:
        name: of the entry, or hf:user/repo.
        place: below the cache, without a suffix.
        source: address or repository.
        files: one model file, or the two files of a published checkpoint.
        licence: of the weights.
        receipt: of an earlier fetch; empty if there was none.
        listing: of the repository; None for files with addresses.
        known: whether the index states all hashes, so that nothing is taken on trust.
        facts: of the entry, which a conversion compares with and puts into its header.
    """

    name: str
    place: str
    source: str
    files: tuple[RemoteFile, ...]
    licence: str
    receipt: dict[str, Any]
    listing: Listing | None = None
    known: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int | None:
        """Of all files, if they are known."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def revision(self) -> str:
        """Commit of a repository; empty for files with addresses."""
        return self.listing.commit if self.listing else ""

    @property
    def needs_trust(self) -> bool:
        """Whether nobody has said what the files must be: neither the index nor an earlier fetch."""
        return not self.known and not self.receipt.get("files")

    @property
    def needs_acceptance(self) -> bool:
        """Whether the licence is non-free or unknown, and was not accepted yet."""
        return not is_free(self.licence) and self.receipt.get("accepted") != self.licence


def find_download(entry: Entry, settings: Settings) -> Download:
    """The files of a remote entry; a repository of the hub is listed, at the commit that was seen before if any was.

    Raises:
        UsageError: the repository has no such model, or may not be read.
        SpherectlError: no answer from the hub, or offline.
    """
    place = f"zoo/{entry.name}"
    facts = entry.model_dump(include={"kind", "classes", "image_size", "data_licence", "recipe", "licence"})
    if entry.hub:
        found = _on_the_hub(HubName(entry.hub, entry.folder or "", entry.revision), place, settings, entry.name)
        licence = found.licence if entry.licence == "unknown" else entry.licence
        return replace(found, name=entry.name, licence=licence, facts=facts)
    if entry.published:
        files = tuple(
            RemoteFile(file.path, (f"{entry.published}{file.path}",), file.sha256 or "", file.bytes)
            for file in entry.files
        )
    else:
        files = (RemoteFile("", entry.urls, entry.sha256 or "", entry.bytes),)
    known = all(file.sha256 for file in files)
    receipt = load_receipt(place, settings)
    return Download(entry.name, place, entry.source, files, entry.licence, receipt, known=known, facts=facts)


def find_hub_download(name: HubName, settings: Settings) -> Download:
    """The files of a model that was named by its repository; naming it is trusting it."""
    return replace(_on_the_hub(name, hub_place(name), settings), known=True)


def find_on_the_hub(name: HubName, settings: Settings, progress: Progress | None = None) -> tuple[Path, str]:
    """A model of the hub and its commit: as it was fetched before, without asking again; else fetched now."""
    place = hub_place(name)
    path = cached_path(place, settings)
    if not is_present(path):
        path = fetch_download(find_hub_download(name, settings), settings, progress)
    return path, str(load_receipt(place, settings).get("revision", ""))


def licence_id(licence: str) -> str:
    """A licence as the hub spells it: "CC BY 4.0" is cc-by-4.0."""
    return re.sub(r"[^a-z0-9.]+", "-", licence.strip().lower()).strip("-")


def is_free(licence: str) -> bool:
    """Whether a licence is one of those that need no word of consent."""
    return licence_id(licence) in FREE


def fetch_download(
    download: Download,
    settings: Settings,
    progress: Progress | None = None,
    *,
    trust: bool = False,
    accept: bool = False,
) -> Path:
    """Fetch the files of a model into the cache, and write a receipt of what was seen.

    Args:
        download: from `find_download`.
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
        return _fetch(download, settings, progress)
    _ask(download, trust=trust, accept=accept)
    base = settings.cache / download.place
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(base.with_name(f".{base.name}.lock")):
            if accept and download.needs_acceptance:
                save_receipt(download.place, settings, name=download.name, accepted=download.licence)
            now = replace(download, receipt=load_receipt(download.place, settings))  # of who held the lock before
            return _fetch(now, settings, progress)
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(f"Cannot write to the cache {base.parent}: {error.strerror or error}.") from None


def _ask(download: Download, *, trust: bool, accept: bool) -> None:
    """Raise for a missing word of consent."""
    trust_first = download.needs_trust and not trust
    accept_first = download.needs_acceptance and not accept
    if not trust_first and not accept_first:
        return
    why = [f"its licence is {download.licence}, which was not accepted yet"] * accept_first
    why += ["the index does not state its SHA-256, so what comes would be taken on trust"] * trust_first
    options = " --trust" * trust_first + " --accept-licence" * accept_first
    origin_of = f" from {download.source}" if download.source != download.name else ""
    raise ConsentError(
        f"{download.name}{origin_of} is not fetched: {', and '.join(why)}.",
        f"`spherectl zoo fetch {download.name}{options}` fetches it; what comes is noted and compared next time.",
    )


def _fetch(download: Download, settings: Settings, progress: Progress | None) -> Path:
    """All files of a model, as the index states them or as they were seen before."""
    seen: dict[str, str] = download.receipt.get("files", {})
    if download.listing or not download.known:
        _compare(download, seen)
    made = settings.cache / f"{download.place}{MODEL_SUFFIX}"
    if len(download.files) > 1 and is_regular(made):  # the model that was made of the folder
        if all(file.sha256 in ("", seen.get(file.path)) for file in download.files):
            return made
        made.unlink()
    found, done = {}, 0
    for file in download.files:
        sha256 = file.sha256 or seen.get(file.path, "")
        path = _fetch_file(download, file, sha256, settings, part_of(progress, done, download.bytes))
        done += path.stat().st_size
        found[file.path] = file_hash(path)
    if not settings.offline:
        facts = {key: value for key, value in download.facts.items() if value is not None}
        about = {"name": download.name, "source": download.source, "revision": download.revision}
        about["licence"] = download.licence
        save_receipt(download.place, settings, **about, bytes=done, files=found, facts=facts)
    return cached_path(download.place, settings)


def _fetch_file(
    download: Download, file: RemoteFile, sha256: str, settings: Settings, progress: Progress | None
) -> Path:
    filename = f"{download.place}/{file.path}" if file.path else f"{download.place}{MODEL_SUFFIX}"
    path = settings.cache / filename
    if download.listing:
        _fetch_from_hub(download, file, sha256, path, progress)
    else:
        if not sha256 and not settings.offline:  # what an earlier fetch left without noting it
            path.unlink(missing_ok=True)
        fetch_file(file.urls, filename, sha256=sha256, size=file.bytes, progress=progress, settings=settings)
    if not file.path:
        try:
            read_header(path)
        except FileError:
            path.unlink(missing_ok=True)
            raise
    return path


def _fetch_from_hub(download: Download, file: RemoteFile, sha256: str, path: Path, progress: Progress | None) -> None:
    """A file in the hub's own cache, with a link to it in ours (a copy where the system has no links)."""
    assert download.listing is not None
    came = hub.fetch(download.listing, file.urls[0], progress).absolute()
    if sha256 and file_hash(came) != sha256:
        hub.remove(came)
        raise SpherectlError(
            f"What came from {download.source} is not {file.path or path.name} as it is known: its SHA-256 is not "
            f"{sha256[:12]}..., so it was not kept."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(came)
    except OSError:  # Windows allows links to some users only
        with replacing(path) as temporary:
            shutil.copyfile(came, temporary)


def _on_the_hub(name: HubName, place: str, settings: Settings, wanted: str = "") -> Download:
    if why := hub.offline(settings):
        raise hub.not_here(name, why)
    receipt = load_receipt(place, settings)
    listing = hub.list_files(replace(name, revision=str(receipt.get("revision") or name.revision)))
    listed = {path: listing.files[path] for path in choose(listing, name, wanted)}
    files = tuple(RemoteFile(below(path) or "", (path,), one.sha256, one.bytes) for path, one in listed.items())
    return Download(str(name), place, str(name), files, listing.licence, receipt, listing)


def _compare(download: Download, seen: dict[str, str]) -> None:
    for file in download.files:
        before = seen.get(file.path)
        if seen and file.sha256 and before != file.sha256:
            what = file.path or "the model file"
            raise FileError(
                f"{download.name} has changed since it was first fetched: {what} had SHA-256 {str(before)[:12]}..., "
                f"and {download.source} now states {file.sha256[:12]}....",
                f"If that is right, `spherectl zoo rm {download.name} --forget`, and fetch it again.",
            )
