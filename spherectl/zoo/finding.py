"""Finding a model by name, path or run, and a recipe; fetching and verifying an entry of the zoo."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from spherectl.documents import parse_toml
from spherectl.errors import FileError, UsageError
from spherectl.fetch import file_hash, refuse_archive
from spherectl.files import is_regular, read_text
from spherectl.model.formats import layouts
from spherectl.places import place
from spherectl.progress import Progress
from spherectl.settings import Settings, load_settings, origin, packaged
from spherectl.shown import listed, quoted
from spherectl.zoo.catalogue import index
from spherectl.zoo.download import fetch_download, find_download, find_on_the_hub
from spherectl.zoo.entries import MAX_NAME, MODEL_SUFFIX, Entry, is_present
from spherectl.zoo.receipts import verify_fetched
from spherectl.zoo.repositories import PREFIX, parse_name

MODEL_FILE = "model.safetensors"  # what a run folder keeps its model in


@dataclass(frozen=True)
class Found:
    """A model that was found.

    Attributes:
        path: the model file (of a run: its model.safetensors), or the published checkpoint folder.
        name: of the zoo entry, the run, the folder, or the file without its suffix.
        kind: where it was found: "file", "run", "zoo", "hub", or the name of a layout (`formats.layouts`).
        reason: one line that says which model was taken and why.
    """

    path: Path
    name: str
    kind: str
    reason: str


def find_entry(name: str, settings: Settings | None = None) -> Entry:
    """The entry of that name.

    Raises:
        UsageError: there is none.
    """
    entries = index(settings)
    if name not in entries:
        raise UsageError(f"There is no {quoted(name)} in the zoo.", _suggest(name, list(entries)))
    return entries[name]


def find_model(text: str | None = None, settings: Settings | None = None, progress: Progress | None = None) -> Found:
    """The model that a command should use.

    Args:
        text: a zoo name, a model file, a run folder, a published checkpoint folder, or a repository of the Hugging Face
            hub (hf:user/repo[/folder][@revision]), which is fetched the first time. A zoo name goes before a path of
            the same name (write ./NAME for that). None: the setting `model`, else the newest run that has a model (its
            recipe not saying `run.default = false`), else the zoo's default.
        settings: where to look; None: those in force.
        progress: called with bytes done and bytes in all, if something is fetched.

    Raises:
        UsageError: there is no such model, or it is not here.
        FileError: the path is something else, or an embedded file is missing.
    """
    settings = settings or load_settings()
    if text is not None:
        return _find(text, "as asked for", settings, progress)
    if settings.model is not None:
        return _find(settings.model, f"from {origin('model')}", settings, progress)
    run = newest_run(settings.runs)
    if run is not None:
        return Found(run / MODEL_FILE, run.name, "run", f"model: {run} (newest run)")
    for entry in index(settings).values():
        if entry.default:
            return _zoo_model(entry, f"the zoo's default; no run in {settings.runs} has a model yet", settings)
    raise UsageError("There is no model to use: no run has one, and the zoo has no default.", "Name one with --model.")


def newest_run(runs: Path) -> Path | None:
    """The run folder whose model was written last, of those that may be picked without being named."""
    models = [path for path in runs.glob(f"*/{MODEL_FILE}") if is_regular(path) and _may_be_picked(path.parent)]
    newest = max(models, key=lambda path: (_written_ns(path), path.parent.name), default=None)
    return newest.parent if newest else None


def find_recipe(text: str) -> Path:
    """The recipe file that a command means: a path, or a packaged recipe as NAME, NAME.toml or recipes/NAME.toml.

    Raises:
        UsageError: there is no such recipe.
    """
    path = place(text or ".", "The recipe")
    if is_regular(path):
        return path
    recipes = packaged("recipes")
    names = {file.relative_to(recipes).with_suffix("").as_posix(): file for file in sorted(recipes.rglob("*.toml"))}
    name = PurePath(text).as_posix().removeprefix("recipes/").removesuffix(".toml")
    if name in names:
        return names[name]
    raise UsageError(
        f"There is no recipe {quoted(text)}.", _suggest(name, list(names), "`spherectl recipes ls` lists them.")
    )


def fetch(
    entry: Entry,
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    trust: bool = False,
    accept: bool = False,
) -> Path:
    """The file of a remote entry, fetched into the cache unless it is there; of an embedded one, its own file.

    Args:
        entry: from `find_entry`.
        settings: name the cache; None: those in force.
        progress: called with bytes done and bytes in all.
        trust: take files whose SHA-256 nobody has stated, and note those that come.
        accept: a licence that is non-free or unknown is accepted, now and later.

    Returns:
        The file; for a checkpoint in the published layout its folder, until it is converted.

    Raises:
        UsageError: trust or acceptance is needed, or the entry is only known of.
        FileError: an embedded file is missing, what came is not what came before, or the cache cannot be written.
        SpherectlError: it cannot be fetched, or what came is not what the index says.
    """
    settings = settings or load_settings()
    if not needs_fetching(entry, settings):
        return _present(entry, settings)
    return fetch_download(find_download(entry, settings), settings, progress, trust=trust, accept=accept)


def needs_fetching(entry: Entry, settings: Settings) -> bool:
    """Whether to fetch an entry means more than to look where its file is."""
    path = entry.path(settings)
    if path is None or not entry.is_remote:
        return False
    if entry.urls and entry.sha256:
        return not is_regular(path) or file_hash(path) != entry.sha256
    return not (settings.offline and is_present(path))


def verify(entry: Entry, settings: Settings) -> str:
    """What is wrong with the file of an entry, compared with the index, or else with what was noted when it came.

    Returns:
        A sentence; empty if nothing is wrong. An entry whose file is not here because it was not fetched has nothing
        wrong.
    """
    state, path = entry.state(settings), entry.path(settings)
    if path is None or state != "here":
        return f"{path} is missing" if state == "missing" else ""
    if entry.is_remote and entry.sha256 is None:
        return verify_fetched(f"zoo/{entry.name}", settings)
    if not is_regular(path):
        return f"{path} is a folder; expected a model file"
    size, digest = path.stat().st_size, file_hash(path)
    if entry.sha256 is None or (entry.bytes is None and not entry.is_remote):
        return f"the index does not say its hash and size (sha256 = {digest!r}, bytes = {size})"
    if digest != entry.sha256 or entry.bytes not in (size, None):
        return f"{path} has {size} bytes and SHA-256 {digest}; the index says {entry.bytes} and {entry.sha256}"
    return ""


def _find(text: str, why: str, settings: Settings, progress: Progress | None) -> Found:
    if text.startswith(PREFIX):
        name = parse_name(text)
        path, commit = find_on_the_hub(name, settings, progress)
        told = f"model: {name} ({why}{f', commit {commit[:12]}' * bool(commit)})"
        return Found(path, name.repo.rpartition("/")[2], "hub", told)
    entries = index(settings)
    if text in entries:
        return _zoo_model(entries[text], why, settings)
    path = place(text or ".", "The name of the model")
    if text.strip() and _status(path):
        return _model_at(path, why)
    names = [name for name, entry in entries.items() if entry.kind == "model"]
    runs = sorted(str(model.parent) for model in settings.runs.glob(f"*/{MODEL_FILE}"))
    raise UsageError(
        f"There is no model {quoted(text)}: neither the zoo nor a path has that name.", _suggest(text, [*names, *runs])
    )


def _zoo_model(entry: Entry, why: str, settings: Settings) -> Found:
    if entry.kind != "model":
        raise UsageError(
            f"{entry.name} is a feature network for losses and scores; it generates no images.",
            "`spherectl zoo ls` lists the models.",
        )
    return Found(_present(entry, settings), entry.name, "zoo", f"model: {entry.name} ({why})")


def _present(entry: Entry, settings: Settings) -> Path:
    """The entry's file, which must be here and of the right size (its hash is `verify`'s business)."""
    path = entry.path(settings)
    if path is None:
        raise UsageError(
            f"{entry.name} is only known of: the zoo has no address to fetch it from.",
            f"Read {entry.page}, download the model yourself and give its path to --model.",
        )
    if not is_present(path):
        if entry.is_remote:
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
    if is_regular(path):
        if path.suffix == MODEL_SUFFIX:
            if path.name == MODEL_FILE and is_regular(path.parent / "recipe.toml"):
                return _model_at(path.parent, why)
            return Found(path, path.stem, "file", f"model: {path} ({why})")
        raise _no_model(path)
    if not path.is_dir():
        raise FileError(f"{path} is not a model: it is neither a file nor a folder.")
    name = path.resolve().name
    if is_regular(path / MODEL_FILE):
        return Found(path / MODEL_FILE, name, "run", f"model: {path} ({why})")
    if (layout := layouts.layout_at(path)) is not None:
        return Found(path, name, layout.name, f"model: {path} ({why}, {layout.title})")
    if is_regular(path / "recipe.toml"):
        raise UsageError(
            f"The run {path} has no model yet: it gets one at its first checkpoint.",
            f"`spherectl train {path / 'recipe.toml'} --run-dir {path}` goes on with it.",
        )
    known = "".join(f", or {layout.contents} (a {layout.title})" for layout in layouts.LAYOUTS)
    raise FileError(f"The folder {path} is no model: expected {MODEL_FILE} (a run){known}.")


def _no_model(path: Path) -> FileError:
    try:
        refuse_archive(path.name)
    except ValueError as error:
        return FileError(f"{path} is not a model: {error}.", "Unpack it yourself, and look at what it holds.")
    known = [layout.contents for layout in layouts.LAYOUTS if path.suffix == Path(layout.checkpoint).suffix]
    hint = f"Give the folder that holds {' or '.join(known)}." if known else ""
    return FileError(f"{path} is not a model: expected a {MODEL_SUFFIX} file or a folder.", hint)


def _may_be_picked(run: Path) -> bool:
    """Whether the run's recipe leaves `run.default` on; a recipe that cannot be read does not turn it off."""
    try:
        table = parse_toml(read_text(run / "recipe.toml"))
    except (OSError, ValueError):
        return True
    settings = table.get("run")
    return not isinstance(settings, dict) or settings.get("default") is not False


def _written_ns(path: Path) -> int:
    """When a file was written; 0 for one that has gone meanwhile."""
    status = _status(path)
    return status.st_mtime_ns if status else 0


def _status(path: Path) -> os.stat_result | None:
    """What the system knows of a path; None where there is nothing, or it may not be looked at."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _suggest(name: str, known: list[str], where: str = "") -> str:
    """The nearest known names, or the first of them."""
    near = difflib.get_close_matches(name, known, n=3) if len(name) <= MAX_NAME else []
    words = f"Did you mean {' or '.join(near)}?" if near else f"There are: {listed(known) or 'none'}."
    return f"{words} {where}".strip()
