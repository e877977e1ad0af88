"""JSON and TOML of strangers: what is no document is a ValueError, soon."""

from __future__ import annotations

import time
import tomllib

import pytest

from spherectl.documents import MAX_DEPTH, MAX_TOML, parse_json, parse_table, parse_toml
from spherectl.errors import FileError

pytestmark = pytest.mark.fast

MAX_S = 5  # without the limits each of these takes minutes


@pytest.mark.parametrize(("key", "form"), [("a", "{}=1"), ('"\\""', "[{}]"), ("'a.b'", "t={{{}=1}}"), ("a ", "[{}]")])
def test_a_key_of_many_parts_is_refused_before_it_is_read(key, form):
    text = form.format(".".join([key] * 100_000))
    began = time.monotonic()
    with pytest.raises(ValueError, match=f"it is nested deeper than {MAX_DEPTH}|more than {MAX_TOML:,} characters"):
        parse_toml(text[: MAX_TOML - 1])
    assert time.monotonic() - began < MAX_S
    parse_toml(".".join(["a"] * (MAX_DEPTH - 1)) + " = 1")
    numbers = [i / 7 for i in range(5_000)]  # dots of numbers and texts are no keys
    assert parse_toml(f'\ufeffa = {numbers}\nb = "{"..." * 5_000}"\nc = "{"so. and so. " * 500}"')["a"] == numbers


@pytest.mark.parametrize("text", ["", "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "[Infinity]", "1" * 5000, b"\xff"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are many
        parse_json(text)
    with pytest.raises(FileError, match="is not JSON"):
        parse_table(text, "It")


def test_json_reads_a_byte_order_mark_and_keeps_its_bounds():
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="more than 3 bytes"):
        parse_json("[1, 2]", most_bytes=3)
    with pytest.raises(FileError, match="expected a JSON object, got \\[1\\]"):
        parse_table("[1]", "It")


@pytest.mark.parametrize(
    "text", ["a", "a = " + "[" * 10**5, "a = " + "1" * 5000, "a = 9999-99-99", "a.b.c" * 20 + "= 1 x"]
)
def test_what_is_no_toml_is_a_decode_error(text):
    with pytest.raises(tomllib.TOMLDecodeError):
        parse_toml(text)
