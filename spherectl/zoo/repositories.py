"""Names of models on the Hugging Face hub, and which files of a repository a name means."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from spherectl.errors import UsageError
from spherectl.fetch import ARCHIVE, MAX_PART, check_relative
from spherectl.model.formats.layouts import LAYOUTS
from spherectl.shown import listed, quoted
from spherectl.zoo.entries import MODEL_SUFFIX, check_repo

PREFIX = "hf:"
MAX_HUB_NAME = 200  # characters of all but hf:; it becomes the name of a file
_NAME = re.compile(r"hf:(?P<repo>[^/@]+/[^/@]+)(?P<folder>/[^@]+)?(@(?P<revision>[A-Za-z0-9][A-Za-z0-9_./-]*))?")


@dataclass(frozen=True)
class HubName:
    """A model on the hub, as people type it: hf:user/repo[/folder][@revision].

    Attributes:
        repo: user/repo.
        folder: in it, or one model file; empty where there is only one model.
        revision: a branch, a tag or a commit.
    """

    repo: str
    folder: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}{f'/{self.folder}' if self.folder else ''}" + (
            f"@{self.revision}" if self.revision != "main" else ""
        )


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: bytes, and its SHA-256 if it is one that the hub keeps by hash (all large ones)."""

    bytes: int | None
    sha256: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit.

    Attributes:
        repo: user/repo.
        commit: 40 hexadecimal digits.
        licence: as its card says; "unknown" if it does not.
        files: by path.
    """

    repo: str
    commit: str
    licence: str
    files: dict[str, HubFile]


def parse_name(text: str) -> HubName:
    """What hf:user/repo[/folder][@revision] means.

    Raises:
        UsageError: it is not of that form.
    """
    match = _NAME.fullmatch(text) if len(text) <= len(PREFIX) + MAX_HUB_NAME else None
    if match is not None:
        repo, folder = match["repo"], (match["folder"] or "").strip("/")
        with contextlib.suppress(ValueError):
            check_repo(repo)
            if folder:
                check_relative(folder)
            return HubName(repo, folder, match["revision"] or "main")
    raise UsageError(f"Expected hf:user/repo, hf:user/repo@revision or hf:user/repo/folder, got {quoted(text)}.")


def hub_place(name: HubName) -> str:
    """Where a model of the hub is kept, below the cache.

    Raises:
        UsageError: the name is too long for a file's.
    """
    file = re.sub(r"[^A-Za-z0-9._@-]", "--", str(name).removeprefix(PREFIX))
    if len(file) > MAX_PART:
        raise UsageError(f"{name} is too long a name: as that of a file it has {len(file)} characters of {MAX_PART}.")
    return f"zoo/hf/{file}"


def choose(listing: Listing, name: HubName, wanted: str = "") -> tuple[str, ...]:
    """Paths of one model's files: a model file of ours, or the settings and newest checkpoint of a published folder.

    Args:
        listing: of the repository.
        name: whose folder, if it names one, is where to look.
        wanted: a word with hyphens, all parts of which the folder's path must have if there are several.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    found = _models(listing.files)
    below = {place: paths for place, paths in found.items() if _is_below(place, name.folder)}
    if name.folder in below:
        return below[name.folder]
    if len(below) > 1 and wanted:
        parts = set(_words(wanted))
        below = {place: paths for place, paths in below.items() if parts <= set(_words(place))} or below
    if len(below) == 1:
        return next(iter(below.values()))
    where = f"{name.folder} of {PREFIX}{name.repo}" if name.folder else f"{PREFIX}{name.repo}"
    if not found:
        archives = [path for path in listing.files if ARCHIVE.search(path)]
        but = f"; archives such as {archives[0]} are never unpacked" if archives else ""
        known = ", or ".join(f"{layout.config} beside {layout.checkpoint}" for layout in LAYOUTS)
        raise UsageError(f"{where} holds no model: expected one {MODEL_SUFFIX} file, or {known}{but}.")
    names = listed(sorted(below or found), 6)
    one = HubName(name.repo, min(found), name.revision)
    raise UsageError(f"{where} holds several models, or none of that name: {names}.", f"Say which, as in {one}.")


def _models(files: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Files of each model in a repository, by its folder or its file."""
    models: dict[str, tuple[str, ...]] = {path: (path,) for path in files if path.endswith(MODEL_SUFFIX)}
    for layout in LAYOUTS:
        models |= layout.models(files)
    return models


def _is_below(place: str, folder: str) -> bool:
    return not folder or place == folder or place.startswith(f"{folder}/")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
