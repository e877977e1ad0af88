"""The Hugging Face hub by its library: what a repository holds, its files, and errors in our sentences.

huggingface_hub has the cache, the token (HF_TOKEN or `hf auth login`), HF_ENDPOINT, HF_HUB_OFFLINE and the transfers.
It is imported when the hub is asked, never before. What a repository says is checked here: it comes from anyone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import MAX_FILE, check_relative, check_room, check_url
from spherectl.progress import Progress
from spherectl.settings import Settings, origin
from spherectl.shown import quoted, shortened
from spherectl.validation import validated
from spherectl.zoo.entries import MAX_TEXT
from spherectl.zoo.repositories import HubFile, HubName, Listing

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_FILES = 50_000  # in a repository; those of models have tens
TIMEOUT_S = 30
MAX_REASON = 200  # characters of the library's own words


class _Schema(BaseModel):
    """What is used of the library's answer; it says much more."""

    model_config = ConfigDict(strict=True, from_attributes=True)


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
    card_data: _Card | None = None


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


def offline(settings: Settings) -> str:
    """Which setting or variable says not to ask the hub; empty if none does."""
    if settings.offline:
        return origin("offline")
    said = os.environ.get("HF_HUB_OFFLINE", "").strip().upper()
    return "HF_HUB_OFFLINE" if said in ("1", "ON", "YES", "TRUE") else ""


def api(token: str | bool | None = None) -> HfApi:
    """The library's client of the server in force; a token of None is that of HF_TOKEN or `hf auth login`."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), token=token, library_name="spherectl")


def list_files(name: HubName) -> Listing:
    """What a repository holds at a revision.

    Raises:
        UsageError: there is no such repository or revision, or it may not be read.
        FileError: the answer is not as the API describes it.
        SpherectlError: no answer.
    """
    with asking(name):
        info = api().model_info(name.repo, revision=name.revision, files_metadata=True, timeout=TIMEOUT_S)
    answer = validated(_Answer, info, f"{endpoint()} does not answer as the Hugging Face hub does")
    stated = answer.card_data.license if answer.card_data else None
    licence = ", ".join(stated) if isinstance(stated, list) else stated
    files = {one.rfilename: one.file for one in answer.siblings}
    return Listing(name.repo, answer.sha, licence or "unknown", files)


def fetch(listing: Listing, path: str, progress: Progress | None = None) -> Path:
    """A file of a repository at a commit, in the library's cache.

    Raises:
        FileError: it is too large or not as large as the listing says, or the cache cannot be written.
        SpherectlError: it does not come.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils.tqdm import tqdm

    name, size = HubName(listing.repo), listing.files[path].bytes
    try:
        check_relative(path)
    except ValueError as error:
        raise FileError(f"{name} has a file that is not fetched: {error}.") from None
    if size is None or size > MAX_FILE:
        stated = "without a size" if size is None else f"of {size:,} bytes"
        raise FileError(f"{name} has a file {quoted(path)} {stated}; expected at most {MAX_FILE:,} bytes.")

    bound = size

    class Bar(tqdm):  # the library tells its progress to a bar alone
        done = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            if self.done > bound:
                raise FileError(f"What comes for {quoted(path)} of {name} has more than the {bound:,} bytes it states.")
            if progress is not None:
                progress(self.done, bound)

    cache = Path(constants.HF_HUB_CACHE)
    with asking(name):
        check_room(path, cache, size)
        came = hf_hub_download(
            listing.repo,
            path,
            revision=listing.commit,
            endpoint=endpoint(),
            library_name="spherectl",
            tqdm_class=Bar,
        )
    return Path(came)


def remove(pointer: Path) -> int:
    """Remove a file from the library's cache; the bytes that are free again, none where another revision has it too.

    Files elsewhere stay.
    """
    repo = next((folder.parent for folder in pointer.parents if folder.name == "snapshots"), None)
    if repo is None or not repo.name.startswith("models--") or not pointer.exists():
        return 0
    blob = pointer.resolve()
    pointer.unlink()
    if blob.parent != (repo / "blobs").resolve():
        return 0
    if any(other.resolve() == blob for other in (repo / "snapshots").rglob("*") if other.is_symlink()):
        return 0
    size = blob.stat().st_size
    blob.unlink()
    return size


@contextlib.contextmanager
def asking(name: HubName, *, writing: bool = False) -> Iterator[None]:
    """Turn what the library raises in the body into our sentences.

    Args:
        name: what is asked for.
        writing: whether it is an upload.
    """
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except SpherectlError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise _explained(error, name, writing) from None


def _explained(error: Exception, name: HubName, writing: bool) -> SpherectlError:
    """What a person can do about an error of the library, which may wrap the one that came first."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    page = f"{endpoint()}/{name.repo}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return not_here(name, "HF_HUB_OFFLINE")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if status in (401, 403):
        if writing:
            hint = "`hf auth login` takes a token that may write; the first part of the name is yours, or your group's."
            return UsageError(f"The hub does not let you write to {name}: it says {status}.", hint)
        hint = f"Check the name; if {page} asks for an agreement, accept it there, then `hf auth login` (or HF_TOKEN)."
        return UsageError(f"The hub does not show {name}: it says {status}.", hint)
    if status == 404:
        return UsageError(f"The hub has no {name}, or it has no such revision.", f"Look at {page}.")
    if status:
        return SpherectlError(f"The hub fails for {name}: the server says {status}.", "Try again later.")
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return SpherectlError(f"The hub does not answer for {name}: no answer for too long.", "Try again later.")
    if isinstance(error, errors.HTTPError | ConnectionError):  # type: ignore[attr-defined]
        return SpherectlError(f"The hub does not answer for {name}: no connection to {endpoint()}.")
    first = shortened((str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__, MAX_REASON)
    if isinstance(error, OSError):
        reason = error.strerror or first
        return FileError(f"{name}: {reason}.", "Make room, or name another folder for the hub's cache as HF_HOME.")
    if isinstance(error, LookupError | TypeError | AttributeError | ValueError):
        return FileError(f"{endpoint()} does not answer as the Hugging Face hub does: {first}.")
    return SpherectlError(f"{name}: {first}.")


def not_here(name: HubName, why: str) -> SpherectlError:
    """The error for a model that is not in the cache, and is not fetched because of a setting or variable."""
    return SpherectlError(
        f"{name} is not in the cache, and it is not fetched because {why} says to stay offline.",
        f"Where there is a network, `spherectl zoo fetch {name}` brings it.",
    )
