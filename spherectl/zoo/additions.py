"""`zoo add`: an entry and a card for a model file of one's own, from what its header says."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any

from spherectl.errors import FileError, UsageError
from spherectl.files import file_hash, read_text, replacing, write_text
from spherectl.model.formats.header import read_header
from spherectl.shown import listed, printable, quoted
from spherectl.zoo.catalogue import check_index, read_index
from spherectl.zoo.entries import MAX_INDEX, MAX_NAME, MODEL_SUFFIX, Entry

_KINDS = {"sphere-encoder": "model", "feature-network": "features"}
_TODO = "TODO"


def add(model: Path, index: Path, *, name: str = "", url: str = "", licence: str = "") -> Entry:
    """Append an entry for a model to an index, and write a card beside it, whose gaps say TODO.

    Args:
        model: a model file of ours; unless `url` is given it is copied beside the index, if it is not there yet.
        index: an index file; a new one is begun if there is none.
        name: of the entry; empty: that of the file, or of its run.
        url: where the file is to be had, for an index that does not hold it.
        licence: of the weights; empty: as the header says.

    Returns:
        The entry.

    Raises:
        UsageError: the index has that name already, or the name or address is not one.
        FileError: the model cannot be read, or the index cannot be read or written.
    """
    if model.suffix != MODEL_SUFFIX:
        raise FileError(
            f"{model} is not a model file: expected a {MODEL_SUFFIX} file.",
            "A run's is in its folder; a published checkpoint becomes one by `spherectl zoo fetch`.",
        )
    header = read_header(model)
    name = name or _name_of(model)
    before, taken = _entries_of(index)
    if name in taken:
        raise UsageError(f"{index} has an entry {name} already.", "Give another name with --name.")
    table = _table(model, header, name, licence)
    table |= (
        {"urls": [url]} if url else {"file": f"{name}{MODEL_SUFFIX}" if _is_elsewhere(model, index) else model.name}
    )
    text = _as_toml(table)
    try:
        (entry,) = check_index({"entry": [table]}, str(index), index.parent)
    except FileError as error:
        raise UsageError(error.message) from None
    card = _card(entry, header)
    with contextlib.ExitStack() as undo:  # what was made here goes again if the index cannot be written
        for folder in reversed([one for one in (index.parent, *index.parent.parents) if not one.exists()]):
            undo.callback(_remove_empty, folder)
        if entry.file and _is_elsewhere(model, index):
            target = index.parent / entry.file
            if not target.exists():
                undo.callback(target.unlink, missing_ok=True)
            with replacing(target) as temporary:
                shutil.copyfile(model, temporary)
        if not entry.card.exists():
            undo.callback(entry.card.unlink, missing_ok=True)
            write_text(entry.card, card)
        write_text(index, f"{before.rstrip()}\n\n{text}".lstrip())
        undo.pop_all()
    return entry


def _entries_of(index: Path) -> tuple[str, list[str]]:
    """The text of an index, and the names in it; nothing of both where there is none yet."""
    try:
        text = read_text(index, MAX_INDEX)
    except FileNotFoundError:
        return "", []
    except OSError as error:
        raise FileError(f"Cannot read the zoo index {index}: {error.strerror}.") from None
    return text, [entry.name for entry in read_index(index)] if text else []


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_elsewhere(model: Path, index: Path) -> bool:
    return model.resolve().parent != index.resolve().parent


def _name_of(model: Path) -> str:
    """The run's folder for a run's model, else the file's own name, as an entry may be called."""
    stem = model.resolve().parent.name if (model.parent / "recipe.toml").is_file() else model.stem
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:MAX_NAME].rstrip("-._") or "model"


def _table(model: Path, header: dict[str, Any], name: str, licence: str) -> dict[str, Any]:
    kind = _KINDS.get(str(header.get("architecture")))
    if kind is None:
        raise FileError(
            f"{model} holds a network of architecture {quoted(header.get('architecture'))}, which is unknown here."
        )
    recipe = header["recipe"] if kind == "model" else {}  # a table, as the header was checked
    spec = recipe.get("model", {})
    stated = licence or header.get("licence") or "unknown"
    facts = {
        "name": name,
        "kind": kind,
        "sha256": file_hash(model),
        "bytes": model.stat().st_size,
        "licence": "unknown" if stated == "unstated" else stated,
        "data_licence": header.get("data_licence"),
        "recipe": recipe.get("name"),
        "summary": f"{_TODO}: one line on what it generates.",
        "channels": header.get("channels", "rgb"),
        "image_size": spec.get("image_size") or header.get("image_size"),
        "classes": spec.get("num_classes", len(header.get("class_names", []))),
    }
    return {key: value for key, value in facts.items() if value is not None}


def _as_toml(table: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps({"entry": [table]})


def _card(entry: Entry, header: dict[str, Any]) -> str:
    """What the header knows, and a heading for each thing that a card has to say."""
    names = header.get("class_names", [])
    named = f" ({listed(names, 12)})" if names else ""
    classes = f"{entry.classes} classes{named}" if entry.classes else "no classes"
    seen = f"{header['images_seen']:,} images seen." if header.get("images_seen") else f"{_TODO}: how long."
    return printable(
        f"""# {entry.name}

{_TODO}: what it generates, for whom, in two sentences. {entry.image_size} px, {classes}.

## Scores

{_TODO}: what was measured, beside the command that measures it again: `spherectl evaluate {entry.name} --steps 1,4`.

## Training

Recipe {entry.recipe or "unknown"}. {seen} {_TODO}: the command, the hours, the machine.

## Limits

{_TODO}: what it cannot do, and what was not looked at.

## Data and licence

Data: {header.get("data", "unknown")}, licence {entry.data_licence or "unknown"}. Weights: {entry.licence}.
""",
        lines=True,
    )
