"""load_image against pixels written by hand, and its one sentence for every kind of bad file."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from spherectl.data.decode import MAX_ASPECT, load_image
from spherectl.errors import FileError

pytestmark = pytest.mark.fast

ORIENTATION = 0x0112


def ramp(height: int = 6, width: int = 9) -> np.ndarray:
    """Every pixel different, so that a wrong turn or swap shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack((20 * y, 20 * x, 100 + y + 10 * x), axis=-1).astype(np.uint8)


def pixels(path) -> np.ndarray:
    picture = load_image(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp", "gif"])
def test_lossless_formats_give_the_pixels_back(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(ramp()).save(path, **options)
    assert (pixels(path) == ramp()).all()


@pytest.mark.parametrize("suffix", ["jpg", "jpeg"])
def test_jpeg_is_near_its_source(tmp_path, suffix):
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(flat).save(path, quality=95)
    assert np.abs(pixels(path).astype(int) - flat).max() <= 3


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "picture.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (pixels(path) == (255, 0, 0)).all()


def test_16_bit_grey_is_rounded_not_cut_off(tmp_path):
    # Closed form: b = round(v / 257), since 65535 = 255 * 257.
    values = np.array([[0, 128, 129, 256, 257, 385, 386], [1000, 32767, 32768, 40000, 65406, 65407, 65535]], np.uint16)
    for name in ("picture.png", "picture.tif"):
        Image.fromarray(values).save(tmp_path / name)
        expected = np.round(values / 257).astype(np.uint8)
        assert (pixels(tmp_path / name) == expected[..., None]).all()


def test_16_bit_grey_from_a_format_that_opens_as_32_bit(tmp_path):
    path = tmp_path / "picture.tif"
    Image.fromarray(np.array([[0, 257, 65535], [514, 40092, 1028]], np.int32)).save(path)
    assert (pixels(path) == np.array([[0, 1, 255], [2, 156, 4]])[..., None]).all()


def test_grey_values_beyond_16_bits_are_refused(tmp_path):
    path = tmp_path / "picture.tif"
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(path)
    with pytest.raises(FileError, match=r"picture\.tif: its grey values leave the range of 16 bits"):
        load_image(path)


def test_floating_point_pictures_are_refused(tmp_path):
    path = tmp_path / "picture.tif"
    Image.fromarray(np.array([[0.0, 0.5]], np.float32)).save(path)
    with pytest.raises(FileError, match="floating-point"):
        load_image(path)


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
    Image.fromarray(rgba).save(tmp_path / "picture.png")
    expected = np.array([[[255, 255, 255], [157, 161, 165], [10, 20, 30]]])
    assert (pixels(tmp_path / "picture.png") == expected).all()


def test_grey_with_alpha(tmp_path):
    Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA").save(tmp_path / "picture.png")
    assert (pixels(tmp_path / "picture.png") == [[[255] * 3, [0] * 3]]).all()


def test_palette_with_a_transparent_entry(tmp_path):
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "opaque.png")
    assert (pixels(tmp_path / "opaque.png") == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]).all()
    picture.save(tmp_path / "entry.png", transparency=1)
    assert (pixels(tmp_path / "entry.png") == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]).all()
    picture.save(tmp_path / "table.png", transparency=bytes([0, 255, 102]))
    assert (pixels(tmp_path / "table.png") == [[[255, 255, 255], [0, 255, 0], [153, 153, 255]]]).all()


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


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(ramp()).save(path, exif=exif)
    assert (pixels(path) == UPRIGHT[orientation](ramp())).all()


def test_damaged_exif_means_no_rotation(tmp_path, recwarn):
    path = tmp_path / "picture.png"
    Image.fromarray(ramp()).save(path, exif=b"Exif\0\0no TIFF header here")
    assert (pixels(path) == ramp()).all()
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.97])
def test_truncated_files_are_named_in_one_sentence(tmp_path, suffix, kept):
    path = tmp_path / f"broken.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(FileError) as caught:
        load_image(path)
    assert_one_sentence(caught.value, path)


def assert_one_sentence(error: FileError, path) -> None:
    assert error.message.startswith(f"Cannot read the picture {path}: ")
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert error.exit_code == 1
    assert error.hint


def test_every_byte_of_a_png_damaged_in_turn(tmp_path):
    # Property: whatever Pillow stumbles over, the caller meets a picture or a FileError, nothing else.
    path = tmp_path / "picture.png"
    Image.fromarray(ramp()).save(path)
    whole = path.read_bytes()
    errors = 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        try:
            load_image(path)
        except FileError as error:
            assert_one_sentence(error, path)
            errors += 1
    assert errors > len(whole) // 2


def test_no_picture_missing_file_empty_file_folder(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "text.png": "not a picture",
        "empty.png": "not a picture",
        "missing.png": "No such file",
        "folder.png": "directory",
    }.items():
        with pytest.raises(FileError, match=reason) as caught:
            load_image(tmp_path / name)
        assert_one_sentence(caught.value, tmp_path / name)


def test_decompression_bomb(tmp_path):
    # A PNG of 70 bytes whose header promises 60000 x 60000 pixels.
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(FileError, match="has more than 120,000,000 pixels") as caught:
        load_image(path)
    assert_one_sentence(caught.value, path)


def test_strips_that_would_fill_the_memory_are_refused(tmp_path):
    path = tmp_path / "strip.png"
    Image.new("RGB", (2 * MAX_ASPECT, 2)).save(path)
    assert load_image(path).size == (2 * MAX_ASPECT, 2)
    Image.new("RGB", (2, 2 * MAX_ASPECT + 1)).save(path)
    with pytest.raises(FileError, match="strip of 2 x 201 pixels"):
        load_image(path)
