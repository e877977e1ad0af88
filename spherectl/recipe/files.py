"""Recipes as TOML files, each over the one that it names as its base."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from spherectl.documents import parse_toml
from spherectl.errors import FileError, UsageError
from spherectl.files import is_regular, read_text
from spherectl.recipe.limits import MAX_RECIPE
from spherectl.recipe.whole import Recipe, parse
from spherectl.settings import packaged
from spherectl.shown import quoted
from spherectl.tables import merge


def loads(text: str, source: str = "recipe", overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe from TOML text, its base below it, with `--set` overrides merged in before it is checked."""
    return parse(merge(_with_base(text, source, None), overrides or {}), source)


def load(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe from a TOML file."""
    return parse(merge(_with_base(_read(path), str(path), path.parent), overrides or {}), str(path))


_NAME_OF_BASE = re.compile(r"[a-z0-9][a-z0-9._-]{,99}")


def _with_base(text: str, source: str, folder: Path | None, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tables of TOML text, over those of the recipe that it names as its base.

    Args:
        text: of a recipe.
        source: where it comes from, for errors.
        folder: of its file; None: of none. A base is a recipe that comes with spherectl, else one of this folder.
        above: the bases that led here.
    """
    try:
        table = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not valid TOML: {error}.") from None
    if "base" not in table:
        return table
    base = table.pop("base")
    found = None
    if isinstance(base, str) and _NAME_OF_BASE.fullmatch(base) and base not in above:
        folders = [packaged("recipes"), *([folder] if folder else [])]
        found = next((path for place in folders if is_regular(path := place / f"{base}.toml")), None)
    if found is None:
        raise UsageError(
            f"{source}: base: expected a recipe that comes with spherectl or lies beside this one, got {quoted(base)}.",
            "`spherectl recipes ls` lists them.",
        )
    return merge(_with_base(_read(found), str(found), found.parent, (*above, base)), table)


def _read(path: Path) -> str:
    try:
        return read_text(path, MAX_RECIPE)
    except OSError as error:
        raise FileError(f"Cannot read the recipe {path}: {error.strerror}.") from None
