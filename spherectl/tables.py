"""Nested tables as people write them: frozen specs, overrides, and every mistake named with its dotted path."""

from __future__ import annotations

import difflib
import tomllib
from typing import Any

from pydantic import BaseModel, ConfigDict

from spherectl.documents import parse_toml
from spherectl.errors import UsageError
from spherectl.shown import MAX_LISTED, printable, quoted, shortened
from spherectl.validation import MAX_KEY, table_spec

MAX_PARTS = 8  # of a dotted key; ours have 2


class Spec(BaseModel):
    """Common settings of every table: frozen, closed to unknown keys, no infinities, and true is not 1, nor "1"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """`["optim.lr=2e-4", "data.flip=false"]` as a nested dict; values are read as TOML, else taken as text.

    Raises:
        UsageError: an item without "=", or with a key that is none.
    """
    nested: dict[str, Any] = {}
    for item in items:
        dotted, equals, text = item.partition("=")
        parts = dotted.strip().split(".")
        if not equals or not all(parts) or len(parts) > MAX_PARTS:
            raise UsageError(f"--set {quoted(item)}: expected KEY=VALUE with a dotted key, as in --set optim.lr=2e-4.")
        level = nested
        for part in parts[:-1]:
            level = level.setdefault(part, {})
            if not isinstance(level, dict):
                raise UsageError(f"--set {quoted(item)}: {quoted(part)} was already given a value.")
        if isinstance(level.get(parts[-1]), dict):
            raise UsageError(f"--set {quoted(item)}: keys below {quoted(parts[-1])} were already given values.")
        level[parts[-1]] = _toml_value(text)
    return nested


# A length given one way replaces the other way of giving it.
_ALTERNATIVES = {
    "length_epochs": "length_images",
    "length_images": "length_epochs",
    "warmup_epochs": "warmup_images",
    "warmup_images": "warmup_epochs",
}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `base` with `changes` put in, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        other = _ALTERNATIVES.get(key)
        if other and value is not None and other not in changes:
            merged.pop(other, None)
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both_tables else value
    return merged


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The plain values of a nested table by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def without_none(table: dict[str, Any]) -> dict[str, Any]:
    """A copy without the keys whose value is None, at every level; TOML has no such value."""
    return {k: without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def _toml_value(text: str) -> Any:
    """A value as TOML reads it (`3e-4`, `true`, `[1, 2]`); what is not one TOML value is text, quotes or not."""
    try:
        table = parse_toml(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    return table["x"] if len(table) == 1 else text.strip()


def split_unknown(table: dict[str, Any], spec: type[BaseModel], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """The known part of `table`, and a phrase for each unknown key with the nearest known one where one is near.

    pydantic could name unknown keys itself, but would then skip the checks of whole tables.
    """
    known: dict[str, Any] = {}
    problems: list[str] = []

    def split(value: Any, below: type[BaseModel], place: str) -> Any:
        if isinstance(value, dict):
            value, deeper = split_unknown(value, below, f"{place}.")
            problems.extend(deeper)
        elif isinstance(value, list):
            return [split(entry, below, f"{place}.{number}") for number, entry in enumerate(value)]
        return value

    for key, value in table.items():
        below = table_spec(spec, key)
        if key not in spec.model_fields:
            near = (
                difflib.get_close_matches(key, spec.model_fields, n=1)
                if len(key) <= MAX_KEY and len(problems) < MAX_LISTED
                else []
            )
            shown = prefix + printable(shortened(key, MAX_KEY))
            problems.append(f"unknown key {shown}" + (f" (did you mean {prefix}{near[0]}?)" if near else ""))
        else:
            known[key] = value if below is None else split(value, below, f"{prefix}{key}")
    return known, problems
