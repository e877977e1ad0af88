"""Images of every format under every name, damaged ones, bombs, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from tests.hostile import bases
from tests.hostile.harness import Attempt, File
from tests.hostile.models import OUT, M, recipe_text
from tests.hostile.values import damaged

# A program of this name stands first on the PATH: whoever starts it leaves a file.
GS = b'#!/bin/sh\ntouch "$(dirname "$0")/../started"\n'

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
SVG = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg width="32">&b;</svg>'
XPM = b'/* XPM */\nstatic char *a[] = {\n"2 2 1 1",\n"a c #ff0000",\n"aa",\n"aa"\n};\n'
PPM = b"P6\n99999 99999\n255\n" + bytes(64)
FITS = b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800)
MPO_LIKE = b"\xff\xd8\xff\xe2\x00\x10MPF\x00II*\x00" + bytes(100)
WMF = b"\xd7\xcd\xc6\x9a" + bytes(60)
FLI = bytes([0, 0, 0, 0, 0x11, 0xAF]) + struct.pack("<HHHH", 1, 60000, 60000, 8) + bytes(120)
FORMATS = (
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
    "TGA",
    "PCX",
    "ICO",
    "SGI",
    "DDS",
    "EPS",
    "PDF",
    "JPEG2000",
    "IM",
    "MSP",
    "XBM",
    "ICNS",
    "AVIF",
)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB")
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".PNG",
    ".eps",
    ".ps",
    ".pdf",
    ".avif",
    ".jfif",
    ".svg",
    "",
    ".png.gz",
)


def written(format_: str, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    """An image of a format, or nothing where Pillow cannot write it so."""
    out = io.BytesIO()
    try:
        image = Image.open(io.BytesIO(bases.image(size)))
        image = (
            image.convert("L").convert("I").point(lambda value: value * 256).convert("I;16")
            if mode == "I;16"
            else image.convert(mode)
        )
        image.save(out, format_)
    except (OSError, ValueError, KeyError, TypeError):
        return b""
    return out.getvalue()


def png_of(width: int, height: int, colour: int = 2, depth: int = 8, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG that claims any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_text_bomb(size: int) -> bytes:
    """A small PNG whose compressed text unpacks to `size` bytes."""
    packed = zlib.compress(bytes(size), 1)
    content = b"spherectl\0\0" + packed
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    plain = bases.image()
    return plain[:33] + chunk + plain[33:]


@st.composite
def contents(draw: Any) -> tuple[bytes, bool]:
    """The bytes of an image file, and whether they are known to be none that is read."""
    way = draw(
        st.sampled_from(["format", "format", "damaged", "damaged", "size", "foreign", "modes", "frames", "empty"])
    )
    if way == "format":
        content = written(draw(st.sampled_from(FORMATS)))
        return (content, False) if content else (POSTSCRIPT, True)
    if way == "modes":
        return written(
            draw(st.sampled_from(["PNG", "TIFF", "JPEG", "GIF"])),
            draw(st.sampled_from(MODES)),
            draw(st.sampled_from([(32, 32), (1, 1), (1, 500), (33, 31)])),
        ) or b"", False
    if way == "damaged":
        return draw(damaged(written(draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))), 60)), False
    if way == "size":
        sides = st.sampled_from([0, 1, 2**15, 60_000, 2**31 - 1, 2**31, 2**32 - 1])
        width, height = draw(sides), draw(sides)
        data = zlib.compress(bytes(1 << draw(st.sampled_from([4, 20]))))
        return png_of(
            width, height, draw(st.sampled_from([0, 2, 3, 4, 6, 7])), draw(st.sampled_from([1, 8, 16, 3])), data
        ), width * height > 2**28
    if way == "frames":
        frames = [Image.new("P", (32, 32), number) for number in range(draw(st.sampled_from([2, 50])))]
        out = io.BytesIO()
        frames[0].save(
            out, draw(st.sampled_from(["GIF", "TIFF", "PNG", "WEBP"])), save_all=True, append_images=frames[1:]
        )
        return out.getvalue(), False
    if way == "empty":
        return draw(
            st.sampled_from(
                [
                    b"",
                    b"\0",
                    bytes(5000),
                    b"\x89PNG\r\n\x1a\n",
                    b"\xff\xd8\xff",
                    b"GIF89a",
                    b"BM",
                    b"II*\0",
                    b"RIFF\0\0\0\0WEBP",
                ]
            )
        ), True
    return draw(
        st.sampled_from([POSTSCRIPT, PDF, SVG, XPM, PPM, FITS, MPO_LIKE, WMF, FLI, b"\xc5\xd0\xd3\xc6" + POSTSCRIPT])
    ), True


READERS = [
    ("edit", "{}", "--reconstruct", "--model", M, *OUT),
    ("edit", "{}", "a.png", "--harmonize", "--model", M, *OUT),
    ("edit", "a.png", "c.png", "--harmonize", "--mask", "{}", "--model", M, *OUT),
    ("encode", "{}", "--model", M, "--out", "{work}/l.safetensors"),
    ("encode", "d", "--model", M, "--out", "{work}/l.safetensors"),
    ("interpolate", "a.png", "{}", "--frames", "2", "--model", M, *OUT),
    ("restore", "{}", "--task", "denoise", "--rounds", "1", "--model", M, *OUT),
    ("restore", "a.png", "--task", "inpaint", "--mask", "{}", "--rounds", "1", "--model", M, *OUT),
    ("restore", "a.png", "--task", "deblur", "--kernel", "{}", "--rounds", "1", "--model", M, *OUT),
    ("sample", "--like", "{}", "--model", M, *OUT),
    ("train", "f.toml", "--data", "d", "--run-dir", "run"),
]


@st.composite
def attempts(draw: Any) -> Attempt:
    """A command that reads it."""
    content, wrong = draw(contents())
    reader = draw(st.sampled_from(READERS))
    name = "a" + draw(st.sampled_from(SUFFIXES))
    if name == "a.png":
        name = "b.png"
    folder = "d" in reader
    recipe = {**bases.RECIPE, "data": {"kind": "folder", "fit": "crop", "workers": 0}}
    recipe["model"] = {**bases.RECIPE["model"], "num_classes": 0}
    files: dict[str, File] = {
        "m.safetensors": bases.tiny(),
        "a.png": bases.image(),
        "c.png": bases.image(),
        "f.toml": recipe_text(recipe),
    }
    files[f"d/{name}" if folder else name] = content
    if folder:
        files |= {f"d/{number}.png": bases.image() for number in range(8)}
    files["bin/gs"] = executable(GS)
    argv = tuple(word.replace("{}", name) for word in reader)
    return Attempt("images", argv, files, {"PATH": "{work}/bin:/usr/bin:/bin"}, wrong=wrong and not folder)


def executable(content: bytes) -> Any:
    """A file that may be run."""

    def make(path: Any) -> None:
        path.write_bytes(content)
        path.chmod(0o700)

    return make


@st.composite
def bombs(draw: Any) -> Attempt:
    """Small files that unpack to a lot."""
    way = draw(st.sampled_from(["text", "pixels", "icc", "tiff", "gif"]))
    wrong = way != "icc"
    if way == "text":
        content = png_text_bomb(draw(st.sampled_from([1 << 20, 1 << 26, 1 << 28])))
        reader = READERS[9]
    else:
        reader = draw(st.sampled_from([READERS[number] for number in (0, 3, 6, 7, 9)]))
        side = draw(st.sampled_from([13_300, 30_000]))
        if way == "pixels":
            colour, depth = draw(st.sampled_from([(0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 8), (6, 8)]))
            packed = zlib.compressobj(1)
            row = bytes(1 + side * depth * {0: 1, 2: 3, 3: 1, 6: 4}[colour] // 8)
            data = b"".join(packed.compress(row) for _ in range(64)) + packed.flush()
            content = png_of(side, side, colour, depth, data)
        elif way == "icc":
            content = bases.image(icc_profile=bytes(1 << 20))
        elif way == "tiff":
            content = tiff_of(side, side)
        else:
            content = (
                b"GIF89a"
                + struct.pack("<HH", side, side)
                + b"\x80\0\0"
                + bytes(6)
                + b",\0\0\0\0"
                + struct.pack("<HH", side, side)
                + b"\0\2\2D\1\0;"
            )
    argv = tuple(word.replace("{}", "b.png") for word in reader)
    files: dict[str, File] = {
        "m.safetensors": bases.tiny(),
        "a.png": bases.image(),
        "c.png": bases.image(),
        "b.png": content,
    }
    return Attempt("image bombs", argv, files, wrong=wrong)


def tiff_of(width: int, height: int) -> bytes:
    """A TIFF that claims a size and has one byte of it."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 1)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(entries)) + body + bytes(4)


KINDS = {"images": attempts(), "image bombs": bombs()}
