"""Hostile values, and changes of valid documents: any JSON type at any key, at any depth; bytes that were damaged."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

NUMBERS: list[Any] = [
    *(-1, 0, 1, 7, 127, 8192, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**31)),
    *(10**6, 10**9, 10**12, 10**18, 10**30, -(10**9), 10**400),
    *(0.5, -0.0, 1e-300, 1e300, 1.5, -1e9, float("nan"), float("inf"), float("-inf")),
]
TEXTS = [
    *("", " ", "a", "many", "true", "7", "1e999", "nan", "none", "all", "0-3", ",", "/", ".", "..", "~", "*"),
    *(
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "a\nb",
        "a\rb",
        "\t",
        "\x00",
        "\x7f",
        "\x9b31m",
        "\u202eabc",
        "\u2028",
        "\ufeff",
        "\ud800",
    ),
    *(
        "../../../etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "~nouser/x",
        "~",
        "a**",
        "{0..9999999}",
        "[a",
    ),
    *("hf:../..", "hf:a/b", "http://127.0.0.1:9/x", "http://[::1", "file:///etc/passwd", "https://\x1b[31m/"),
    *(
        "%s%n%d",
        "{0.__class__}",
        "[bold red]x[/]",
        "[/]",
        "é" * 300,
        "x" * 100_000,
        "a," * 5000,
        "a/" * 3000,
        "T-shirt/top",
    ),
]
MANY = 3_000  # entries of a list that has too many
DEEP = (70, 1_000, 100_000)

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), texts)


def is_short(item: Any) -> bool:
    """Whether thousands of it are no more than a large file."""
    return len(json.dumps(item)) < 500


nested = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
values = st.one_of(nested, nested, nested, scalars.filter(is_short).map(lambda item: [item] * MANY))
jobs = st.sampled_from(
    ["replace", "replace", "replace", "replace", "remove", "add", "wrap", "swap", "double", "rename"]
)


def paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, the document itself too."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    return [path, *(found for key, value in inner for found in paths(value, (*path, key)))]


def looked_up(tree: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a place."""
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def mutated(draw: Any, base: Any, most: int = 2, inner: Any = values) -> Any:
    """A document with one or two places changed: a value of any type, a key gone, new or renamed, a value wrapped."""
    tree = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, most))):
        places = paths(tree)
        path = draw(st.sampled_from(places[1:] or places)) if draw(st.integers(0, 30)) else ()
        job = draw(jobs)
        if not path:
            tree = draw(inner) if job == "replace" else tree
            continue
        parent, key = looked_up(tree, path[:-1]), path[-1]
        if job == "remove":
            del parent[key]
        elif job == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"a": parent[key]}, [[parent[key]]]]))
        elif job == "swap":
            parent[key] = copy.deepcopy(looked_up(tree, draw(st.sampled_from(places))))
        elif job == "double" and isinstance(parent, list) and len(parent) < MANY and is_short(parent[key]):
            parent.extend(copy.deepcopy(parent[key]) for _ in range(draw(st.sampled_from([1, MANY]))))
        elif job in {"add", "rename"} and isinstance(parent, dict):
            moved = parent.pop(key) if job == "rename" else draw(inner)
            parent[draw(texts)] = moved
        else:
            parent[key] = draw(inner)
    return tree


@st.composite
def json_texts(draw: Any, base: Any, most: int = 2) -> bytes:
    """A JSON document, changed; now and then its text is damaged as well."""
    tree = draw(mutated(base, most))
    text = json.dumps(tree).encode()
    return draw(damaged_text(text)) if draw(st.integers(0, 7)) == 0 else text


@st.composite
def damaged_text(draw: Any, text: bytes) -> bytes:
    """A text document with a mistake that no writer makes."""
    way = draw(
        st.sampled_from(
            ["cut", "deep", "deep table", "bom", "utf16", "latin", "twice", "empty", "digits", "bytes", "null"]
        )
    )
    cut = draw(st.integers(0, len(text)))
    depth = draw(st.sampled_from(DEEP))
    if way == "cut":
        return text[:cut]
    if way == "deep":
        return b"[" * depth
    if way == "deep table":
        return b'{"a":' * depth + b"1" + b"}" * depth
    if way == "bom":
        return b"\xef\xbb\xbf" + text
    if way == "utf16":
        return text.decode("utf-8", "replace").encode("utf-16")
    if way == "latin":
        return text[:cut] + b"\xe9" + text[cut:]
    if way == "twice":
        return text + text
    if way == "empty":
        return draw(st.sampled_from([b"", b" ", b"\n" * 1000, b"\x00" * 1000]))
    if way == "digits":
        return text[:cut] + b"9" * 10_000 + text[cut:]
    if way == "null":
        return text[:cut] + b"\x00" + text[cut:]
    return draw(st.binary(max_size=200))


@st.composite
def damaged(draw: Any, content: bytes, head: int = 0) -> bytes:
    """A binary file, cut, with bytes changed, or with more behind it.

    Args:
        content: a valid file.
        head: bytes at its beginning that are changed more often than others; 0: none.
    """
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        end = min(head, len(out)) if head and draw(st.booleans()) else len(out)
        at = draw(st.integers(0, max(0, end - 1)))
        way = draw(st.sampled_from(["flip", "flip", "number", "cut", "insert", "erase"]))
        if way == "flip" and out:
            out[at] = draw(st.integers(0, 255))
        elif way == "number":
            width = draw(st.sampled_from([2, 4, 8]))
            number = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            out[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, draw(st.sampled_from(["little", "big"])))
        elif way == "cut":
            del out[at:]
        elif way == "insert":
            out[at:at] = draw(st.binary(min_size=1, max_size=16))
        else:
            del out[at : at + draw(st.integers(1, 64))]
    return bytes(out)
