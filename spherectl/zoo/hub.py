"""The Hugging Face hub through its public API: what a repository holds, and addresses of its files.

Plain requests, not huggingface_hub: that package has a cache, locks, bars and retries of its own, and would bypass the
rules that hold for every other file here (a hash before the name, no step back to http, one place to look and to
clean up). Two addresses are all that is needed.

HF_ENDPOINT names another server that speaks the API; HF_TOKEN is sent to that server and to no other.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spherectl.documents import parse_table
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import ARCHIVE, RefusedError, check_relative, check_url, fetch_text
from spherectl.shown import listed, quoted
from spherectl.tables import describe
from spherectl.zoo.entries import CHECKPOINT, CONFIG, MAX_TEXT, MODEL_SUFFIX, check_repo

PREFIX = "hf:"
MAX_HUB_NAME = 200  # characters of all but hf:; it becomes the name of a file
MAX_FILES = 50_000  # in a repository; those of models have tens
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


class _Schema(BaseModel):
    """What is used of the hub's answer; it says much more."""

    model_config = ConfigDict(strict=True)


class _Large(_Schema):
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Sibling(_Schema):
    rfilename: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    size: Annotated[int, Field(ge=0)] | None = None
    lfs: _Large | None = None

    @property
    def file(self) -> HubFile:
        size = self.lfs.size if self.lfs else self.size
        return HubFile(size or None, self.lfs.sha256 if self.lfs else "")


Licence = Annotated[str, Field(max_length=MAX_TEXT)]


class _Card(_Schema):
    license: Licence | Annotated[list[Licence], Field(max_length=20)] | None = None


class _Answer(_Schema):
    sha: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    siblings: Annotated[list[_Sibling], Field(max_length=MAX_FILES)]
    cardData: _Card | None = None  # noqa: N815 - the hub's spelling


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

    def url(self, path: str) -> str:
        """Address of a file at this commit."""
        return f"{endpoint()}/{self.repo}/resolve/{self.commit}/{urllib.parse.quote(path)}"


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


def endpoint() -> str:
    """The server: HF_ENDPOINT, else huggingface.co.

    Raises:
        UsageError: HF_ENDPOINT is neither encrypted nor on this machine.
    """
    named = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    try:
        check_url(named)
    except ValueError as error:
        raise UsageError(f"HF_ENDPOINT: {error}.") from None
    return named


def headers(address: str) -> dict[str, str]:
    """What a request to an address carries: the token in HF_TOKEN, for the hub itself and nobody it redirects to."""
    token, ours, other = os.environ.get("HF_TOKEN", "").strip(), *map(urllib.parse.urlsplit, (endpoint(), address))
    if not token or (ours.scheme, ours.netloc) != (other.scheme, other.netloc):
        return {}
    return {"Authorization": f"Bearer {token}"}


def list_files(name: HubName) -> Listing:
    """What a repository holds at a revision.

    Raises:
        UsageError: there is no such repository or revision, or it may not be read without a token.
        FileError: the answer is not as the API describes it.
        SpherectlError: no answer.
    """
    url = f"{endpoint()}/api/models/{name.repo}/revision/{urllib.parse.quote(name.revision, safe='')}?blobs=true"
    try:
        text = fetch_text(url, "the list of files", headers)
    except RefusedError as error:
        raise explained(error, name) from None
    try:
        answer = _Answer.model_validate(
            parse_table(text, f"{url} does not answer as the Hugging Face hub does: what it says")
        )
    except ValidationError as error:
        wrong = listed(describe(error, _Answer), 3, "; ")
        raise FileError(f"{url} does not answer as the Hugging Face hub does: {wrong}.") from None
    stated = answer.cardData.license if answer.cardData else None
    licence = ", ".join(stated) if isinstance(stated, list) else stated
    files = {one.rfilename: one.file for one in answer.siblings}
    return Listing(name.repo, answer.sha, licence or "unknown", files)


def explained(error: RefusedError, name: HubName) -> SpherectlError:
    """A refusal of the hub, in the words of what a person can do about it."""
    if error.status in (401, 403):
        return UsageError(
            f"The hub does not show {name}: it says {error.status}.",
            f"Check the name; if {endpoint()}/{name.repo} asks for an agreement, accept it there and set HF_TOKEN.",
        )
    if error.status == 404:
        return UsageError(f"The hub has no {name}, or it has no such revision.", f"Look at {endpoint()}/{name.repo}.")
    return error


def choose(listing: Listing, name: HubName, wanted: str = "") -> tuple[str, ...]:
    """Paths of one model's files: a model file of ours, or cfg.json and the newest checkpoint of a published folder.

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
        raise UsageError(
            f"{where} holds no model: expected one {MODEL_SUFFIX} file, or {CONFIG} beside ckpt/ep####.pth{but}."
        )
    names = listed(sorted(below or found), 6)
    raise UsageError(f"{where} holds several models, or none of that name: {names}.", _how_to_name(name, found))


def _how_to_name(name: HubName, found: Collection[str]) -> str:
    one = HubName(name.repo, min(found), name.revision)
    return f"Say which, as in {one}."


def _models(files: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Files of each model in a repository, by its folder or its file."""
    models: dict[str, tuple[str, ...]] = {path: (path,) for path in files if path.endswith(MODEL_SUFFIX)}
    newest: dict[str, tuple[int, str]] = {}  # number and path of a checkpoint, by the folder that its ckpt/ is in
    for path in files:
        folder, _, below = f"/{path}".rpartition("/ckpt/")
        if CHECKPOINT.fullmatch(f"ckpt/{below}"):
            number = int(re.sub(r"[^0-9]", "", below))
            newest[folder[1:]] = max(newest.get(folder[1:], (-1, "")), (number, path))
    for path in files:
        folder, _, last = path.rpartition("/")
        if last == CONFIG and folder in newest:
            models[folder] = (path, newest[folder][1])
    return models


def _is_below(place: str, folder: str) -> bool:
    return not folder or place == folder or place.startswith(f"{folder}/")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
