"""load_image against pixels written by hand, and its one sentence for every kind of bad file."""

from __future__ import annotations

import io
import mmap
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from spherectl.data import decode
from spherectl.data.decode import (
    FORMATS,
    MAX_ASPECT,
    MAX_BYTES,
    MAX_WHOLE_BYTES,
    ImageError,
    is_animated,
    load_image,
    open_image,
)
from spherectl.errors import FileError

pytestmark = pytest.mark.fast

ORIENTATION = 0x0112

needs_avif = pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")


def ramp(height: int = 6, width: int = 9) -> np.ndarray:
    """Every pixel different, so that a wrong turn or swap shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack((20 * y, 20 * x, 100 + y + 10 * x), axis=-1).astype(np.uint8)


def pixels(path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    "suffix", ["png", "bmp", "tif", "webp", "gif", "jpg", "jfif", pytest.param("avif", marks=needs_avif)]
)
def test_every_format_gives_the_pixels_back_up_to_the_limit_of_pixels(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"image.{suffix}"
    if suffix in ("jpg", "jfif", "avif"):
        Image.new("RGB", (16, 16), (200, 100, 50)).save(path, quality=95)
        assert np.abs(pixels(path).astype(int) - (200, 100, 50)).max() <= 3
    else:
        Image.fromarray(ramp()).save(path, **({"lossless": True} if suffix == "webp" else {}))
        assert (pixels(path) == ramp()).all()
    for name in ("MAX_PIXELS", "MAX_WHOLE_PIXELS"):
        monkeypatch.setattr(decode, name, 53)
    with pytest.raises(ImageError, match="pixels, more than 53 in all"):
        load_image(path)


def test_16_bit_grey_is_rounded_not_cut_off(tmp_path):
    # Closed form: b = round(v / 257), since 65535 = 255 * 257. Pillow opens a TIFF of 32-bit integers as mode "I".
    values = np.array([[0, 128, 129, 256, 257, 385, 386], [1000, 32767, 32768, 40000, 65406, 65407, 65535]], np.uint16)
    for name, stored in (("image.png", values), ("image.tif", values), ("32.tif", values.astype(np.int32))):
        Image.fromarray(stored).save(tmp_path / name)
        assert (pixels(tmp_path / name) == np.round(values / 257).astype(np.uint8)[..., None]).all()
    for odd, words in ((np.int32([[0, 70000]]), "leave the range of 16 bits"), (np.float32([[0.5]]), "floating-point")):
        Image.fromarray(odd).save(tmp_path / "32.tif")
        with pytest.raises(FileError, match=words):
            load_image(tmp_path / "32.tif")


def test_one_bit_grey_and_cmyk(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bit.png")
    assert (pixels(tmp_path / "bit.png") == [[[255] * 3, [0] * 3]]).all()
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(tmp_path / "grey.png")
    assert (pixels(tmp_path / "grey.png") == [[[7] * 3, [200] * 3]]).all()
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert (pixels(tmp_path / "cmyk.tif") == (255, 0, 0)).all()


def test_alpha_is_laid_over_white(tmp_path):
    # Closed form: a c + (1 - a) 255 with a in {0, 0.4, 1}; 0.4 * 255 = 102.
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 102], [10, 20, 30, 255]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "image.png")
    assert (pixels(tmp_path / "image.png") == [[[255, 255, 255], [157, 161, 165], [10, 20, 30]]]).all()
    Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA").save(tmp_path / "grey.png")
    assert (pixels(tmp_path / "grey.png") == [[[255] * 3, [0] * 3]]).all()
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    for transparency, middle, last in ((1, 255, 0), (bytes([255, 0, 102]), 255, 153)):
        palette.save(tmp_path / "palette.png", transparency=transparency)
        assert (pixels(tmp_path / "palette.png") == [[[255, 0, 0], [middle] * 3, [last, last, 255]]]).all()


# EXIF 2.3, tag 0x0112: which turn puts the stored rows and columns upright, as numpy operations.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation(tmp_path, orientation, suffix, recwarn):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(ramp()).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert (pixels(path) == UPRIGHT[orientation](ramp())).all()
    Image.fromarray(ramp()).save(tmp_path / "damaged.png", exif=b"Exif\0\0no TIFF header here")
    assert (pixels(tmp_path / "damaged.png") == ramp()).all()
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
@pytest.mark.parametrize("kept", [0.2, 0.97])
def test_truncated_files_are_named_in_one_sentence(tmp_path, suffix, kept):
    path = tmp_path / f"broken.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(FileError) as caught:
        load_image(path)
    assert_one_sentence(caught.value, path)


def assert_one_sentence(error: FileError, path) -> None:
    assert error.message.startswith(f"Cannot read the image {path}: ")
    assert "\n" not in error.message
    assert error.hint


def test_no_image_missing_file_empty_file_folder(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    reasons = {"text": "not an image", "empty": "not an image", "missing": "No such file", "folder": "directory"}
    for name, reason in reasons.items():
        with pytest.raises(FileError, match=reason) as caught:
            load_image(tmp_path / f"{name}.png")
        assert_one_sentence(caught.value, tmp_path / f"{name}.png")


def test_strips_that_would_fill_the_memory_and_other_formats_are_refused_under_any_name(tmp_path):
    path = tmp_path / "strip.png"
    Image.new("RGB", (2 * MAX_ASPECT, 2)).save(path)
    assert load_image(path).size == (2 * MAX_ASPECT, 2)
    Image.new("RGB", (2, 2 * MAX_ASPECT + 1)).save(path)
    with pytest.raises(FileError, match="strip of 2 x 201 pixels"):
        load_image(path)
    for form in ("PPM", "TGA", "ICO", "JPEG2000"):
        Image.fromarray(ramp(16, 16)).save(path, format=form)
        with pytest.raises(ImageError, match="not an image in a format read here"):
            load_image(path)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes, data: bytes = b"") -> bytes:
    """A PNG of so many pixels by its header; colour 0 is grey, 2 RGB, 3 a palette, 6 RGBA."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + header + palette + b"".join(chunks) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "form"), [("photo.jpg", "MPO"), ("image.gif", "GIF")])
def test_the_first_image_of_an_animation_or_of_a_phones_photo(tmp_path, name, form):
    path = tmp_path / name
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    first.save(path, format=form, save_all=True, append_images=[second])
    with Image.open(path) as image:
        assert image.format == form
    assert np.abs(pixels(path).astype(int) - (255, 0, 0)).max() <= 3
    assert is_animated(path)


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (16, 2), (8, 3), (8, 6)])
def test_the_size_is_looked_at_before_anything_is_decoded(tmp_path, depth, colour, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    path = tmp_path / "bomb.png"
    for side, words in ((13_300, "13300 x 13300 pixels, more than 110,000,000 in all"), (60_000, "has more than 110")):
        path.write_bytes(png(side, side, depth, colour))
        with pytest.raises(ImageError, match=words):
            load_image(path)


def tiff(values: dict[int, int]) -> bytes:
    """A TIFF of these tags and no pixels."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(values)) + entries + bytes(4)


def test_a_tile_larger_than_its_image_counts(tmp_path):
    # Width, height, bits, deflate, RGB, samples, sides of a tile, its place, its bytes.
    values = {256: 8, 257: 8, 258: 8, 259: 8, 262: 2, 277: 3, 322: 26_000, 323: 26_000, 324: 8, 325: 9}
    path = tmp_path / "tile.tif"
    path.write_bytes(tiff(values))
    with pytest.raises(ImageError, match="26000 x 26000 pixels"):
        load_image(path)


def test_strips_of_a_large_image_fit_together(tmp_path, monkeypatch):
    """The oracle: the same image converted in one piece."""
    levels = np.random.default_rng(0).integers(0, 65536, (50, 40), np.uint16)
    colours = np.random.default_rng(1).integers(0, 256, (50, 40, 4), np.uint8)
    palette = Image.fromarray(colours[..., :3]).quantize(16)
    palette.save(tmp_path / "p.png", transparency=bytes(range(0, 256, 16)))
    Image.fromarray(levels).save(tmp_path / "i.png")
    Image.fromarray(colours).save(tmp_path / "rgba.png")
    for name in ("p.png", "i.png", "rgba.png"):
        whole = pixels(tmp_path / name)
        with monkeypatch.context() as patched:
            patched.setattr(decode, "_AT_ONCE", 7 * 40)
            assert (pixels(tmp_path / name) == whole).all()


def test_work_without_end_is_given_up(tmp_path, monkeypatch):
    """Comments of a GIF in pieces of one byte copy all before each time; each scan of a JPEG passes over all pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
    (tmp_path / "comments.gif").write_bytes(head + b"\x21\xfe" + b"\x01a" * 300_000 + b"\0;")
    held = io.BytesIO()
    Image.new("L", (500, 500), 128).save(held, "JPEG", progressive=True)
    content = held.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]
    (tmp_path / "scans.jpg").write_bytes(content)
    assert load_image(tmp_path / "scans.jpg").size == (500, 500)
    (tmp_path / "scans.jpg").write_bytes(content[:-2] + 5000 * last + content[-2:])
    monkeypatch.setattr(decode, "MAX_CPU_S", 0.1)
    for name in ("comments.gif", "scans.jpg"):
        started = time.thread_time()
        with pytest.raises(ImageError, match=r"takes more than 0\.1 s"):
            load_image(tmp_path / name)
        assert time.thread_time() - started < 3


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg"])
def test_libraries_say_nothing_of_damaged_files(tmp_path, compression, capfd):
    """libtiff, left alone, writes to stderr by itself."""
    path = tmp_path / "damaged.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        path, compression=compression
    )
    whole = path.read_bytes()
    errors = 0
    for start in range(8, len(whole) - 8, len(whole) // 40):
        path.write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
        try:
            load_image(path)
        except ImageError:
            errors += 1
    assert errors
    assert capfd.readouterr() == ("", "")


def test_files_of_too_many_bytes_are_not_read(tmp_path):
    for name, head in (
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.webp", b"RIFF\0\0\0\0WEBPVP8 "),
        ("a.avif", b"\0\0\0\x1cftypavif"),
    ):
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate((MAX_BYTES if name == "a.png" else MAX_WHOLE_BYTES) + 1)
        with pytest.raises(ImageError, match=r"bytes, more than \d"):
            load_image(path)


@pytest.mark.parametrize("look", [load_image, is_animated])
def test_a_pipe_is_not_waited_for(tmp_path, look):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        look(tmp_path / "pipe.png")


def test_nothing_is_mapped(tmp_path, monkeypatch):
    """A mapped file that shrinks kills the process."""
    monkeypatch.setattr(mmap, "mmap", lambda *_, **__: pytest.fail("mapped"))
    for name, options in (("raw.tif", {}), ("lzw.tif", {"compression": "tiff_lzw"}), ("a.bmp", {})):
        Image.fromarray(ramp(64, 64)).save(tmp_path / name, **options)
        with open_image(tmp_path / name) as image:
            with pytest.raises(OSError, match="fileno"):
                image.fp.fileno()
            image.load()
