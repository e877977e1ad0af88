"""Images of every format under every name, damaged ones, bombs, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from tests.hostile import bases
from tests.hostile.harness import Attempt, File
from tests.hostile.models import recipe_text
from tests.hostile.values import command_lines, damaged, pick

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
    *("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "ICO", "SGI", "DDS", "EPS", "PDF"),
    *("JPEG2000", "IM", "MSP", "XBM", "ICNS", "AVIF"),
)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".PNG", ".eps", ".ps", ".pdf", ".avif"),
    *(".jfif", ".svg", "", ".png.gz"),
)
FOREIGN = [POSTSCRIPT, PDF, SVG, XPM, PPM, FITS, MPO_LIKE, WMF, FLI, b"\xc5\xd0\xd3\xc6" + POSTSCRIPT]
HEADS = [b"", b"\0", bytes(5000), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"]
HEADS += [b"RIFF\0\0\0\0WEBP"]


def written(format_: str, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    """An image of a format, or nothing where Pillow cannot write it so."""
    out = io.BytesIO()
    try:
        image = Image.open(io.BytesIO(bases.image(size)))
        if mode == "I;16":
            image = image.convert("L").convert("I").point(lambda value: value * 256)
        image.convert(mode).save(out, format_)
    except (OSError, ValueError, KeyError, TypeError):
        return b""
    return out.getvalue()


def png_of(width: int, height: int, colour: int = 2, depth: int = 8, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG that claims any size."""
    head = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_text_bomb(size: int) -> bytes:
    """A small PNG whose compressed text unpacks to `size` bytes."""
    plain = bases.image()
    return plain[:33] + chunk(b"zTXt", b"spherectl\0\0" + zlib.compress(bytes(size), 1)) + plain[33:]


@st.composite
def contents(draw: Any) -> tuple[bytes, bool]:
    """The bytes of an image file, and whether they are known to be none that is read."""
    way = pick(draw, "format", "format", "damaged", "damaged", "size", "foreign", "modes", "frames", "empty")
    if way == "format":
        content = written(pick(draw, *FORMATS))
        return (content, False) if content else (POSTSCRIPT, True)
    if way == "modes":
        size = pick(draw, (32, 32), (1, 1), (1, 500), (33, 31))
        return written(pick(draw, "PNG", "TIFF", "JPEG", "GIF"), pick(draw, *MODES), size), False
    if way == "damaged":
        return draw(damaged(written(pick(draw, *FORMATS[:6])), 60)), False
    if way == "size":
        width, height = (pick(draw, 0, 1, 2**15, 60_000, 2**31 - 1, 2**31, 2**32 - 1) for _ in range(2))
        data = zlib.compress(bytes(1 << pick(draw, 4, 20)))
        colour, depth = pick(draw, 0, 2, 3, 4, 6, 7), pick(draw, 1, 8, 16, 3)
        return png_of(width, height, colour, depth, data), width * height > 2**28
    if way == "frames":
        first, *others = [Image.new("P", (32, 32), number) for number in range(pick(draw, 2, 50))]
        out = io.BytesIO()
        first.save(out, pick(draw, "GIF", "TIFF", "PNG", "WEBP"), save_all=True, append_images=others)
        return out.getvalue(), False
    return pick(draw, *(HEADS if way == "empty" else FOREIGN)), True


# F is the file.
READERS = command_lines("""
edit F --reconstruct --model M OUT
edit F a.png --harmonize --model M OUT
edit a.png c.png --harmonize --mask F --model M OUT
encode F --model M --out l.safetensors
encode d --model M --out l.safetensors
interpolate a.png F --frames 2 --model M OUT
restore F --task denoise --rounds 1 --model M OUT
restore a.png --task inpaint --mask F --rounds 1 --model M OUT
restore a.png --task deblur --kernel F --rounds 1 --model M OUT
sample --like F --model M OUT
train f.toml --data d --run-dir run
""")
LIKE = READERS[9]
ALONE = [READERS[number] for number in (0, 3, 6, 7, 9)]


def asked(kind: str, reader: tuple[str, ...], name: str, content: File, *, wrong: bool) -> Attempt:
    """A command line about one file, or about a folder with it; a program `gs` stands ready to be started."""
    recipe = {**bases.RECIPE, "data": {"kind": "folder", "fit": "crop", "workers": 0}}
    recipe["model"] = {**bases.RECIPE["model"], "num_classes": 0}
    files: dict[str, File] = {"m.safetensors": bases.tiny(), "f.toml": recipe_text(recipe), "bin/gs": executable(GS)}
    files |= {"a.png": bases.image(), "c.png": bases.image()}
    if "d" in reader:
        files |= {f"d/{number}.png": bases.image() for number in range(8)} | {f"d/{name}": content}
    else:
        files[name] = content
    argv = tuple(name if word == "F" else word for word in reader)
    return Attempt(kind, argv, files, {"PATH": "{work}/bin:/usr/bin:/bin"}, wrong=wrong and "d" not in reader)


@st.composite
def attempts(draw: Any) -> Attempt:
    """A command that reads it."""
    content, wrong = draw(contents())
    return asked("images", pick(draw, *READERS), f"b{pick(draw, *SUFFIXES)}", content, wrong=wrong)


def executable(content: bytes) -> File:
    """A file that may be run."""

    def make(path: Path) -> None:
        path.write_bytes(content)
        path.chmod(0o700)

    return make


@st.composite
def bombs(draw: Any) -> Attempt:
    """Small files that unpack to a lot."""
    way = pick(draw, "text", "pixels", "icc", "tiff", "gif")
    reader = LIKE if way == "text" else pick(draw, *ALONE)
    side = pick(draw, 13_300, 30_000)
    if way == "text":
        content = png_text_bomb(pick(draw, 1 << 20, 1 << 26, 1 << 28))
    elif way == "pixels":
        colour, depth = pick(draw, (0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 8), (6, 8))
        packed = zlib.compressobj(1)
        row = bytes(1 + side * depth * {0: 1, 2: 3, 3: 1, 6: 4}[colour] // 8)
        data = b"".join(packed.compress(row) for _ in range(64)) + packed.flush()
        content = png_of(side, side, colour, depth, data)
    elif way == "icc":
        content = bases.image(icc_profile=bytes(1 << 20))
    elif way == "tiff":
        content = tiff_of(side, side)
    else:
        sides = struct.pack("<HH", side, side)
        content = b"GIF89a" + sides + b"\x80\0\0" + bytes(6) + b",\0\0\0\0" + sides + b"\0\2\2D\1\0;"
    return asked("image bombs", reader, "b.png", content, wrong=way != "icc")


def tiff_of(width: int, height: int) -> bytes:
    """A TIFF that claims a size and has one byte of it."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 1)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(entries)) + body + bytes(4)


KINDS = {"images": attempts(), "image bombs": bombs()}
