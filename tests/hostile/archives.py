"""Arrays, tars and packed files: claims of any size, bombs, and damage."""

from __future__ import annotations

import gzip
import io
import json
import struct
import warnings
import zipfile
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.hostile import bases
from tests.hostile.documents import TRAININGS, data_recipe
from tests.hostile.harness import Attempt, File
from tests.hostile.models import recipe_text
from tests.hostile.values import command_lines, damaged, json_texts, one_in, pick, texts

WIDTH = 128  # of the embedding of the scoring network of Fashion-MNIST
ARRAYS = [
    *(np.zeros(0), np.zeros(()), np.zeros((3, 4)), np.zeros((WIDTH, 1)), np.zeros(WIDTH, complex)),
    *(np.zeros(WIDTH, kind) for kind in (bool, "datetime64[s]", "U3", [("a", "f4")], np.float16)),
    *(np.full(WIDTH, np.nan), np.full((WIDTH, WIDTH), np.inf), np.full((WIDTH, WIDTH), 1e300), -np.eye(WIDTH)),
]
SHAPES = [(1 << 30,), (10**6, 10**6), (-1,), (2**63,), ((1,),), (10**30,), (True,), "a", (1,) * 100, [2]]
DESCRS = ["<f8", "<f4", "|O", "<U1000000000", "|V1000000000", "<M8[ns]", "abc", "|S0", [("a", "<f8")] * 3, ""]
EVALUATE = command_lines("""
evaluate M --count 16 --steps 1 --metrics fd --reference s.npz --data DATA
evaluate M --count 16 --steps 1 --reference s.npz --data DATA
""")


@st.composite
def statistics(draw: Any) -> Attempt:
    """An .npz of statistics: other shapes and types, claims of gigabytes, hostile words about itself."""
    about = {"format": 1, "name": "a", "features": "fashion-scorer", "image_size": 32, "count": 100}
    arrays: dict[str, Any] = {"mu": np.zeros(WIDTH), "sigma": np.eye(WIDTH), "about": np.array(json.dumps(about))}
    way = pick(draw, "about", "about", "array", "array", "claim", "damaged", "zip", "value")
    name = pick(draw, *arrays)
    members = {f"{key}.npy": array_bytes(value) for key, value in arrays.items()}
    if way == "about":
        arrays["about"] = np.array(draw(json_texts(about)).decode("utf-8", "replace").replace("\x00", ""))
    elif way == "array":
        arrays[name] = pick(draw, *ARRAYS)
    elif way == "value":
        del arrays[name]
    content = bases.npz(arrays)
    if way == "claim":
        zeros = {f"{name}.npy": pick(draw, 0, 1 << 20, 1 << 28)}
        header = bases.npy_header(pick(draw, *SHAPES), pick(draw, *DESCRS))
        content = bases.npz_of(members | {f"{name}.npy": header}, zeros)
    elif way == "zip":
        content = odd_zip(draw, members)
    elif way == "damaged":
        content = draw(damaged(content, 300))
    return Attempt("statistics", EVALUATE[not one_in(draw, 4)], {"s.npz": content, "m.safetensors": bases.tiny()})


def array_bytes(array: Any) -> bytes:
    """An array as a file."""
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return written.getvalue()


def odd_zip(draw: Any, members: dict[str, bytes]) -> bytes:
    """A zip with doubled, strangely named, or strangely packed members."""
    written = io.BytesIO()
    name = pick(draw, "../../x.npy", "mu.npy", "/etc/x", "a\x1b[31m.npy", "mu")
    way = pick(draw, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", way) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for key, content in [*members.items(), (name, b"x" * 100)]:
            archive.writestr(key, content)
    packed = written.getvalue()
    if draw(st.booleans()):  # sizes in the central directory that are not true
        at = packed.rindex(b"PK\x01\x02") + 20
        packed = packed[:at] + struct.pack("<II", pick(draw, 0, 2**31, 2**32 - 1), 2**32 - 1) + packed[at + 8 :]
    return packed


# Shards

SIZES = [
    *(b"%011o" % (8 << 30), b"77777777777", b"-0000000001", b"\x80" + b"\0" * 7 + b"\x7f\0\0\0", b"\xff" * 12),
    *(b"          ", b"99999999999", b"\0" * 12),
]
PAX = [
    *(b"19 path=a/b/c.png\n", b"9999999 path=x\n", b"0 a=b\n", b"30 size=99999999999999999999\n"),
    *(b"22 GNU.sparse.major=1\n", b"x" * 600, b"25 path=\x1b[31mred.png  \n"),
]
TYPES = [bytes([code]) for code in b"01234567xgLKSV\x1b\0"]
LABELS = [
    *(b"-1", b"1e9", b"999999999999", b"", b"\xff", b"9" * 5000, b"1.5", b"\x1b[31m", b"true", b" 1 \n"),
    b"\xc2\xb2",
]
PATTERNS = [
    *("d/{0..9999999}.tar", "d/{0..9}{0..9999}{0..9999}.tar", "d/{9..0}.tar", "d/{a..z}.tar", "d/**", "d/*" * 200),
    *("d/{" + "9" * 40 + "..1}.tar", "d/[", "{,}" * 40, "d/{{0..1}}.tar"),
]


@st.composite
def shards(draw: Any) -> Attempt:
    """Tars whose headers lie, damaged ones, and patterns that name millions."""
    members: list[tuple[str, bytes, dict[str, Any]]] = []
    for number in range(8):
        members += [(f"{number}.png", bases.image(), {}), (f"{number}.cls", str(number % 2).encode(), {})]
    way = pick(draw, "fields", "fields", "labels", "names", "pax", "damaged", "pattern", "packed", "padding")
    place = draw(st.integers(0, len(members) - 1))
    name, content, _ = members[place]
    if way == "fields":
        linked = {"type": pick(draw, *TYPES), "link": b"../../etc/passwd"}
        members[place] = (name, content, {"size": pick(draw, *SIZES)} if draw(st.booleans()) else linked)
    elif way == "labels":
        label = pick(draw, *LABELS)
        members = [(key, label if key == "0.cls" else body, fields) for key, body, fields in members]
        if draw(st.booleans()):
            members.append(("0.json", draw(json_texts({"label": 0, "class_id": 1})), {}))
    elif way == "names":
        odd = draw(texts).encode("utf-8", "surrogatepass").replace(b"\0", b"")[:90].decode("utf-8", "surrogateescape")
        members[place] = (odd + pick(draw, "", ".png", ".cls", ".json"), content, {})
    elif way == "pax":
        members.insert(place, ("pax", pick(draw, *PAX), {"type": pick(draw, b"x", b"g", b"L")}))
    tar = bases.tar_of(members)
    if way == "damaged":
        tar = draw(damaged(tar, 600))
    elif way == "packed":
        tar = gzip.compress(tar)
    elif way == "padding":
        tar += bytes(1 << 24)
    target = pick(draw, *PATTERNS) if way == "pattern" else "d"
    recipe = recipe_text(data_recipe("shards", num_classes=pick(draw, 0, 2)))
    files: dict[str, File] = {"d/0.tar": tar, "r.toml": recipe}
    return Attempt("shards", ("train", "r.toml", "--data", target, *pick(draw, *TRAININGS)), files)


# Data sets in their own formats


@st.composite
def datasets(draw: Any) -> Attempt:
    """Fashion-MNIST's files, changed: counts and sides of any size, a gzip bomb, damage."""
    files = {path.name: path.read_bytes() for path in bases.EXCERPT.glob("*.gz")}
    name = pick(draw, *sorted(files))
    way = pick(draw, "numbers", "numbers", "damaged", "bomb", "plain", "cut")
    content = bytearray(gzip.decompress(files[name]))
    if way == "numbers":
        at = pick(draw, 0, 4, 8, 12)
        content[at : at + 4] = struct.pack(">I", pick(draw, 0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1))
        files[name] = gzip.compress(bytes(content), 1)
    elif way == "damaged":
        files[name] = draw(damaged(files[name], 40))
    elif way == "bomb":
        files[name] = gzip_bomb(bytes(content[:16]), pick(draw, 1 << 22, 1 << 30))
    elif way == "cut":
        files[name] = gzip.compress(bytes(content[: draw(st.integers(0, len(content)))]), 1)
    else:
        files[name] = bytes(content)
    given: dict[str, File] = {f"d/{key}": value for key, value in files.items()}
    given["r.toml"] = recipe_text(bases.RECIPE)
    return Attempt("data set", ("train", "r.toml", "--data", "d", *pick(draw, *TRAININGS)), given)


def gzip_bomb(head: bytes, size: int) -> bytes:
    """A gzip file of `head` and `size` zero bytes, made without them in memory."""
    written = io.BytesIO()
    with gzip.GzipFile(fileobj=written, mode="wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return written.getvalue()


KINDS = {"statistics": statistics(), "shards": shards(), "data set": datasets()}
