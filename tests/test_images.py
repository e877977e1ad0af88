"""Grids against layouts written by hand; PNG and npz files against what other readers find in them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spherectl
from spherectl import images
from spherectl.data.transforms import to_float
from spherectl.errors import FileError, UsageError

pytestmark = pytest.mark.fast

PROVENANCE = {"seed": 3, "model": {"name": "fashion-mnist", "sha256": "ab" * 32}, "class": "ankle-boot", "é": "ü"}


def ramp(height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.arange(3 * height * width, dtype=torch.uint8).reshape(3, height, width)


def test_grid_puts_every_image_in_its_place():
    # Five images of 2 x 3 pixels, three a row, one pixel apart: 5 x 11 with one unused, white place.
    shown = torch.arange(5 * 3 * 2 * 3, dtype=torch.uint8).reshape(5, 3, 2, 3)
    sheet = images.grid(to_float(shown), columns=3, padding=1)
    expected = torch.full((3, 5, 11), 255, dtype=torch.uint8)
    for i, (top, left) in enumerate([(0, 0), (0, 4), (0, 8), (3, 0), (3, 4)]):
        expected[:, top : top + 2, left : left + 3] = shown[i]
    assert torch.equal(sheet, expected)
    assert torch.equal(images.grid(shown, columns=3, padding=1), expected), "bytes stay what they are"


def test_one_image_is_itself():
    assert torch.equal(images.grid(to_float(ramp())[None]), ramp())


@pytest.mark.parametrize(
    ("count", "columns"),
    [
        *((1, 1), (2, 2), (3, 3), (4, 2), (5, 5), (6, 3), (7, 3), (8, 4)),
        *((9, 3), (10, 5), (11, 4), (12, 4), (16, 4), (64, 8), (100, 10)),
    ],
)
def test_default_columns(count, columns):
    sheet = images.grid(torch.zeros(count, 3, 2, 2), padding=0)
    rows = -(-count // columns)
    assert sheet.shape == (3, 2 * rows, 2 * columns)


def test_strip_is_one_row():
    assert images.strip(torch.zeros(7, 3, 4, 2), padding=1).shape == (3, 4, 7 * 3 - 1)


def test_more_columns_than_images_leave_no_margin():
    assert images.grid(torch.zeros(2, 3, 4, 4), columns=9, padding=0).shape == (3, 4, 8)


def test_grid_refuses_what_is_no_image():
    with pytest.raises(UsageError, match=r"\(B, 3, H, W\)"):
        images.grid(torch.zeros(0, 3, 4, 4))
    with pytest.raises(UsageError, match=r"\(B, 3, H, W\)"):
        images.grid(torch.zeros(3, 4, 4))
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        images.grid(torch.full((1, 3, 4, 4), 1.5))


def chunks(path: Path) -> list[tuple[str, bytes]]:
    """A PNG's chunks, read by hand (PNG specification, section 5.3), every checksum verified."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert int.from_bytes(data[at + 8 + length : at + 12 + length], "big") == zlib.crc32(kind + body)
        found.append((kind.decode(), body))
        at += 12 + length
    return found


def test_png_gives_pixels_and_provenance_back(tmp_path):
    path = tmp_path / "folder" / "image.png"
    images.save_png(path, ramp(), PROVENANCE)
    assert images.read_provenance(path) == PROVENANCE
    with Image.open(path) as pil_image:
        assert pil_image.mode == "RGB"
        assert (np.asarray(pil_image).transpose(2, 0, 1) == ramp().numpy()).all()
    assert [entry.name for entry in path.parent.iterdir()] == ["image.png"]


def test_png_text_as_other_software_finds_it(tmp_path):
    path = tmp_path / "image.png"
    images.save_png(path, ramp(), PROVENANCE)
    text = [body for kind, body in chunks(path) if kind == "tEXt"]
    key, _, value = text[0].partition(b"\0")
    assert key == b"spherectl"
    assert json.loads(value.decode("ascii")) == PROVENANCE
    assert list(json.loads(value)) == sorted(PROVENANCE)
    assert text[1] == b"Software\0spherectl " + spherectl.__version__.encode()

    # XMP specification part 3: an uncompressed iTXt chunk of this keyword, without language and translated keyword.
    (xmp,) = [body for kind, body in chunks(path) if kind == "iTXt"]
    assert xmp.startswith(b"XML:com.adobe.xmp\0\0\0\0\0")
    packet = ET.fromstring(xmp.split(b"\0", 5)[5].decode("utf-8"))
    (description,) = packet.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert (
        description.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"]
        == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )


def test_png_without_provenance_is_pixels_alone(tmp_path):
    path = tmp_path / "image.png"
    images.save_png(path, ramp(), None)
    assert {kind for kind, _ in chunks(path)} == {"IHDR", "IDAT", "IEND"}
    assert images.read_provenance(path) is None


def test_same_image_same_bytes(tmp_path):
    # Under another name, and with the table's keys in another order; the chunks above leave no place for a time.
    images.save_png(tmp_path / "a.png", ramp(), PROVENANCE)
    images.save_png(tmp_path / "b.png", ramp(), dict(reversed(PROVENANCE.items())))
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_non_contiguous_images_are_saved_right(tmp_path):
    images.save_png(tmp_path / "image.png", ramp().flip(-1).transpose(1, 2), None)
    with Image.open(tmp_path / "image.png") as pil_image:
        assert (np.asarray(pil_image) == ramp().flip(-1).permute(2, 1, 0).numpy()).all()


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), ramp()[None]])
def test_png_refuses_what_is_no_image(tmp_path, image):
    with pytest.raises(UsageError, match="uint8 of shape"):
        images.save_png(tmp_path / "image.png", image, None)
    assert not list(tmp_path.iterdir())


def test_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for write in (
        lambda: images.save_png(tmp_path / "file" / "image.png", ramp(), None),
        lambda: images.save_npz(tmp_path / "file" / "images.npz", 1, [(ramp()[None], None)]),
    ):
        with pytest.raises(FileError, match=r"^Cannot write "):
            write()


def test_provenance_of_what_is_no_png(tmp_path):
    pil_image = Image.new("RGB", (4, 4))
    pil_image.save(tmp_path / "image.jpg")
    (tmp_path / "random.png").write_bytes(bytes(range(200)))
    (tmp_path / "empty.png").touch()
    images.save_png(tmp_path / "cut.png", torch.zeros(3, 64, 64, dtype=torch.uint8), PROVENANCE)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    assert images.read_provenance(tmp_path / "image.jpg") is None
    for name in ("random.png", "empty.png", "cut.png", "missing.png", "."):
        with pytest.raises(FileError, match="Cannot read the image") as caught:
            images.read_provenance(tmp_path / name)
        assert "\n" not in caught.value.message
        assert str(tmp_path / name) in caught.value.message


@pytest.mark.parametrize(
    "text", ["no json", "[1, 2]", '"text"', "NaN", "{", "[" * 100_000, '{"a": ' * 100 + "1" + "}" * 100, "1" * 5000]
)
def test_provenance_that_is_not_ours(tmp_path, text):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("spherectl", text)
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png", pnginfo=info)
    with pytest.raises(FileError, match=r"image\.png says of how it was made(:| is not JSON)"):
        images.read_provenance(tmp_path / "image.png")


def test_other_peoples_png_has_no_provenance(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "image.png")
    assert images.read_provenance(tmp_path / "image.png") is None


def test_provenance_survives_another_programs_copy(tmp_path):
    # Text chunks behind the pixels, where some programs put them.
    images.save_png(tmp_path / "image.png", ramp(), PROVENANCE)
    data = (tmp_path / "image.png").read_bytes()
    parts = chunks(tmp_path / "image.png")
    order = (
        [p for p in parts if p[0] not in ("tEXt", "iTXt", "IEND")] + [p for p in parts if p[0] == "tEXt"] + parts[-1:]
    )
    moved = b"".join(
        len(body).to_bytes(4, "big") + kind.encode() + body + zlib.crc32(kind.encode() + body).to_bytes(4, "big")
        for kind, body in order
    )
    (tmp_path / "copy.png").write_bytes(data[:8] + moved)
    assert images.read_provenance(tmp_path / "copy.png") == PROVENANCE


def test_npz_as_the_adm_suite_reads_it(tmp_path):
    shown = torch.arange(3 * 3 * 4 * 5, dtype=torch.uint8).reshape(3, 3, 4, 5)
    labels = torch.tensor([7, 1, 4], dtype=torch.int32)
    path = tmp_path / "images.npz"
    images.save_npz(path, 3, [(shown[:2], labels[:2]), (shown[2:], labels[2:])])
    with np.load(path, allow_pickle=False) as stored:
        assert sorted(stored) == ["arr_0", "arr_1"]
        assert stored["arr_0"].dtype == np.uint8
        assert (stored["arr_0"] == shown.numpy().transpose(0, 2, 3, 1)).all()
        assert stored["arr_1"].dtype == np.int64
        assert stored["arr_1"].tolist() == [7, 1, 4]
    with zipfile.ZipFile(path) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}, "no time: same bytes"
    assert [entry.name for entry in tmp_path.iterdir()] == ["images.npz"]


def test_npz_has_the_bytes_that_numpy_writes(tmp_path):
    shown, labels = torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4), torch.tensor([3, 9])
    images.save_npz(tmp_path / "ours.npz", 2, [(shown, labels)])
    np.savez(tmp_path / "numpys.npz", shown.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy())
    for name in ("arr_0.npy", "arr_1.npy"):
        with zipfile.ZipFile(tmp_path / "ours.npz") as ours, zipfile.ZipFile(tmp_path / "numpys.npz") as theirs:
            assert ours.namelist() == theirs.namelist()
            assert ours.read(name) == theirs.read(name)


def test_npz_without_labels_and_under_any_name(tmp_path):
    images.save_npz(tmp_path / "images", 1, [(ramp()[None], None)])
    with np.load(tmp_path / "images", allow_pickle=False) as stored:
        assert list(stored) == ["arr_0"]


@pytest.mark.parametrize(
    ("count", "batches", "said"),
    [
        (1, [(to_float(ramp())[None], None)], r"uint8 of shape \(n, 3, H, W\)"),
        (1, [(ramp()[None], torch.tensor([1, 2]))], "Expected 1 labels"),
        (2, [(ramp()[None], None)], "Expected 2 images, got 1"),
        (2, [(ramp()[None], None), (ramp()[None, :, :-1], None)], "as the first"),
        (1, [], "Expected 1 images, got 0"),
    ],
)
def test_npz_refuses_what_does_not_fit(tmp_path, count, batches, said):
    (tmp_path / "images.npz").write_text("old")
    with pytest.raises(UsageError, match=said):
        images.save_npz(tmp_path / "images.npz", count, batches)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("images.npz", "old")]
