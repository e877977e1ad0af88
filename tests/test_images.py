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
from PIL.PngImagePlugin import PngInfo

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


def test_columns_of_grids_and_strips():
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 5, 6: 3, 7: 3, 8: 4, 11: 4, 12: 4, 100: 10}
    for count, expected in columns.items():
        sheet = images.grid(torch.zeros(count, 3, 2, 2), padding=0)
        assert sheet.shape == (3, 2 * -(-count // expected), 2 * expected), count
    assert torch.equal(images.grid(to_float(ramp())[None]), ramp())
    assert images.strip(torch.zeros(7, 3, 4, 2), padding=1).shape == (3, 4, 7 * 3 - 1)
    assert images.grid(torch.zeros(2, 3, 4, 4), columns=9, padding=0).shape == (3, 4, 8)


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


def test_png_as_other_software_finds_it(tmp_path):
    """Pixels, our JSON and the IPTC mark by specification; nothing but pixels without provenance."""
    path = tmp_path / "folder" / "image.png"
    turned = ramp().flip(-1).transpose(1, 2)  # not contiguous
    images.save_png(path, turned, PROVENANCE)
    assert images.read_provenance(path) == PROVENANCE
    assert [entry.name for entry in path.parent.iterdir()] == ["image.png"]
    with Image.open(path) as pil_image:
        assert pil_image.mode == "RGB"
        assert (np.asarray(pil_image).transpose(2, 0, 1) == turned.numpy()).all()
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
    source = description.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"]
    assert source == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

    images.save_png(tmp_path / "bare.png", ramp(), None)
    assert {kind for kind, _ in chunks(tmp_path / "bare.png")} == {"IHDR", "IDAT", "IEND"}
    assert images.read_provenance(tmp_path / "bare.png") is None


def test_same_image_same_bytes(tmp_path):
    # Under another name, and with the table's keys in another order; the chunks above leave no place for a time.
    images.save_png(tmp_path / "a.png", ramp(), PROVENANCE)
    images.save_png(tmp_path / "b.png", ramp(), dict(reversed(PROVENANCE.items())))
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), ramp()[None]])
def test_png_refuses_what_is_no_image(tmp_path, image):
    with pytest.raises(UsageError, match="uint8 of shape"):
        images.save_png(tmp_path / "image.png", image, None)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"^Cannot write "):
        images.save_png(tmp_path / "file" / "image.png", ramp(), None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_provenance_of_what_is_no_png_of_ours(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "image.jpg")
    Image.new("L", (4, 4)).save(tmp_path / "other.png")
    images.save_png(tmp_path / "cut.png", torch.zeros(3, 64, 64, dtype=torch.uint8), PROVENANCE)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for name in ("image.jpg", "other.png"):
        assert images.read_provenance(tmp_path / name) is None
    for name in ("cut.png", "missing.png"):
        with pytest.raises(FileError, match=f"^Cannot read the image {tmp_path / name}"):
            images.read_provenance(tmp_path / name)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "[" * 100_000])
def test_provenance_that_is_not_ours(tmp_path, text):
    info = PngInfo()
    info.add_text("spherectl", text)
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png", pnginfo=info)
    with pytest.raises(FileError, match=r"image\.png says of how it was made(:| is not JSON)"):
        images.read_provenance(tmp_path / "image.png")


def test_provenance_survives_another_programs_copy(tmp_path):
    # Text chunks behind the pixels, where some programs put them.
    images.save_png(tmp_path / "image.png", ramp(), PROVENANCE)
    data, parts = (tmp_path / "image.png").read_bytes(), chunks(tmp_path / "image.png")
    order = [p for p in parts if p[0] not in ("tEXt", "iTXt", "IEND")] + [p for p in parts if p[0] == "tEXt"]
    moved = b"".join(
        len(body).to_bytes(4, "big") + kind.encode() + body + zlib.crc32(kind.encode() + body).to_bytes(4, "big")
        for kind, body in (*order, parts[-1])
    )
    (tmp_path / "copy.png").write_bytes(data[:8] + moved)
    assert images.read_provenance(tmp_path / "copy.png") == PROVENANCE


def test_npz_has_the_bytes_that_numpy_writes(tmp_path):
    """As the ADM suite reads it: arr_0 uint8 (n, H, W, 3), arr_1 int64 (n,)."""
    shown, labels = torch.arange(144, dtype=torch.uint8).reshape(3, 3, 4, 4), torch.tensor([3, 9, 1], dtype=torch.int32)
    images.save_npz(tmp_path / "ours", 3, [(shown[:2], labels[:2]), (shown[2:], labels[2:])])
    np.savez(tmp_path / "numpys.npz", shown.permute(0, 2, 3, 1).contiguous().numpy(), labels.long().numpy())
    with zipfile.ZipFile(tmp_path / "ours") as ours, zipfile.ZipFile(tmp_path / "numpys.npz") as theirs:
        assert ours.namelist() == theirs.namelist() == ["arr_0.npy", "arr_1.npy"]
        assert all(ours.read(name) == theirs.read(name) for name in ours.namelist())
        assert {member.date_time for member in ours.infolist()} == {(1980, 1, 1, 0, 0, 0)}, "no time: same bytes"
    images.save_npz(tmp_path / "bare", 1, [(ramp()[None], None)])
    with np.load(tmp_path / "bare", allow_pickle=False) as stored:
        assert list(stored) == ["arr_0"]


@pytest.mark.parametrize(
    ("count", "batches", "said"),
    [
        (1, [(ramp()[None], torch.tensor([1, 2]))], "Expected 1 labels"),
        (2, [(ramp()[None], None)], "Expected 2 images, got 1"),
    ],
)
def test_npz_refuses_what_does_not_fit(tmp_path, count, batches, said):
    (tmp_path / "images.npz").write_text("old")
    with pytest.raises(UsageError, match=said):
        images.save_npz(tmp_path / "images.npz", count, batches)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("images.npz", "old")]
