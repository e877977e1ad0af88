"""Emoji drawings: packages like those of the registry, sorted into class folders, fetched and opened."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from spherectl.data.datasets import open_dataset
from spherectl.data.sets import emoji
from spherectl.errors import FileError, SpherectlError
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

SPEC = DataSpec(kind="emoji", fit="adm", flip=False)


def drawing(colour: str, side: int = 64) -> bytes:
    """A square of one colour in the middle of a transparent image."""
    image = Image.new("RGBA", (side, side))
    image.paste(colour, (16, 16, 48, 48))
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def members(vendor: str, colour: str) -> dict[str, bytes]:
    """A package: two emoji a group, one for training and one for the test, and swatches, which belong to no group."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for number in range(0x1F600, 0x1F700):
        found[emoji.is_held_out(f"{number:X}")].append(f"{number:X}")
    listed, made = [], {}
    for number, category in enumerate(emoji.GROUPS):
        both = (found[True][number], found[False][number])
        listed += [{"category": category, "unified": one, "image": f"{one.lower()}.png"} for one in both]
    listed.append({"category": "Component", "unified": "1F3FB", "image": "1f3fb.png"})
    listed.append({"category": "Flags", "unified": "1F1E6", "image": "not-drawn.png"})
    for one in listed[:-1]:
        made[f"package/img/{vendor}/64/{one['image']}"] = drawing(colour)
    return made | {"package/emoji.json": json.dumps(listed).encode(), "package/img/google/sheets/32.png": b"not read"}


@pytest.fixture
def registry(server, data_folder, monkeypatch, write_tar) -> Path:
    """A server with both packages; the empty data folder."""
    packages = []
    for package, colour in zip(emoji.PACKAGES, ("red", "blue"), strict=True):
        name = f"{package.vendor}.tgz"
        archive = write_tar(server.folder / name, members(package.vendor, colour), "w:gz")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        packages.append(package._replace(url=f"{server.url}{name}", sha256=digest))
    monkeypatch.setattr(emoji, "PACKAGES", tuple(packages))
    return data_folder


def test_both_packages_are_fetched_once_sorted_and_laid_over_white(server, registry):
    said: list[str] = []
    train = open_dataset(SPEC, 32, progress=said.append)
    assert said == [f"Fetching Noto Emoji and Twemoji (136 MB) from registry.npmjs.org into {registry}"]
    assert sorted(set(server.asked)) == ["/google.tgz", "/twitter.tgz"]
    server.asked.clear()
    test = open_dataset(SPEC, 32, split="test")
    assert server.asked == [], "what is here is not fetched again"
    for images in (train, test):
        assert list(images.class_names) == sorted(emoji.GROUPS.values())
        assert images.labels.tolist() == [group for group in range(9) for _ in range(2)]
    assert (train.name, train.licence) == ("emoji", "Apache-2.0 (Noto Emoji) and CC BY 4.0 (Twemoji)")
    assert "Copyright Twitter, Inc and other contributors, CC BY 4.0" in (registry / "emoji/NOTICE.txt").read_text()
    noto, twemoji = train.gather([0, 1])  # laid over white, and halved by averaging
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:24, 8:24] = True
    for image, colour in ((noto, (255, 0, 0)), (twemoji, (0, 0, 255))):
        assert (image[:, ~inside] == 255).all()
        assert (image[:, inside] == torch.tensor(colour, dtype=torch.uint8)[:, None]).all()


def test_another_file_under_a_packages_address_is_refused(server, registry, write_tar):
    write_tar(server.folder / "twitter.tgz", members("twitter", "green"), "w:gz")
    with pytest.raises(SpherectlError, match=r"twemoji\.tgz"):
        open_dataset(SPEC, 32)
    assert not (registry / "emoji").exists()


def test_an_archive_that_is_no_such_package_is_one_sentence(tmp_path, write_tar):
    archive = write_tar(tmp_path / "other.tgz", {"package/readme": b""}, "w:gz")
    with pytest.raises(FileError, match=r"no emoji\.json"):
        emoji.prepare(archive, emoji.PACKAGES[0], tmp_path / "out")
    for text in (b"7", b'[{"category": 1, "image": "a", "unified": "b"}]', b"[" * 9999):
        write_tar(archive, {"package/emoji.json": text, "package/img/google/64/a.png": b""}, "w:gz")
        with pytest.raises(FileError, match=r"Cannot read .*other\.tgz"):
            emoji.prepare(archive, emoji.PACKAGES[0], tmp_path / "out")


def test_a_tenth_is_held_out_with_all_its_genders_and_directions():
    for same in (
        ("1F9D1-200D-2695-FE0F", "1F468-200D-2695-FE0F", "1F469-200D-2695-FE0F"),  # health worker, man, woman
        ("1F3C3", "1F3C3-200D-2642-FE0F", "1F3C3-200D-2640-FE0F-200D-27A1-FE0F"),  # runner, man, woman facing right
    ):
        assert len({emoji.is_held_out(unified) for unified in same}) == 1
    held_out = sum(emoji.is_held_out(f"{number:X}") for number in range(0x1F300, 0x1F900))
    assert held_out / 0x600 == pytest.approx(emoji.HELD_OUT, abs=0.02)
