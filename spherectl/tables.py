"""Nested tables as people write them: frozen specs, overrides, and every mistake named with its dotted path."""

from __future__ import annotations

import difflib
import tomllib
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from spherectl.documents import parse_toml
from spherectl.errors import UsageError
from spherectl.shown import MAX_LISTED, printable, quoted, shortened

MAX_KEY = 100  # characters of a key that an error repeats, and of one whose nearest known key is looked for
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


def _table_spec(spec: type[BaseModel], key: Any) -> type[BaseModel] | None:
    """The spec of the table under `key`, or of each table in its list; None for a plain value or an unknown key."""
    field = spec.model_fields.get(key)
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


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
        below = _table_spec(spec, key)
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


# What a value should have been, by pydantic's error type; the text in braces comes from the error's context.
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a table",
    "string_pattern_mismatch": "lower-case letters, digits, '.', '_' or '-', with a letter or digit first",
    "string_too_long": "at most {max_length:,} characters",
    "string_too_short": "at least {min_length:,} characters",
    "string_unicode": "text in UTF-8",
    "string_type": 'text in "quotes"',
    "too_long": "{max_length:,} values",
    "tuple_type": "a list",
}
_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def describe(error: ValidationError, root: type[BaseModel]) -> list[str]:
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
            text = template.format(**item.get("ctx", {})) if template else shortened(item["msg"])
            if item["type"] in _RANGES or (
                item["type"] == "float_type" and type(item["input"]) is int
            ):  # beyond any float
                text = _range(item["loc"], root)
            expected.setdefault(path, []).append(text)
            got[path] = item["input"]
    values = [f"{path}: expected {' or '.join(texts)}, got {_show(got[path])}" for path, texts in expected.items()]
    return values + whole


def _dotted(loc: tuple[str | int, ...], root: type[BaseModel]) -> str:
    """A key's dotted path: table names, the key, and the number of an entry in a list.

    What pydantic puts after them ("literal['auto']", "constrained-int") names the branch of a union, not a place.
    """
    spec: type[BaseModel] | None = root
    parts: list[str] = []
    for part in loc:
        if isinstance(part, int):
            parts.append(str(part))
        elif spec is not None:
            parts.append(printable(shortened(part, MAX_KEY)))
            spec = _table_spec(spec, part)
    return ".".join(parts)


# The bounds of a field, by the names that pydantic's constraints have.
_LOW, _HIGH = {"ge": "at least", "gt": "more than"}, {"le": "at most", "lt": "less than"}


def _range(loc: tuple[str | int, ...], root: type[BaseModel]) -> str:
    """What a number has to be between: "0 to 1,000", "more than 0 and less than 90"."""
    field: Any = None
    spec: type[BaseModel] | None = root
    for part in loc:
        if isinstance(part, str) and spec is not None:
            field, spec = spec.model_fields[part], _table_spec(spec, part)
    bounds = _bounds(field)
    if bounds.keys() == {"ge", "le"}:
        return f"{_number(bounds['ge'])} to {_number(bounds['le'])}"
    phrases = [f"{word} {_number(bounds[key])}" for key, word in (_LOW | _HIGH).items() if key in bounds]
    return " and ".join(phrases)


def _bounds(kind: Any) -> dict[str, float]:
    """The bounds in a field's annotation, or in that of a branch of a union."""
    found: dict[str, float] = {}
    for one in kind.metadata if isinstance(kind, FieldInfo) else getattr(kind, "__metadata__", ()):
        found |= {key: getattr(one, key) for key in (*_LOW, *_HIGH) if getattr(one, key, None) is not None}
        if isinstance(one, FieldInfo):
            found |= _bounds(one)
    for inner in (kind.annotation,) if isinstance(kind, FieldInfo) else get_args(kind):
        found |= _bounds(inner)
    return found


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


def _show(value: Any) -> str:
    """A value as the reader typed it, cut where it is long."""
    return str(value).lower() if isinstance(value, bool) else quoted(value)
