"""Entries of a zoo index: what an index.toml may say, checked whole.

An embedded entry names a `file` beside the index. A remote one names `urls` and the SHA-256 that a fetched file must
have. One with a `page` alone is known to exist, but nobody has verified its files, hash and licence, so it is shown and
never fetched.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from spherectl.errors import FileError
from spherectl.fetch import check_relative, check_url
from spherectl.settings import Settings

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Table):
    """One measured number, with the command that measures it again."""

    metric: str
    value: float
    command: str


class Entry(_Table):
    """One [[entry]] of an index.

    Attributes:
        name: what --model and `features:NAME` call it.
        kind: a model that draws images, or a frozen feature network for losses and scores.
        file: for an embedded entry, the file beside the index.
        urls: for a remote entry, addresses of the one file, tried in order.
        page: for an entry that is only known of, where to read about it.
        sha256: of the file; a remote entry must have it.
        bytes: size of the file.
        licence: of the weights; "unknown" where nobody has stated it.
        data_licence: of the pictures it was trained on.
        recipe: name of the recipe it was trained by.
        summary: one line.
        channels, image_size, classes: what a model draws; 0 classes is unconditional.
        scores: measured numbers.
        default: whether this is the model of a fresh installation; one embedded model is.
    """

    name: Name
    kind: Literal["model", "features"]
    file: str | None = None
    urls: tuple[str, ...] = ()
    page: str | None = None
    sha256: Sha256 | None = None
    bytes: Annotated[int, Field(gt=0)] | None = None
    licence: str
    data_licence: str | None = None
    recipe: Name | None = None
    summary: str
    channels: Literal["rgb", "grey"]
    image_size: Annotated[int, Field(gt=0)]
    classes: Annotated[int, Field(ge=0)]
    scores: tuple[Score, ...] = ()
    default: bool = False
    _folder: Path = PrivateAttr(default=Path())  # of the index

    def model_post_init(self, context: Any, /) -> None:
        """Remember the index's folder, which `read_index` hands in."""
        self._folder = Path(context or "")

    @field_validator("file")
    @classmethod
    def _check_file(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is not None:
            check_relative(file)
            folder = Path(info.context or "")
            if not (folder / file).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"expected a file inside the index's folder, got a link out of it: {file!r}")
        return file

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            check_url(url)
        return urls

    @model_validator(mode="after")
    def _check(self) -> Entry:
        if sum(bool(source) for source in (self.file, self.urls, self.page)) != 1:
            raise ValueError("expected one of file, urls, page")
        if self.urls and self.sha256 is None:
            raise ValueError("urls without a sha256: a fetched file could not be verified")
        if self.default and (self.kind != "model" or not self.file):
            raise ValueError("default: only an embedded model can be the default")
        return self

    @property
    def card(self) -> Path:
        """Where its model card is, if it has one: NAME.md beside the index."""
        return self._folder / f"{self.name}.md"

    def path(self, settings: Settings) -> Path | None:
        """Where its file is, or would be once fetched; None for an entry that is only known of."""
        if self.file:
            return self._folder / self.file
        return settings.cache / cached_name(self) if self.urls else None

    def state(self, settings: Settings) -> Literal["here", "missing", "remote", "not verified"]:
        """Whether it can be used now, is lost from this installation, can be fetched, or is only known of."""
        path = self.path(settings)
        if path is None:
            return "not verified"
        if path.is_file():
            return "here"
        return "missing" if self.file else "remote"


class _Index(_Table):
    entry: tuple[Entry, ...] = ()


def read_index(path: Path) -> tuple[Entry, ...]:
    """The entries of one index file, in its order."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"Cannot read the zoo index {path}: {error}.") from None
    try:
        return _Index.model_validate(table, context=path.parent).entry
    except ValidationError as error:
        problems = "; ".join(_describe(item, table) for item in error.errors(include_url=False))
        raise FileError(f"The zoo index {path} is not valid: {problems}.") from None


def cached_name(entry: Entry) -> str:
    """Name of a remote entry's file below the cache."""
    return f"zoo/{entry.name}.safetensors"


def _describe(item: Any, table: dict[str, Any]) -> str:
    """One pydantic error as "entry NAME, key: what was expected"."""
    first, *path = item["loc"]
    if path and isinstance(path[0], int):
        entry = table["entry"][path[0]]
        name = entry.get("name", f"number {path[0] + 1}") if isinstance(entry, dict) else f"number {path[0] + 1}"
        first, path = f"entry {name}", path[1:]
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "unknown key"
    elif item["type"] == "string_pattern_mismatch" and path[-1:] == ["sha256"]:
        message = "expected 64 hexadecimal digits"
    where = ", ".join([str(first), ".".join(map(str, path))] if path else [str(first)])
    return f"{where}: {message[0].lower()}{message[1:]}"
