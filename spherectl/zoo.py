"""The zoo: models and feature networks that travel with the package or can be fetched, and finding a model by any name.

`zoo/index.toml` lists the entries. An embedded one names a `file` beside the index. A remote one names `urls` and the
SHA-256 that a fetched file must have. One with a `page` alone is known to exist, but nobody has verified its files,
hash and licence, so it is shown and never fetched. Nothing here imports torch: listing and finding must stay quick.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePath
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

from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import Progress, check_relative, check_url, fetch_url, file_hash
from spherectl.settings import Settings, load_settings, origin, packaged

__all__ = [
    "Entry",
    "Found",
    "Progress",
    "Score",
    "fetch",
    "fetch_url",
    "find_entry",
    "find_model",
    "find_recipe",
    "index",
    "newest_run",
    "read_header",
    "read_index",
    "verify",
]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MODEL_FILE = "model.safetensors"  # what a run folder keeps its model in


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
        return settings.cache / _cached_name(self) if self.urls else None

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


@dataclass(frozen=True)
class Found:
    """A model that was found.

    Attributes:
        path: the model file (of a run: its model.safetensors), or the published checkpoint folder.
        name: of the zoo entry, the run, the folder, or the file without its suffix.
        kind: where it was found.
        reason: one line that says which model was taken and why.
    """

    path: Path
    name: str
    kind: Literal["file", "run", "published", "zoo"]
    reason: str


def index(settings: Settings | None = None) -> dict[str, Entry]:
    """All entries by name: the zoo's own, then those of the setting `zoo_index`.

    Raises:
        FileError: an index cannot be read, is not valid (all mistakes at once), repeats a name, or names a file outside
            its folder.
    """
    settings = settings or load_settings()
    entries: dict[str, Entry] = {}
    for path in (packaged("zoo") / "index.toml", *settings.zoo_index):
        for entry in read_index(path):
            if entry.name in entries:
                raise FileError(f"{path}: the name {entry.name} occurs twice; names must be unique over all indexes.")
            entries[entry.name] = entry
    return entries


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


def find_entry(name: str, settings: Settings | None = None) -> Entry:
    """The entry of that name.

    Raises:
        UsageError: there is none.
    """
    entries = index(settings)
    if name not in entries:
        raise UsageError(f"There is no {name!r} in the zoo.", _suggest(name, list(entries)))
    return entries[name]


def find_model(text: str | None = None, settings: Settings | None = None) -> Found:
    """The model that a command should use.

    Args:
        text: a zoo name, a model file, a run folder, or a published checkpoint folder. A zoo name goes before a path of
            the same name (write ./NAME for that). None: the setting `model`, else the newest run that has a model (its
            recipe not saying `run.default = false`), else the zoo's default.
        settings: where to look; None: those in force.

    Raises:
        UsageError: there is no such model, or it is not here.
        FileError: the path is something else, or an embedded file is missing.
    """
    settings = settings or load_settings()
    if text is not None:
        return _find(text, "as asked for", settings)
    if settings.model is not None:
        return _find(settings.model, f"from {origin('model')}", settings)
    run = newest_run(settings.runs)
    if run is not None:
        return Found(run / MODEL_FILE, run.name, "run", f"model: {run} (newest run)")
    for entry in index(settings).values():
        if entry.default:
            return _zoo_model(entry, f"the zoo's default; no run in {settings.runs} has a model yet", settings)
    raise UsageError("There is no model to use: no run has one, and the zoo has no default.", "Name one with --model.")


def newest_run(runs: Path) -> Path | None:
    """The run folder whose model was written last, of those that may be picked without being named."""
    models = [path for path in runs.glob(f"*/{MODEL_FILE}") if path.is_file() and _may_be_picked(path.parent)]
    newest = max(models, key=lambda path: (path.stat().st_mtime_ns, path.parent.name), default=None)
    return newest.parent if newest else None


def find_recipe(text: str) -> Path:
    """The recipe file that a command means: a path, or a packaged recipe as NAME, NAME.toml or recipes/NAME.toml.

    Raises:
        UsageError: there is no such recipe.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return path
    recipes = packaged("recipes")
    if PurePath(text).parts[:-1] in ((), ("recipes",)):
        inside = recipes / f"{PurePath(text).name.removesuffix('.toml')}.toml"
        if inside.is_file():
            return inside
    names = sorted(file.stem for file in recipes.glob("*.toml"))
    raise UsageError(f"There is no recipe {text!r}.", _suggest(path.stem, names, "`spherectl recipes ls` lists them."))


def fetch(entry: Entry, settings: Settings | None = None, progress: Progress | None = None) -> Path:
    """The file of a remote entry, fetched into the cache unless it is there; of an embedded one, its own file.

    Raises:
        UsageError: the entry has no verified file to fetch.
        FileError: an embedded file is missing, or the cache cannot be written.
        SpherectlError: it cannot be fetched, or what came is not what the index says.
    """
    settings = settings or load_settings()
    if not entry.urls:
        return _present(entry, settings)
    for number, url in enumerate(entry.urls, start=1):
        try:
            return fetch_url(url, str(entry.sha256), _cached_name(entry), progress, settings)
        except FileError:
            raise
        except SpherectlError:
            if number == len(entry.urls):
                raise
    raise AssertionError("unreachable: the loop returns or raises")


def verify(entry: Entry, settings: Settings) -> str:
    """What is wrong with the file of an entry, compared with the index; the empty string if nothing is.

    An entry whose file is not here because it was not fetched has nothing wrong.
    """
    state, path = entry.state(settings), entry.path(settings)
    if path is None or state != "here":
        return f"{path} is missing" if state == "missing" else ""
    size, digest = path.stat().st_size, file_hash(path)
    if entry.sha256 is None or entry.bytes is None:
        return f"the index does not say its hash and size (sha256 = {digest!r}, bytes = {size})"
    if (size, digest) != (entry.bytes, entry.sha256):
        return f"{path} has {size} bytes and SHA-256 {digest}; the index says {entry.bytes} and {entry.sha256}"
    return ""


def read_header(path: Path) -> dict[str, Any]:
    """The `spherectl` header of a model or feature file, read without torch; its tensors are not looked at.

    Raises:
        FileError: it is not a safetensors file, or has no such header.
    """
    try:
        with path.open("rb") as file:
            # A damaged length must not ask for more memory than the file has bytes.
            length = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
            metadata = json.loads(file.read(length)).get("__metadata__", {})
        header = json.loads(metadata["spherectl"])
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise FileError(
            f"{path} is not a model file: it has no spherectl header.", "Fetch it or copy it again."
        ) from None
    return dict(header)


def _find(text: str, why: str, settings: Settings) -> Found:
    if text.startswith("hf:"):
        raise UsageError(
            f"{text}: this version does not fetch models from the Hugging Face hub.",
            "Download the repository's folder yourself and give its path to --model.",
        )
    entries = index(settings)
    if text in entries:
        return _zoo_model(entries[text], why, settings)
    path = Path(text).expanduser()
    if text.strip() and path.exists():
        return _model_at(path, why)
    names = [name for name, entry in entries.items() if entry.kind == "model"]
    runs = sorted(str(model.parent) for model in settings.runs.glob(f"*/{MODEL_FILE}"))
    raise UsageError(
        f"There is no model {text!r}: neither the zoo nor a path has that name.", _suggest(text, [*names, *runs])
    )


def _zoo_model(entry: Entry, why: str, settings: Settings) -> Found:
    if entry.kind != "model":
        raise UsageError(
            f"{entry.name} is a feature network for losses and scores; it draws no images.",
            "`spherectl zoo ls` lists the models.",
        )
    return Found(_present(entry, settings), entry.name, "zoo", f"model: {entry.name} ({why})")


def _present(entry: Entry, settings: Settings) -> Path:
    """The entry's file, which must be here and of the right size (its hash is `verify`'s business)."""
    path = entry.path(settings)
    if path is None:
        raise UsageError(
            f"{entry.name} is known but not verified: its file, hash and licence were never checked, so this version "
            "does not fetch it.",
            f"Read {entry.page}, download the folder yourself and give its path to --model.",
        )
    if not path.is_file():
        if entry.urls:
            raise UsageError(
                f"{entry.name} is not on this machine yet.", f"`spherectl zoo fetch {entry.name}` brings it."
            )
        raise FileError(
            f"The zoo's {entry.name} is missing from this installation: there is no {path}.", "Install spherectl again."
        )
    size = path.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        raise FileError(
            f"{path} has {size} bytes, the zoo's index says {entry.bytes}; it is damaged.",
            "Install spherectl or fetch the file again.",
        )
    return path


def _model_at(path: Path, why: str) -> Found:
    if path.is_file():
        if path.suffix == ".safetensors":
            if path.name == MODEL_FILE and (path.parent / "recipe.toml").is_file():
                return _model_at(path.parent, why)
            return Found(path, path.stem, "file", f"model: {path} ({why})")
        hint = "Give the folder that holds cfg.json and ckpt/." if path.suffix == ".pth" else ""
        raise FileError(f"{path} is not a model: expected a .safetensors file or a folder.", hint)
    name = path.resolve().name
    if (path / MODEL_FILE).is_file():
        return Found(path / MODEL_FILE, name, "run", f"model: {path} ({why})")
    if (path / "cfg.json").is_file() and (path / "ckpt").is_dir():
        return Found(path, name, "published", f"model: {path} ({why}, published checkpoint)")
    if (path / "recipe.toml").is_file():
        raise UsageError(
            f"The run {path} has no model yet: it gets one at its first checkpoint.",
            f"`spherectl train {path / 'recipe.toml'} --run {path}` goes on with it.",
        )
    raise FileError(
        f"The folder {path} is no model: expected {MODEL_FILE} (a run), or cfg.json and ckpt/ (a published checkpoint)."
    )


def _may_be_picked(run: Path) -> bool:
    """Whether the run's recipe leaves `run.default` on; a recipe that cannot be read does not turn it off."""
    try:
        table = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return True
    settings = table.get("run")
    return not isinstance(settings, dict) or settings.get("default") is not False


def _cached_name(entry: Entry) -> str:
    return f"zoo/{entry.name}.safetensors"


def _suggest(name: str, known: list[str], where: str = "") -> str:
    """The nearest known names, or all of them."""
    near = difflib.get_close_matches(name, known, n=3)
    listed = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(known) or 'none'}."
    return f"{listed} {where}".strip()


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
