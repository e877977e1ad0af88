"""The zoo: models and feature networks that travel with the package or can be fetched, and finding a model by any name.

Nothing here imports torch: listing and finding must stay quick.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from spherectl.entries import Entry, Score, cached_name, read_index
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.fetch import Progress, fetch_url, file_hash
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

MODEL_FILE = "model.safetensors"  # what a run folder keeps its model in


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
            return fetch_url(url, str(entry.sha256), cached_name(entry), progress, settings)
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


def _suggest(name: str, known: list[str], where: str = "") -> str:
    """The nearest known names, or all of them."""
    near = difflib.get_close_matches(name, known, n=3)
    listed = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(known) or 'none'}."
    return f"{listed} {where}".strip()
