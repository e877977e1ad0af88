"""Nested tables as people write them: frozen specs, overrides, and every mistake named with its dotted path."""

from __future__ import annotations

import difflib
import tomllib
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from spherectl.errors import UsageError

# Characters of a bad value that an error repeats.
MAX_SHOWN = 60


class Spec(BaseModel):
    """Common settings of every table: frozen, closed to unknown keys, no silent conversions of infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """`["optim.lr=2e-4", "data.flip=false"]` as a nested dict; values are read as TOML, else taken as text.

    Raises:
        UsageError: an item without "=" or with an empty part in its key.
    """
    nested: dict[str, Any] = {}
    for item in items:
        dotted, equals, text = item.partition("=")
        parts = dotted.strip().split(".")
        if not equals or not all(parts):
            raise UsageError(f"--set {item!r}: expected KEY=VALUE with a dotted key, as in --set optim.lr=2e-4.")
        level = nested
        for part in parts[:-1]:
            level = level.setdefault(part, {})
            if not isinstance(level, dict):
                raise UsageError(f"--set {item!r}: {part!r} was already given a value.")
        if isinstance(level.get(parts[-1]), dict):
            raise UsageError(f"--set {item!r}: keys below {parts[-1]!r} were already given values.")
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
        table = tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    return table["x"] if len(table) == 1 else text.strip()


def _table_spec(spec: type[Spec], key: Any) -> type[Spec] | None:
    """The spec of the table under `key`, or of each table in its list; None for a plain value or an unknown key."""
    field = spec.model_fields.get(key)
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Spec)), None)


def split_unknown(table: dict[str, Any], spec: type[Spec], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """The known part of `table`, and a phrase for each unknown key with the nearest known one where one is near.

    pydantic could name unknown keys itself, but would then skip the checks of whole tables.
    """
    known: dict[str, Any] = {}
    problems: list[str] = []

    def split(value: Any, below: type[Spec], place: str) -> Any:
        if isinstance(value, dict):
            value, deeper = split_unknown(value, below, f"{place}.")
            problems.extend(deeper)
        elif isinstance(value, list):
            return [split(entry, below, f"{place}.{number}") for number, entry in enumerate(value)]
        return value

    for key, value in table.items():
        below = _table_spec(spec, key)
        if key not in spec.model_fields:
            near = difflib.get_close_matches(key, spec.model_fields, n=1)
            problems.append(f"unknown key {prefix}{key}" + (f" (did you mean {prefix}{near[0]}?)" if near else ""))
        else:
            known[key] = value if below is None else split(value, below, f"{prefix}{key}")
    return known, problems


# What a value should have been, by pydantic's error type; the text in braces comes from the error's context.
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "a table",
    "string_pattern_mismatch": "lower-case letters, digits, '.', '_' or '-', with a letter or digit first",
    "string_type": 'text in "quotes"',
    "too_long": "{max_length} values",
    "tuple_type": "a list",
}


def describe(error: ValidationError, root: type[Spec]) -> list[str]:
    """A phrase for each bad value: "dotted.path: expected what, got what", alternatives of one value joined."""
    whole: list[str] = []  # about no single value
    expected: dict[str, list[str]] = {}  # by path: pydantic reports each branch of "a number or 'auto'" on its own
    got: dict[str, Any] = {}
    for item in error.errors(include_url=False):
        path = _dotted(item["loc"], root)
        if item["type"] == "value_error":  # raised by a spec's own check, which names the keys
            whole.append(item["msg"].removeprefix("Value error, "))
        elif item["type"] == "missing":
            whole.append(f"{path} is missing")
        else:
            template = _EXPECTED.get(item["type"])
            text = template.format(**item.get("ctx", {})) if template else item["msg"]
            expected.setdefault(path, []).append(text)
            got[path] = item["input"]
    values = [f"{path}: expected {' or '.join(texts)}, got {_show(got[path])}" for path, texts in expected.items()]
    return values + whole


def _dotted(loc: tuple[str | int, ...], root: type[Spec]) -> str:
    """A key's dotted path: table names, the key, and the number of an entry in a list.

    What pydantic puts after them ("literal['auto']", "constrained-int") names the branch of a union, not a place.
    """
    spec: type[Spec] | None = root
    parts: list[str] = []
    for part in loc:
        if isinstance(part, int):
            parts.append(str(part))
        elif spec is not None:
            parts.append(part)
            spec = _table_spec(spec, part)
    return ".".join(parts)


def _show(value: Any) -> str:
    """A value as the reader typed it, cut where it is long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
