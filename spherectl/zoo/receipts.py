"""Receipts of what was fetched, beside it in the cache as NAME.json, by which it is listed, verified and removed.

A receipt has the source, the commit and SHA-256s that were seen, and the licence that was accepted. It stays when the
files are removed, so that a second fetch compares with the first. A place is a path below the cache, without a suffix.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from spherectl.documents import parse_table
from spherectl.errors import FileError, SpherectlError
from spherectl.files import file_hash, is_regular, read_bytes, write_text
from spherectl.model.formats.layouts import check_file
from spherectl.settings import Settings
from spherectl.validation import validated
from spherectl.zoo import hub
from spherectl.zoo.entries import MAX_ADDRESSES, MODEL_SUFFIX, Sha256, Text, cached_path, is_present

MAX_RECEIPT = 1 << 18  # bytes; a receipt has 1 kB
_AGAIN = "Remove it, and fetch again."


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True)


class _Made(_Schema):
    """The file that a published checkpoint was converted into."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)] = 0


# "" is a model file itself; else a file of a published layout.
_Piece = Annotated[str, AfterValidator(lambda path: path and check_file(path))]


class _Facts(_Schema):
    """What the index said of the model."""

    kind: Text | None = None
    classes: int | None = None
    image_size: int | None = None
    data_licence: Text | None = None
    recipe: Text | None = None
    licence: Text | None = None


class _Receipt(_Schema):
    """What a receipt may say; what a later version adds stays in it."""

    name: Text = ""
    source: Annotated[str, Field(max_length=8_192)] = ""
    revision: Text = ""
    licence: Text = ""
    accepted: Text = ""
    bytes: Annotated[int, Field(ge=0)] = 0
    files: Annotated[dict[_Piece, Sha256], Field(max_length=MAX_ADDRESSES)] = {}
    facts: _Facts = _Facts()
    converted: _Made | None = None


def load_receipt(place: str, settings: Settings) -> dict[str, Any]:
    """What was seen and accepted at an earlier fetch to a place; empty if there was none.

    Raises:
        FileError: it cannot be read.
    """
    path = _receipt_path(place, settings)
    try:
        content = read_bytes(path, MAX_RECEIPT)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.", _AGAIN) from None
    table = parse_table(content, f"{path} is damaged: it should say what was fetched, but")
    validated(_Receipt, table, f"{path} is damaged", _AGAIN)
    return table


def save_receipt(place: str, settings: Settings, **changes: Any) -> None:
    """Change a receipt, or begin one."""
    receipt = load_receipt(place, settings) | changes
    write_text(_receipt_path(place, settings), json.dumps(receipt, indent=1, ensure_ascii=False) + "\n")


def hub_receipts(settings: Settings) -> list[dict[str, Any]]:
    """Receipts of what is here from the hub without being an entry, by name; each with its place."""
    places = sorted(f"zoo/hf/{path.stem}" for path in (settings.cache / "zoo" / "hf").glob("*.json"))
    here = [place for place in places if is_present(cached_path(place, settings))]
    empty = _Receipt().model_dump(include={"name", "licence", "bytes"})
    return [{**empty, **load_receipt(place, settings), "place": place} for place in here]


def verify_fetched(place: str, settings: Settings) -> str:
    """What is wrong with what was fetched to a place, compared with its receipt; a sentence, or empty."""
    path, receipt = cached_path(place, settings), load_receipt(place, settings)
    expected = {path / name if name else path: sha256 for name, sha256 in receipt.get("files", {}).items()}
    if is_regular(path) and receipt.get("converted"):
        expected = {path: receipt["converted"]["sha256"]}
    if not expected:
        return f"{path} is here without a receipt of what it must be; fetch it again"
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
        forget: remove the receipt too: what was seen, and that a licence was accepted.

    Raises:
        FileError: the cache cannot be written.
    """
    base = settings.cache / place
    folder = [path for path in base.rglob("*") if path.is_file()] if base.is_dir() and not base.is_symlink() else []
    beside = [base.with_name(f"{base.name}{MODEL_SUFFIX}"), *base.parent.glob(f".{base.name}{MODEL_SUFFIX}.*")]
    files = [path for path in (*beside, *folder) if path.is_file() or path.is_symlink()]
    freed = 0
    try:
        for path in files:
            freed += hub.remove(path.readlink()) if path.is_symlink() else path.stat().st_size
            path.unlink()
        if folder:
            shutil.rmtree(base)
        if forget:
            _receipt_path(place, settings).unlink(missing_ok=True)
    except SpherectlError:
        raise
    except OSError as error:
        raise FileError(f"Cannot remove {error.filename}: {error.strerror}.") from None
    return freed


def _receipt_path(place: str, settings: Settings) -> Path:
    return settings.cache / f"{place}.json"
