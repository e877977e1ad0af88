"""JSON and TOML of strangers: what is no document is a ValueError, soon."""

from __future__ import annotations

import time

import pytest

from spherectl.documents import MAX_DEPTH, MAX_TOML, parse_toml

pytestmark = pytest.mark.fast

MAX_S = 5  # without the limits each of these takes minutes


@pytest.mark.parametrize(
    "key",
    ["a", '"x y"', '"\\""', "'a.b'", "a ", "\ta"],
)
@pytest.mark.parametrize("form", ["{}=1", "[{}]", "t={{{}=1}}"])
def test_a_key_of_many_parts_is_refused_before_it_is_read(key, form):
    text = form.format(".".join([key] * 100_000))
    began = time.monotonic()
    with pytest.raises(ValueError, match=f"it is nested deeper than {MAX_DEPTH}|more than {MAX_TOML:,} characters"):
        parse_toml(text[: MAX_TOML - 1])
    assert time.monotonic() - began < MAX_S


def test_a_key_of_as_many_parts_as_are_allowed_is_read():
    table = parse_toml(".".join(["a"] * (MAX_DEPTH - 1)) + " = 1")
    for _ in range(MAX_DEPTH - 1):
        table = table["a"]
    assert table == 1


def test_dots_of_numbers_and_texts_are_no_keys():
    numbers = [i / 7 for i in range(5_000)]
    assert parse_toml(f'a = {numbers}\nb = "{"..." * 5_000}"\nc = "{"so. and so. " * 500}"')["a"] == numbers


def test_a_long_text_is_refused_unread():
    with pytest.raises(ValueError, match=f"more than {MAX_TOML:,} characters"):
        parse_toml("#" * (MAX_TOML + 1))
