"""Entries of a zoo index: what an index.toml may say, checked whole.

An entry says where its model is to be had, in one of these ways:

    file = "NAME.safetensors"                 embedded: lies beside the index
    urls = ["https://..."]                    one model file, fetched from the first address that gives it
    published = "https://.../folder/"         a folder in the published layout; `files` names what is in it
    hub = "user/repo"                         a repository of the Hugging Face hub, listed when it is fetched

One with a `page` alone is known to exist, and shown, but cannot be fetched.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from spherectl.documents import MAX_TOML
from spherectl.fetch import check_relative, check_url, refuse_archive
from spherectl.files import is_regular
from spherectl.model.formats import layouts
from spherectl.recipe import MAX_CLASSES, MAX_IMAGE_SIZE
from spherectl.settings import Settings
from spherectl.shown import quoted

MODEL_SUFFIX = ".safetensors"

MAX_INDEX = MAX_TOML  # bytes; room for some 3,000 entries
MAX_ENTRIES = 3_000
MAX_NAME = 100  # characters; names become those of files
MAX_TEXT = 1_000  # characters of a summary, a licence, a command
MAX_ADDRESSES = 16  # of one file
MAX_SCORES = 200
MAX_SHOWN = 5  # mistakes of an index that its error repeats

# User and name as the hub allows them. "--" is how we write the slash in names of files.
_REPO = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")


def check_repo(repo: str) -> str:
    """The name of a repository of the hub, user/repo.

    Raises:
        ValueError: it is none.
    """
    if not _REPO.fullmatch(repo):
        raise ValueError(f"expected user/repo, got {quoted(repo)}")
    return repo


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=MAX_NAME)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="64 hexadecimal digits")]
Bytes = Annotated[int, Field(strict=True, gt=0, lt=1 << 50)]
Repo = Annotated[str, AfterValidator(check_repo)]


class Table(BaseModel):
    """What all tables of an index have in common: they are frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(Table):
    """One measured number, with the command that measures it again."""

    metric: Text
    value: Annotated[float, Field(strict=True)]
    command: Text


class PublishedFile(Table):
    """One file of a folder in the published layout.

    Attributes:
        path: below the folder, one of the layout's files.
        sha256, bytes: of it; without a hash it is fetched on trust alone.
    """

    path: str
    sha256: Sha256 | None = None
    bytes: Bytes | None = None

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        check_relative(path)
        refuse_archive(path)
        return layouts.check_file(path)


class Entry(Table):
    """One [[entry]] of an index.

    Attributes:
        name: what --model and `features:NAME` call it.
        kind: a model that generates images, or a frozen feature network for losses and scores.
        file: for an embedded entry, the file beside the index.
        urls: addresses of one model file, tried in order.
        published: address of a folder in the published layout, ending in /.
        files: what is in that folder: its settings and one checkpoint.
        hub: a repository of the Hugging Face hub, as user/repo.
        revision: of the repository: a branch, a tag or a commit.
        folder: in the repository, where the name of the entry does not tell which of its folders is meant.
        page: where to read about it.
        sha256: of the file; without it a remote entry is fetched on trust alone.
        bytes: size of the file.
        licence: of the weights; "unknown" where nobody has stated it.
        data_licence: of the images it was trained on.
        recipe: name of the recipe it was trained by.
        summary: one line.
        channels, image_size, classes: what a model generates; 0 classes is unconditional.
        scores: measured numbers.
        default: whether this is the model of a fresh installation; one embedded model is.
    """

    name: Name
    kind: Literal["model", "features"]
    file: str | None = None
    urls: Annotated[tuple[str, ...], Field(max_length=MAX_ADDRESSES)] = ()
    published: str | None = None
    files: Annotated[tuple[PublishedFile, ...], Field(max_length=MAX_ADDRESSES)] = ()
    hub: Repo | None = None
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$", max_length=MAX_NAME)] = "main"
    folder: Text | None = None
    page: Text | None = None
    sha256: Sha256 | None = None
    bytes: Bytes | None = None
    licence: Text
    data_licence: Text | None = None
    recipe: Name | None = None
    summary: Text
    channels: Literal["rgb", "grey"]
    image_size: Annotated[int, Field(strict=True, gt=0, le=MAX_IMAGE_SIZE)]
    classes: Annotated[int, Field(strict=True, ge=0, le=MAX_CLASSES)]
    scores: Annotated[tuple[Score, ...], Field(max_length=MAX_SCORES)] = ()
    default: Annotated[bool, Field(strict=True)] = False
    _folder: Path = PrivateAttr(default=Path())  # of the index
    _card_url: str = PrivateAttr(default="")

    def model_post_init(self, context: Any, /) -> None:
        """Remember the index's folder, which `read_index` hands in."""
        self._folder = Path(context or "")

    @field_validator("file")
    @classmethod
    def _check_file(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is not None:
            check_relative(file)
            _check_model_name(file)
            folder = Path(info.context or "")
            if not _is_inside(folder / file, folder):
                raise ValueError(f"expected a file inside the index's folder, got a link out of it: {quoted(file)}")
        return file

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            check_url(url)
            refuse_archive(url.partition("?")[0])
        return urls

    @field_validator("published")
    @classmethod
    def _check_published(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url)
            refuse_archive(url.rstrip("/"))
            if not url.endswith("/"):
                raise ValueError(f"expected the address of a folder, ending in /, got {quoted(url)}")
        return url

    @field_validator("folder")
    @classmethod
    def _check_folder(cls, folder: str | None) -> str | None:
        if folder is not None:
            check_relative(folder)
        return folder

    @model_validator(mode="after")
    def _check(self) -> Entry:
        sources = sum(bool(source) for source in (self.file, self.urls, self.published, self.hub))
        if sources > 1 or not (sources or self.page):
            raise ValueError("expected one of file, urls, published, hub, page")
        if bool(self.published) != bool(self.files):
            raise ValueError("published and files: expected both or neither")
        if self.published and not layouts.is_model([file.path for file in self.files]):
            raise ValueError(
                f"files: expected {' or '.join(f'{one.config} and one {one.checkpoint}' for one in layouts.LAYOUTS)}"
            )
        if (self.published or self.hub) and (self.sha256 or self.bytes or self.kind != "model"):
            raise ValueError("published and hub are for models, and sha256 and bytes for one file")
        if self.default and (self.kind != "model" or not self.file):
            raise ValueError("default: only an embedded model can be the default")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether it can be fetched."""
        return bool(self.urls or self.published or self.hub)

    @property
    def source(self) -> str:
        """Where it comes from, in a word: an address, a repository, a file; empty if it is only known of."""
        return self.file or (self.urls[0] if self.urls else "") or self.published or (f"hf:{self.hub}" * bool(self.hub))

    @property
    def size(self) -> int | None:
        """Bytes in all, if the index says so."""
        sizes = [file.bytes for file in self.files] or [self.bytes]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def card(self) -> Path:
        """Where its model card is, if it has one: NAME.md beside the index."""
        return self._folder / f"{self.name}.md"

    @property
    def has_card(self) -> bool:
        """Whether there is a file of that name, in the index's folder itself."""
        return is_regular(self.card) and _is_inside(self.card, self._folder)

    @property
    def card_url(self) -> str:
        """Where its card is fetched from, if its index has an address; else empty."""
        return self._card_url

    def remember_card_url(self, url: str) -> None:
        """Say where its card is fetched from."""
        self._card_url = url

    def path(self, settings: Settings) -> Path | None:
        """Where its file (or published folder) is, or would be once fetched; None for what is only known of."""
        if self.file:
            return self._folder / self.file
        return cached_path(f"zoo/{self.name}", settings) if self.is_remote else None

    def state(self, settings: Settings) -> Literal["here", "missing", "remote", "known of"]:
        """Whether it can be used now, is lost from this installation, can be fetched, or is only known of."""
        path = self.path(settings)
        if path is None:
            return "known of"
        if is_present(path):
            return "here"
        return "missing" if self.file else "remote"


def cached_path(place: str, settings: Settings) -> Path:
    """Where what was fetched to a place below the cache is, or would be: a model file, or a published folder.

    A folder gives way to the file that is made of it.
    """
    file, folder = settings.cache / f"{place}{MODEL_SUFFIX}", settings.cache / place
    return folder if layouts.is_whole(folder) and not is_regular(file) else file


def is_present(path: Path) -> bool:
    """Whether there is a model: a file or a folder, no pipe and no device; never raises."""
    try:
        return path.is_dir() or path.is_file()
    except (OSError, ValueError):
        return False


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, all links followed, is in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links that lead to each other
        return False


def _check_model_name(file: str) -> None:
    refuse_archive(file)
    if not file.endswith(MODEL_SUFFIX):
        raise ValueError(f"expected a {MODEL_SUFFIX} file, got {quoted(file)}")
