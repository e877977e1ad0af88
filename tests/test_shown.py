from __future__ import annotations

import doctest
import json

import pytest

from spherectl import documents, shown
from spherectl.cli.options import DeviceName
from spherectl.errors import FileError, UsageError
from spherectl.shown import MAX_SENTENCE, MAX_VALUE, json_text, listed, printable, quoted, shortened

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("module", [shown, documents])
def test_the_examples_of_the_docstrings_run(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("plain", "plain"),
        ("Grüße, 你好, 👩\u200d🚀", "Grüße, 你好, 👩\u200d🚀"),  # a joiner within an emoji turns nothing
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("caf\udce9", r"caf\xe9"),  # a Latin-1 name, as os.fsdecode gives it
        ("\ud83d", r"\ud83d"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, right):
    assert printable(text) == right
    assert printable(right) == right
    printable(text).encode()


def test_a_long_value_is_cut_in_the_middle():
    text = "".join(map(str, range(10_000)))
    assert len(shortened(text)) == MAX_VALUE
    assert text.startswith(shortened(text)[:90])
    assert text.endswith(shortened(text)[-90:])
    assert shortened("short") == "short"


def test_no_value_is_quoted_at_length_and_a_short_one_as_in_python():
    for value in ("x" * 10**6, [["y" * 1000] * 1000] * 1000, {"k" * 10**6: 1}, -(10**9000), b"z" * 10**6):
        assert len(quoted(value)) <= MAX_VALUE + 2
    for value in ("a'b", -1.5, None, [1, "x"], {"a": [1]}):
        assert quoted(value) == repr(value)
    assert quoted(DeviceName.CUDA) == "'cuda'"
    assert listed(range(3000)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2,990 more"


@pytest.mark.parametrize("kind", [FileError, UsageError])
def test_every_error_is_safe_to_show_and_short(kind):
    error = kind("\x1b[31m" + "a" * 10**7 + " b" * 10**6, "Try \x07this.")
    assert len(error.message) <= MAX_SENTENCE
    assert error.message.startswith(r"\x1b[31maaa")
    assert "\x1b" not in str(error) + error.args[0]
    assert error.hint == r"Try \x07this."
    text = "Cannot read /a/" + "b" * 150 + "/c.png: it is no image."
    assert kind(text).message == text  # words of usual length are kept


def test_json_for_machines_reads_back_as_it_was_without_control_characters():
    value = {"name": "\x1b[0m \x9b \u202e caf\udce9 é 👍\n", "list": [1, 2.5, None, True]}
    text = json_text(value)
    assert json.loads(text) == value
    assert printable(text, lines=True) == text
    assert "é 👍" in text
