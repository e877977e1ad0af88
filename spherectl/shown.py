"""Text as it may be shown: control characters visible, long values cut in the middle, long lists cut at ten.

Names, values and sentences come from files, settings and servers of strangers. A terminal obeys escape characters, and
a value of megabytes buries the sentence around it. Every error and everything that the command line prints passes
through here.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable
from enum import Enum
from typing import Any

MAX_VALUE = 200  # characters of one value or word
MAX_LISTED = 10  # entries of a list in a sentence
MAX_SENTENCE = 4_000  # characters of one message; what is longer was no sentence to begin with
MAX_DIGITS = 400  # of a whole number whose digits are looked at at all

_CUT = "..."
_WORD = re.compile(rf"\S{{{MAX_VALUE + 1},}}")

# Control characters (C0, DEL, C1), line separators, marks that turn the direction of writing, and halves of surrogate
# pairs, by which Python holds bytes of a name that are no UTF-8: those are shown as the bytes they are.
_CONTROL = [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF]
_SURROGATES = range(0xD800, 0xE000)
_BYTES = range(0xDC80, 0xDD00)


def _escape(point: int) -> str:
    if point in _BYTES:
        return f"\\x{point - 0xDC00:02x}"
    return {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(point, f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}")


_ESCAPES = {point: _escape(point) for point in (*_CONTROL, *_SURROGATES)}
_ESCAPES_BETWEEN_LINES = {point: escape for point, escape in _ESCAPES.items() if point not in (0x09, 0x0A)}
# JSON has an escape of its own for these; what is below a space is escaped already, or stands between values.
_JSON_ESCAPES = {point: f"\\u{point:04x}" for point in _ESCAPES if point >= 0x7F}


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with each character that a terminal would obey as an escape: ``\x1b``, ``\n``, ``\u202e``.

    Args:
        text: anything.
        lines: whether line ends and tabs stay as they are, as in a whole document.

    Example:
        >>> printable("red\x1b[31m")
        'red\\x1b[31m'
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ESCAPES_BETWEEN_LINES if lines else _ESCAPES)


def shortened(text: str, most: int = MAX_VALUE) -> str:
    """The text, cut in the middle to `most` characters if it is longer.

    Example:
        >>> shortened("abcdefghijkl", most=9)
        'abc...jkl'
    """
    if len(text) <= most:
        return text
    kept = most - len(_CUT)
    return f"{text[: kept - kept // 2]}{_CUT}{text[len(text) - kept // 2 :]}"


class _Short(reprlib.Repr):
    """`repr` that looks at no more of a value than it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = MAX_VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = MAX_LISTED
        self.maxlevel = 3

    def repr_int(self, x: int, _level: int) -> str:
        if x.bit_length() > MAX_DIGITS * 3.33:  # Python refuses to write thousands of digits
            return f"a number of about {round(x.bit_length() * 0.30103):,} digits"
        return shortened(repr(x))


_short = _Short()


def quoted(value: Any) -> str:
    """A value as in Python's source, `repr`, cut where it is long and safe to print; a choice of an Enum by its value.

    Example:
        >>> len(quoted("a" * 500))
        200
    """
    if isinstance(value, Enum):
        value = value.value
    return printable(shortened(_short.repr(value), MAX_VALUE + 2))


def listed(items: Iterable[Any], most: int = MAX_LISTED, separator: str = ", ") -> str:
    """The first of a list, and how many more there are: "a, b and 2,990 more".

    Example:
        >>> listed(range(12), most=3)
        '0, 1, 2 and 9 more'
    """
    every = list(items)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return separator.join(shortened(str(item)) for item in every[:most]) + more


def with_article(noun: str) -> str:
    """A noun after "a" or "an"."""
    return f"{'an' if noun[:1].lower() in {*'aeiou'} else 'a'} {noun}"


def sentence(text: str) -> str:
    """A message on one line: printable, no word longer than `MAX_VALUE`, no longer than `MAX_SENTENCE` in all."""
    text = shortened(text, 4 * MAX_SENTENCE)  # first, so that the rest costs nothing
    text = _WORD.sub(lambda word: shortened(word[0]), printable(text))
    return shortened(text, MAX_SENTENCE)


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """A JSON document of several lines, keys in the order given, whose strings are safe to print.

    A reader gets back the strings as they were: JSON's own escapes stand for control characters, and with `ascii_only`
    for all that is not ASCII.
    """
    return json.dumps(value, indent=2, ensure_ascii=ascii_only, default=str).translate(_JSON_ESCAPES)
