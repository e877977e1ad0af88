"""Hostile values, and changes of valid documents: any JSON type at any key, at any depth; bytes that were damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.hostile.bases import EXCERPT

NUMBERS: list[Any] = [
    *(-1, 0, 1, 7, 127, 8192, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**31)),
    *(10**6, 10**9, 10**12, 10**18, 10**30, -(10**9), 10**400),
    *(0.5, -0.0, 1e-300, 1e300, 1.5, -1e9, float("nan"), float("inf"), float("-inf")),
]
CONTROLS = ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\nb", "a\rb", "\t", "\x00", "\x7f", "\x9b31m", "\u202eabc"]
TEXTS = [
    *("", " ", "a", "many", "true", "7", "1e999", "nan", "none", "all", "0-3", ",", "/", ".", "..", "~", "*"),
    *(*CONTROLS, "\u2028", "\ufeff", "\ud800", "../../../etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem"),
    *("~nouser/x", "~", "a**", "{0..9999999}", "[a", "hf:../..", "hf:a/b", "http://127.0.0.1:9/x", "http://[::1"),
    *("file:///etc/passwd", "https://\x1b[31m/", "%s%n%d", "{0.__class__}", "[bold red]x[/]", "[/]", "T-shirt/top"),
    *("é" * 300, "x" * 100_000, "a," * 5000, "a/" * 3000),
]
MANY = 3_000  # entries of a list that has too many
DEEP = (70, 1_000, 100_000)


def pick(draw: Any, *options: Any) -> Any:
    """One of several."""
    return draw(st.sampled_from(options))


def one_in(draw: Any, count: int) -> bool:
    """Whether it is this one's turn, as it is every `count` times."""
    return bool(draw(st.integers(0, count - 1)) == 0)


def command_lines(text: str) -> list[tuple[str, ...]]:
    """The command line of each line: M is the model's file, OUT where an image goes, DATA a piece of Fashion-MNIST."""
    short = {"M": ("{work}/m.safetensors",), "OUT": ("--out", "{work}/o.png"), "DATA": (str(EXCERPT),)}
    return [
        tuple(word for given in line.split() for word in short.get(given, (given,)))
        for line in text.strip().splitlines()
    ]


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
JOBS = (*("replace",) * 4, "remove", "add", "wrap", "swap", "double", "rename")


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
        job = pick(draw, *JOBS)
        if not path:
            tree = draw(inner) if job == "replace" else tree
            continue
        parent, key = looked_up(tree, path[:-1]), path[-1]
        if job == "remove":
            del parent[key]
        elif job == "wrap":
            parent[key] = pick(draw, [parent[key]], {"a": parent[key]}, [[parent[key]]])
        elif job == "swap":
            parent[key] = copy.deepcopy(looked_up(tree, draw(st.sampled_from(places))))
        elif job == "double" and isinstance(parent, list) and len(parent) < MANY and is_short(parent[key]):
            parent.extend(copy.deepcopy(parent[key]) for _ in range(pick(draw, 1, MANY)))
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
    return draw(now_and_then_damaged(json.dumps(tree).encode()))


@st.composite
def json_lines(draw: Any, base: list[Any]) -> bytes:
    """The same of a document of JSON lines."""
    rows = draw(mutated(base, 3))
    text = b"\n".join(json.dumps(row).encode() for row in (rows if isinstance(rows, list) else [rows])[:4000])
    return draw(now_and_then_damaged(text + b"\n"))


@st.composite
def now_and_then_damaged(draw: Any, text: bytes) -> bytes:
    """A text document as it is, or with a mistake."""
    return draw(damaged_text(text)) if one_in(draw, 7) else text


@st.composite
def damaged_text(draw: Any, text: bytes) -> bytes:
    """A text document with a mistake that no writer makes."""
    cut, depth = draw(st.integers(0, len(text))), pick(draw, *DEEP)
    ways: dict[str, Callable[[], bytes]] = {
        "cut": lambda: text[:cut],
        "deep": lambda: b"[" * depth,
        "deep table": lambda: b'{"a":' * depth + b"1" + b"}" * depth,
        "byte order mark": lambda: b"\xef\xbb\xbf" + text,
        "utf-16": lambda: text.decode("utf-8", "replace").encode("utf-16"),
        "latin-1": lambda: text[:cut] + b"\xe9" + text[cut:],
        "twice": lambda: text + text,
        "digits": lambda: text[:cut] + b"9" * 10_000 + text[cut:],
        "null": lambda: text[:cut] + b"\x00" + text[cut:],
        "empty": lambda: pick(draw, b"", b" ", b"\n" * 1000, b"\x00" * 1000),
        "bytes": lambda: draw(st.binary(max_size=200)),
    }
    return ways[pick(draw, *ways)]()


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
        way = pick(draw, "flip", "flip", "number", "cut", "insert", "erase")
        if way == "flip" and out:
            out[at] = draw(st.integers(0, 255))
        elif way == "number":
            width = pick(draw, 2, 4, 8)
            number = pick(draw, 0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
            out[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, pick(draw, "little", "big"))
        elif way == "cut":
            del out[at:]
        elif way == "insert":
            out[at:at] = draw(st.binary(min_size=1, max_size=16))
        else:
            del out[at : at + draw(st.integers(1, 64))]
    return bytes(out)
