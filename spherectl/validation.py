"""What pydantic finds wrong, in sentences: "optim.lr: expected 0 to 1,000, got 'fast'"."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from spherectl.errors import FileError
from spherectl.shown import listed, printable, quoted, shortened

M = TypeVar("M", bound=BaseModel)

MAX_KEY = 100  # characters of a key that an error repeats
MAX_MISTAKES = 3  # of a file, that its error repeats
MAX_LOOKED_AT = 1_000  # mistakes; a file of a megabyte may have 100,000

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
    "path_type": "a path",
    "string_too_long": "at most {max_length:,} characters",
    "string_too_short": "at least {min_length:,} characters",
    "string_unicode": "text in UTF-8",
    "string_type": 'text in "quotes"',
    "too_long": "{max_length:,} values",
    "tuple_type": "a list",
}
_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")

# The bounds of a field, by the names that pydantic's constraints have.
_LOW, _HIGH = {"ge": "at least", "gt": "more than"}, {"le": "at most", "lt": "less than"}


def validated(spec: type[M], table: Any, what: str, hint: str = "", *, context: Any = None, as_json: bool = False) -> M:
    """The contents of a file as its schema has them.

    Args:
        spec: the schema.
        table: the contents.
        what: begins the error, as in "The header of a.safetensors".
        hint: of the error.
        context: for validators of the schema that ask for it.
        as_json: whether a list may be a tuple of a strict schema, which JSON does not have.

    Raises:
        FileError: they do not fit the schema.
    """
    try:
        if as_json:
            return spec.model_validate_json(json.dumps(table), context=context)
        return spec.model_validate(table, context=context)
    except ValidationError as error:
        raise FileError(f"{what}: {listed(describe(error, spec), MAX_MISTAKES, '; ')}.", hint) from None


def describe(error: ValidationError, root: type[BaseModel], name: Callable[[str], str] = str) -> list[str]:
    """A phrase for each mistake: "dotted.path: expected what, got what".

    Args:
        error: what pydantic raised.
        root: the schema that was asked.
        name: how a dotted path is written, if not as it is.
    """

    def at(path: str) -> str:
        place = name(path)
        return f"{place}: " if place else ""  # the whole has no name

    whole: list[str] = []  # about no single value
    expected: dict[str, dict[str, None]] = {}  # by path: pydantic reports each branch of "a number or 'auto'" apart
    got: dict[str, Any] = {}
    for item in error.errors(include_url=False)[:MAX_LOOKED_AT]:
        path, field, is_table = _find(item["loc"], root)
        match item["type"]:
            case "value_error":  # of our own checks; that of a whole table names its keys
                message = item["msg"].removeprefix("Value error, ").rstrip(".")
                names_itself = is_table and not any(isinstance(part, int) for part in item["loc"])
                whole.append(message if names_itself else f"{at(path)}{message}")
            case "missing":
                whole.append(f"{name(path)} is missing")
            case "extra_forbidden":
                whole.append(f"{name(path)}: unknown key")
            case _:
                expected.setdefault(path, {})[_wanted(item, field)] = None
                got[path] = item["input"]
    return [f"{at(path)}expected {' or '.join(expected[path])}, got {_show(got[path])}" for path in got] + whole


def table_spec(spec: type[BaseModel], key: Any) -> type[BaseModel] | None:
    """The schema of the table under `key`, or of each table in its list; None for a plain value or an unknown key."""
    field = _field(spec, key)
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _field(spec: type[BaseModel], key: Any) -> FieldInfo | None:
    """A field by its name or its alias."""
    found = spec.model_fields.get(key)
    return found or next((field for field in spec.model_fields.values() if field.alias == key), None)


def _find(loc: tuple[str | int, ...], root: type[BaseModel]) -> tuple[str, FieldInfo | None, bool]:
    """The dotted path of a place (tables, key, number of an entry in a list), its field, and whether it is a table.

    What pydantic puts after them ("literal['auto']", "constrained-int") names the branch of a union, not a place.
    """
    spec: type[BaseModel] | None = root
    field: FieldInfo | None = None
    parts: list[str] = []
    for part in loc:
        if isinstance(part, int):
            parts.append(str(part))
        elif spec is not None:
            parts.append(printable(shortened(part, MAX_KEY)))
            field, spec = _field(spec, part), table_spec(spec, part)
    return ".".join(parts), field, spec is not None


def _wanted(item: Any, field: FieldInfo | None) -> str:
    """What a value should have been."""
    too_large = item["type"] == "float_type" and type(item["input"]) is int  # beyond any float
    if item["type"] in _RANGES or too_large:
        return _range(_limits(field))
    if item["type"] == "string_pattern_mismatch":  # patterns are for machines: the field says what it means
        return str(_limits(field).get("description", "text of another form"))
    template = _EXPECTED.get(item["type"])
    return template.format(**item.get("ctx", {})) if template else shortened(item["msg"])


def _range(limits: dict[str, Any]) -> str:
    """What a number has to be between: "0 to 1,000", "more than 0 and less than 90"."""
    bounds = {key: limits[key] for key in (*_LOW, *_HIGH) if key in limits}
    if bounds.keys() == {"ge", "le"}:
        return f"{_number(bounds['ge'])} to {_number(bounds['le'])}"
    return " and ".join(f"{word} {_number(bounds[key])}" for key, word in (_LOW | _HIGH).items() if key in bounds)


def _limits(kind: Any) -> dict[str, Any]:
    """Bounds and description in a field's annotation, or in that of a branch of a union."""
    found: dict[str, Any] = {}
    for one in (kind, *kind.metadata) if isinstance(kind, FieldInfo) else getattr(kind, "__metadata__", ()):
        keys = (*_LOW, *_HIGH, "description")
        found |= {key: getattr(one, key) for key in keys if getattr(one, key, None) is not None}
        if isinstance(one, FieldInfo) and one is not kind:
            found |= _limits(one)
    for inner in (kind.annotation,) if isinstance(kind, FieldInfo) else get_args(kind):
        found |= _limits(inner)
    return found


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


def _show(value: Any) -> str:
    """A value as the reader typed it, cut where it is long."""
    return str(value).lower() if isinstance(value, bool) else quoted(value)
