"""JSON and TOML of strangers: read whole, no deeper than `MAX_DEPTH`, and every mistake a ValueError."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any, NoReturn

from spherectl.errors import FileError
from spherectl.shown import quoted, shortened

MAX_DEPTH = 64  # tables within tables; our own files reach 6
MAX_TOML = 1 << 20  # characters; tomllib reads 1 MB in some seconds, and our own files have 5 kB

# A key of so many parts, for which tomllib needs time that grows with the square of their number.
_DEEP_KEY = re.compile(
    r"""(?<![\w-])(?:(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'|[\w-]++)[ \t]*+\.[ \t]*+){%d}""" % MAX_DEPTH  # noqa: UP031
)


def parse_json(text: str | bytes, *, most_bytes: int | None = None) -> Any:
    """The value that a JSON text stands for.

    Args:
        text: UTF-8 (with or without a byte order mark), or a string.
        most_bytes: more than this is refused unread; None: the caller has bounded it.

    Raises:
        ValueError: too long, not JSON, nested deeper than `MAX_DEPTH`, or with numbers that are none (NaN, Infinity);
            the message follows a colon.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    if most_bytes is not None and len(text) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start:,} is not UTF-8") from None
    check_depth(value)
    return value


def parse_table(text: str | bytes, what: str, *, most_bytes: int | None = None) -> dict[str, Any]:
    """`parse_json` of what has to be a JSON object.

    Args:
        text, most_bytes: as for `parse_json`.
        what: what errors call it, as in "the header of a.safetensors".

    Raises:
        FileError: it is none.
    """
    try:
        value = parse_json(text, most_bytes=most_bytes)
    except ValueError as error:
        raise FileError(f"{what} is not JSON: {shortened(str(error))}.") from None
    if not isinstance(value, dict):
        raise FileError(f"{what}: expected a JSON object, got {quoted(value)}.")
    return value


def parse_toml(text: str) -> dict[str, Any]:
    r"""The tables of a TOML text; a byte order mark at its beginning is none of it.

    Raises:
        tomllib.TOMLDecodeError (a ValueError): not TOML, longer than `MAX_TOML`, or nested deeper than `MAX_DEPTH`.

    Example:
        >>> parse_toml("[a]\nb = 1")
        {'a': {'b': 1}}
    """
    if len(text) > MAX_TOML:
        raise tomllib.TOMLDecodeError(f"it has more than {MAX_TOML:,} characters")
    if _DEEP_KEY.search(text):
        raise tomllib.TOMLDecodeError(f"it is nested deeper than {MAX_DEPTH}")
    try:
        table = tomllib.loads(text.removeprefix("\ufeff"))
        check_depth(table)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError(f"it is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:  # numbers and dates beyond Python's
        raise tomllib.TOMLDecodeError(shortened(str(error))) from None
    return table


def check_depth(value: Any) -> None:
    """Refuse lists and tables nested deeper than `MAX_DEPTH`: who walks them calls himself at each level.

    Raises:
        ValueError: they are.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
