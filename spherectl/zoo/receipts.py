"""Notes of what was fetched, beside it in the cache as NAME.json, and what can be done with them.

A note has the source, the commit and SHA-256s that were seen, and the licence that was accepted. It stays when the
files are removed, so that a second fetch compares with the first. A place is a path below the cache, without a suffix.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spherectl.documents import parse_table
from spherectl.errors import FileError
from spherectl.files import file_hash, is_regular, read_bytes, write_text
from spherectl.settings import Settings
from spherectl.shown import listed
from spherectl.tables import describe
from spherectl.zoo.entries import CHECKPOINT, CONFIG, MAX_ADDRESSES, MODEL_SUFFIX, Sha256, Text, cached_path, is_present

MAX_NOTE = 1 << 18  # bytes; a note has 1 kB
_AGAIN = "Remove it, and fetch again."


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True)


class _Made(_Schema):
    """The file that a published checkpoint was converted into."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)] = 0


# "" is a model file itself; else files of the published layout.
_Piece = Annotated[str, Field(pattern=rf"^(|{CONFIG}|{CHECKPOINT.pattern})$".replace(".json", r"\.json"))]


class _Facts(_Schema):
    """What the index said of the model."""

    kind: Text | None = None
    classes: int | None = None
    image_size: int | None = None
    data_licence: Text | None = None
    recipe: Text | None = None
    licence: Text | None = None


class _Note(_Schema):
    """What a note may say; what a later version adds stays in it."""

    name: Text = ""
    source: Annotated[str, Field(max_length=8_192)] = ""
    revision: Text = ""
    licence: Text = ""
    accepted: Text = ""
    bytes: Annotated[int, Field(ge=0)] = 0
    files: Annotated[dict[_Piece, Sha256], Field(max_length=MAX_ADDRESSES)] = {}
    facts: _Facts = _Facts()
    converted: _Made | None = None


def load_note(place: str, settings: Settings) -> dict[str, Any]:
    """What was seen and accepted at an earlier fetch to a place; empty if there was none.

    Raises:
        FileError: it cannot be read.
    """
    path = _note_path(place, settings)
    try:
        content = read_bytes(path, MAX_NOTE)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.", _AGAIN) from None
    table = parse_table(content, f"{path} is damaged: it should say what was fetched, but")
    try:
        _Note.model_validate(table)
    except ValidationError as error:
        raise FileError(f"{path} is damaged: {listed(describe(error, _Note), 3, '; ')}.", _AGAIN) from None
    return table


def save_note(place: str, settings: Settings, **changes: Any) -> None:
    """Change a note, or begin one."""
    note = load_note(place, settings) | changes
    write_text(_note_path(place, settings), json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def notes_of_the_hub(settings: Settings) -> list[dict[str, Any]]:
    """Notes of what is here from the hub without being an entry, by name; each with its place."""
    places = sorted(f"zoo/hf/{path.stem}" for path in (settings.cache / "zoo" / "hf").glob("*.json"))
    here = [place for place in places if is_present(cached_path(place, settings))]
    empty = _Note().model_dump(include={"name", "licence", "bytes"})
    return [{**empty, **load_note(place, settings), "place": place} for place in here]


def verify_fetched(place: str, settings: Settings) -> str:
    """What is wrong with what was fetched to a place, compared with its note; a sentence, or empty."""
    path, note = cached_path(place, settings), load_note(place, settings)
    expected = {path / name if name else path: sha256 for name, sha256 in note.get("files", {}).items()}
    if is_regular(path) and note.get("converted"):
        expected = {path: note["converted"]["sha256"]}
    if not expected:
        return f"{path} is here without a note of what it must be; fetch it again"
    for file, sha256 in expected.items():
        digest = file_hash(file) if is_regular(file) else ""
        if digest != sha256:
            return f"{file} has SHA-256 {digest}, and had {sha256} when it came" if digest else f"{file} is missing"
    return ""


def remove(place: str, settings: Settings, *, forget: bool = False) -> int:
    """Remove what was fetched to a place, whole or in part; returns the bytes that are free again.

    Args:
        place: below the cache.
        settings: name the cache.
        forget: remove the note too: what was seen, and that a licence was accepted.

    Raises:
        FileError: the cache cannot be written.
    """
    base = settings.cache / place
    folder = [path for path in base.rglob("*") if path.is_file()] if base.is_dir() and not base.is_symlink() else []
    beside = [base.with_name(f"{base.name}{MODEL_SUFFIX}"), *base.parent.glob(f".{base.name}{MODEL_SUFFIX}.*")]
    files = [path for path in (*beside, *folder) if path.is_file() or path.is_symlink()]
    freed = sum(path.lstat().st_size for path in files)
    try:
        for path in files:
            path.unlink()
        if folder:
            shutil.rmtree(base)
        if forget:
            _note_path(place, settings).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"Cannot remove {error.filename}: {error.strerror}.") from None
    return freed


def _note_path(place: str, settings: Settings) -> Path:
    return settings.cache / f"{place}.json"
