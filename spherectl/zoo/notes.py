"""Notes of what was fetched, beside it in the cache as NAME.json, and what can be done with them.

A note has the source, the commit and SHA-256s that were seen, and the licence that was accepted. It stays when the
files are removed, so that a second fetch compares with the first. A place is a path below the cache, without a suffix.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from spherectl.errors import FileError
from spherectl.files import file_hash, write_text
from spherectl.settings import Settings
from spherectl.zoo.entries import MODEL_SUFFIX, cached_path


def load_note(place: str, settings: Settings) -> dict[str, Any]:
    """What was seen and accepted at an earlier fetch to a place; empty if there was none.

    Raises:
        FileError: it cannot be read.
    """
    path = _note_path(place, settings)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError):
        raise FileError(f"{path} is damaged: it should say what was fetched.", "Remove it, and fetch again.") from None


def save_note(place: str, settings: Settings, **changes: Any) -> None:
    """Change a note, or begin one."""
    note = load_note(place, settings) | changes
    write_text(_note_path(place, settings), json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def notes_of_the_hub(settings: Settings) -> list[dict[str, Any]]:
    """Notes of what is here from the hub without being an entry, by name; each with its place."""
    places = sorted(f"zoo/hf/{path.stem}" for path in (settings.cache / "zoo" / "hf").glob("*.json"))
    here = [place for place in places if cached_path(place, settings).exists()]
    return [{"place": place, **load_note(place, settings)} for place in here]


def verify_fetched(place: str, settings: Settings) -> str:
    """What is wrong with what was fetched to a place, compared with its note; a sentence, or empty."""
    path, note = cached_path(place, settings), load_note(place, settings)
    expected = {path / name if name else path: sha256 for name, sha256 in note.get("files", {}).items()}
    if path.is_file() and note.get("converted"):
        expected = {path: note["converted"]["sha256"]}
    if not expected:
        return f"{path} is here without a note of what it must be; fetch it again"
    for file, sha256 in expected.items():
        digest = file_hash(file) if file.is_file() else ""
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
