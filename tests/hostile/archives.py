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
from tests.hostile.documents import EXCERPT, data_recipe
from tests.hostile.harness import Attempt, File
from tests.hostile.models import M, recipe_text
from tests.hostile.values import damaged, json_texts, texts

WIDTH = 128  # of the embedding of the scoring network of Fashion-MNIST


@st.composite
def statistics(draw: Any) -> Attempt:
    """An .npz of statistics: other shapes and types, claims of gigabytes, hostile words about itself."""
    about = {"format": 1, "name": "a", "features": "fashion-scorer", "image_size": 32, "count": 100}
    arrays: dict[str, Any] = {"mu": np.zeros(WIDTH), "sigma": np.eye(WIDTH), "about": np.array(json.dumps(about))}
    way = draw(st.sampled_from(["about", "about", "array", "array", "claim", "damaged", "zip", "value"]))
    content = b""
    if way == "about":
        arrays["about"] = np.array(draw(json_texts(about)).decode("utf-8", "replace").replace("\x00", ""))
    elif way == "array":
        name = draw(st.sampled_from(["mu", "sigma", "about"]))
        arrays[name] = draw(
            st.sampled_from(
                [
                    *(
                        np.zeros(0),
                        np.zeros(()),
                        np.zeros((3, 4)),
                        np.zeros((WIDTH, 1)),
                        np.zeros(WIDTH, complex),
                        np.zeros(WIDTH, bool),
                    ),
                    *(
                        np.zeros(WIDTH, "datetime64[s]"),
                        np.zeros(WIDTH, "U3"),
                        np.zeros(WIDTH, [("a", "f4")]),
                        np.zeros(WIDTH, np.float16),
                    ),
                    *(
                        np.full(WIDTH, np.nan),
                        np.full((WIDTH, WIDTH), np.inf),
                        np.full((WIDTH, WIDTH), 1e300),
                        -np.eye(WIDTH),
                    ),
                ]
            )
        )
    elif way == "value":
        del arrays[draw(st.sampled_from(sorted(arrays)))]
    elif way == "claim":
        shape = draw(
            st.sampled_from(
                [(1 << 30,), (10**6, 10**6), (-1,), (2**63,), ((1,),), (10**30,), (True,), "a", (1,) * 100, [2]]
            )
        )
        descr = draw(
            st.sampled_from(
                ["<f8", "<f4", "|O", "<U1000000000", "|V1000000000", "<M8[ns]", "abc", "|S0", [("a", "<f8")] * 3, ""]
            )
        )
        name = draw(st.sampled_from(["mu", "sigma", "about"]))
        zeros = {f"{name}.npy": draw(st.sampled_from([0, 1 << 20, 1 << 28]))}
        members = {f"{key}.npy": array_bytes(value) for key, value in arrays.items()}
        content = bases.npz_of(members | {f"{name}.npy": bases.npy_header(shape, descr)}, zeros)
    elif way == "zip":
        content = odd_zip(draw, {f"{key}.npy": array_bytes(value) for key, value in arrays.items()})
    if not content:
        content = bases.npz(arrays)
    if way == "damaged":
        content = draw(damaged(content, 300))
    argv = (
        "evaluate",
        M,
        "--count",
        "16",
        "--steps",
        "1",
        "--metrics",
        "fd",
        "--reference",
        "s.npz",
        "--data",
        EXCERPT,
    )
    if draw(st.integers(0, 3)):
        argv = tuple(word for word in argv if word not in {"--metrics", "fd"})
    return Attempt("statistics", argv, {"s.npz": content, "m.safetensors": bases.tiny()})


def array_bytes(array: Any) -> bytes:
    """An array as a file."""
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return written.getvalue()


def odd_zip(draw: Any, members: dict[str, bytes]) -> bytes:
    """A zip with doubled, strangely named, or strangely packed members."""
    written = io.BytesIO()
    name = draw(st.sampled_from(["../../x.npy", "mu.npy", "/etc/x", "a\x1b[31m.npy", "mu"]))
    way = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))

    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", way) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for key, content in members.items():
            archive.writestr(key, content)
        archive.writestr(name, b"x" * 100)
    content = written.getvalue()
    if draw(st.booleans()):  # sizes in the central directory that are not true
        at = content.rindex(b"PK\x01\x02")
        content = (
            content[: at + 20]
            + struct.pack("<II", draw(st.sampled_from([0, 2**31, 2**32 - 1])), 2**32 - 1)
            + content[at + 28 :]
        )
    return content


# Shards

SIZES = [
    b"%011o" % (8 << 30),
    b"77777777777",
    b"-0000000001",
    b"\x80" + b"\0" * 7 + b"\x7f\0\0\0",
    b"\xff" * 12,
    b"          ",
    b"99999999999",
    b"\0" * 12,
]
PAX = [
    b"19 path=a/b/c.png\n",
    b"9999999 path=x\n",
    b"0 a=b\n",
    b"30 size=99999999999999999999\n",
    b"22 GNU.sparse.major=1\n",
    b"x" * 600,
    b"25 path=\x1b[31mred.png  \n",
]
TYPES = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V", b"\x1b", b"\0"]


@st.composite
def shards(draw: Any) -> Attempt:
    """Tars whose headers lie, damaged ones, and patterns that name millions."""
    members = []
    for number in range(8):
        members += [(f"{number}.png", bases.image(), {}), (f"{number}.cls", str(number % 2).encode(), {})]
    way = draw(
        st.sampled_from(["fields", "fields", "labels", "names", "pax", "damaged", "pattern", "packed", "padding"])
    )
    place, target = draw(st.integers(0, len(members) - 1)), "d"
    name, content, _ = members[place]
    if way == "fields":
        members[place] = (name, content, {draw(st.sampled_from(["size", "type"])): b""})
        members[place] = (
            name,
            content,
            {"size": draw(st.sampled_from(SIZES))}
            if draw(st.booleans())
            else {"type": draw(st.sampled_from(TYPES)), "link": b"../../etc/passwd"},
        )
    elif way == "labels":
        label = draw(
            st.sampled_from(
                [
                    b"-1",
                    b"1e9",
                    b"999999999999",
                    b"",
                    b"\xff",
                    b"9" * 5000,
                    b"1.5",
                    b"\x1b[31m",
                    b"true",
                    b" 1 \n",
                    b"\xc2\xb2",
                ]
            )
        )
        members = [(key, label if key == "0.cls" else body, fields) for key, body, fields in members]
        if draw(st.booleans()):
            members.append(("0.json", draw(json_texts({"label": 0, "class_id": 1})), {}))
    elif way == "names":
        odd = draw(texts).encode("utf-8", "surrogatepass").replace(b"\0", b"")[:90].decode("utf-8", "surrogateescape")
        members[place] = (odd + draw(st.sampled_from(["", ".png", ".cls", ".json"])), content, {})
    elif way == "pax":
        members.insert(place, ("pax", draw(st.sampled_from(PAX)), {"type": draw(st.sampled_from([b"x", b"g", b"L"]))}))
    tar = bases.tar_of(members)
    if way == "damaged":
        tar = draw(damaged(tar, 600))
    elif way == "packed":
        tar = gzip.compress(tar)
    elif way == "padding":
        tar += bytes(1 << 24)
    elif way == "pattern":
        target = draw(
            st.sampled_from(
                [
                    "d/{0..9999999}.tar",
                    "d/{0..9}{0..9999}{0..9999}.tar",
                    "d/{9..0}.tar",
                    "d/{a..z}.tar",
                    "d/{" + "9" * 40 + "..1}.tar",
                    "d/**",
                    "d/*" * 200,
                    "d/[",
                    "{,}" * 40,
                    "d/{{0..1}}.tar",
                ]
            )
        )
    files: dict[str, File] = {
        "d/0.tar": tar,
        "r.toml": recipe_text(data_recipe("shards", num_classes=draw(st.sampled_from([0, 2])))),
    }
    how = draw(st.sampled_from([("--dry-run",), ("--run-dir", "run")]))
    return Attempt("shards", ("train", "r.toml", "--data", target, *how), files)


# Data sets in their own formats


@st.composite
def datasets(draw: Any) -> Attempt:
    """Fashion-MNIST's files, changed: counts and sides of any size, a gzip bomb, damage."""
    files = {path.name: path.read_bytes() for path in bases.EXCERPT.glob("*.gz")}
    name = draw(st.sampled_from(sorted(files)))
    way = draw(st.sampled_from(["numbers", "numbers", "damaged", "bomb", "plain", "cut"]))
    content = bytearray(gzip.decompress(files[name]))
    if way == "numbers":
        at = draw(st.sampled_from([0, 4, 8, 12]))
        content[at : at + 4] = struct.pack(">I", draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])))
        files[name] = gzip.compress(bytes(content), 1)
    elif way == "damaged":
        files[name] = draw(damaged(files[name], 40))
    elif way == "bomb":
        files[name] = gzip_bomb(bytes(content[:16]), draw(st.sampled_from([1 << 22, 1 << 30])))
    elif way == "cut":
        files[name] = gzip.compress(bytes(content[: draw(st.integers(0, len(content)))]), 1)
    else:
        files[name] = bytes(content)
    given: dict[str, File] = {f"d/{key}": value for key, value in files.items()}
    given["r.toml"] = recipe_text(bases.RECIPE)
    how = draw(st.sampled_from([("--dry-run",), ("--run-dir", "run")]))
    return Attempt("data set", ("train", "r.toml", "--data", "d", *how), given)


def gzip_bomb(head: bytes, size: int) -> bytes:
    """A gzip file of `head` and `size` zero bytes, made without them in memory."""
    written = io.BytesIO()
    with gzip.GzipFile(fileobj=written, mode="wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return written.getvalue()


KINDS = {"statistics": statistics(), "shards": shards(), "data set": datasets()}
