"""Lists in JSON lines: what they give, which is of which split, a sentence with file and line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spherectl.data import names
from spherectl.data.datasets import open_dataset
from spherectl.data.lists import read_lists
from spherectl.data.transforms import fit_crop
from spherectl.errors import FileError, SpherectlError, UsageError
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast


def entry(number: int, name: str, path: str, *, absolute: bool = False) -> dict[str, Any]:
    return {"class_id": number, "class_name": name, "image_path": path, "is_absolute_path": absolute}


def write(path: Path, *entries: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in entries))
    return path


def paths(listing) -> list[str]:
    return [str(listing.path(i)) for i in range(len(listing.names))]


def test_relative_and_absolute_paths_in_the_lists_order(tmp_path):
    other = tmp_path / "elsewhere" / "ö.png"
    made = write(
        tmp_path / "lists" / "mine.jsonl",
        entry(1, "dog", "b/2.png"),
        "",
        entry(0, "cat", str(other), absolute=True),
        entry(1, "dog", "../1.png"),
    )
    listing = read_lists(made, "train")
    assert paths(listing) == [str(made.parent / "b/2.png"), str(other), str(made.parent / "../1.png")]
    assert listing.labels.tolist() == [1, 0, 1]
    assert listing.labels.dtype == torch.int64
    assert listing.class_names == ("cat", "dog")
    bare = tmp_path / "bare.jsonl"
    bare.write_bytes(b'\xef\xbb\xbf{"image_path": "1.png"}\r\n{"image_path": "2.png"}\r\n')
    listing = read_lists(bare, "train")
    assert (paths(listing), listing.class_names) == ([str(tmp_path / "1.png"), str(tmp_path / "2.png")], ())
    assert listing.labels.tolist() == [0, 0]
    cranes = write(tmp_path / "l.jsonl", entry(0, "crane", "1.png"), entry(1, "crane", "2.png"))  # as ImageNet has
    assert read_lists(cranes, "train").class_names == ("crane", "crane")


@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [("train.jsonl", "val.jsonl"), ("Train.jsonl", "Valid.jsonl"), ("training.jsonl", "testing.JSONL")],
)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_splits(tmp_path, train_name, test_name, given):
    classes = enumerate(("cat", "dog", "eel"))
    train = write(tmp_path / train_name, *(entry(i, name, f"{i + 1}.png") for i, name in classes))
    write(tmp_path / test_name, entry(1, "dog", "4.png"))
    root = tmp_path if given == "folder" else train
    assert paths(read_lists(root, "train")) == [str(tmp_path / f"{i}.png") for i in (1, 2, 3)]
    test = read_lists(root, "test")
    assert (paths(test), test.labels.tolist()) == ([str(tmp_path / "4.png")], [1])
    assert test.class_names == ("cat", "dog", "eel"), "of the training list, whichever the test list shows"


def test_the_images_are_read_as_any(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))
    image.save(tmp_path / "1.png")
    made = write(tmp_path / "mine.jsonl", entry(0, "cat", "1.png"))
    images = open_dataset(DataSpec(kind="jsonl"), 32, root=made)
    assert torch.equal(images[0], fit_crop(image, 32))
    assert (images.name, images.class_names, images.origin) == ("mine", ("cat",), str(made))
    made.rename(tmp_path / "train.jsonl")
    assert open_dataset(DataSpec(kind="jsonl"), 32, root=tmp_path).name == tmp_path.name


GOOD = entry(0, "cat", "1.png")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\xff\xfe".decode("latin1"), "expected a JSON object"),
        ({"class_id": 0, "class_name": "cat"}, "expected image_path, the path of an image, and there is none"),
        (GOOD | {"image_path": "\ud800"}, "cannot be the name of a file"),
        (GOOD | {"image_path": "/1.png"}, "is_absolute_path does not say so: False"),
        (GOOD | {"class_id": True}, "expected class_id, a number from 0, got True"),
        (GOOD | {"class_name": "\ud800"}, "class_name: .* is not UTF-8"),
        ({"image_path": "1.png"}, "expected a class_id in every line or in none"),
        (entry(0, "dog", "1.png"), "class 0 is called 'dog' here and 'cat' in line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, words):
    made = write(tmp_path / "train.jsonl", GOOD, "", line)
    with pytest.raises(FileError, match=f"^{made}, line 3: .*{words}") as caught:
        read_lists(made, "train")
    assert len(caught.value.message) < 600


def test_names_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    """Each takes the room of the longest."""
    monkeypatch.setattr(names, "MAX_NAMES_BYTES", 40_000)
    made = write(tmp_path / "l.jsonl", {"image_path": "x" * 4_000}, *({"image_path": "1.png"} for _ in range(9)))
    assert len(read_lists(made, "train").names) == 10
    write(made, {"image_path": "x" * 4_000}, *({"image_path": "1.png"} for _ in range(10)))
    with pytest.raises(FileError, match="11 names, the longest of 4,000 bytes, take more than"):
        read_lists(made, "train")


def test_missing_lists_and_those_that_do_not_fit(tmp_path):
    write(tmp_path / "set" / "train.jsonl", GOOD)
    for test, words in (
        ([entry(1, "dog", "2.png")], "class 1, dog, is not a class of the training list"),
        ([{"image_path": "2.png"}], "must both have classes, or both have none"),
        ([], r"The list .*val\.jsonl has no images"),
    ):
        write(tmp_path / "set" / "val.jsonl", *test)
        with pytest.raises(UsageError, match=words):
            read_lists(tmp_path / "set", "test")
    with pytest.raises(UsageError, match=r"holds no train\.jsonl"):
        read_lists(tmp_path, "train")
    for name in ("train", "training"):
        write(tmp_path / "two" / f"{name}.jsonl", GOOD)
    with pytest.raises(UsageError, match=r"more than one training list: train\.jsonl, training\.jsonl"):
        read_lists(tmp_path / "two", "train")
    made = write(tmp_path / "gap.jsonl", entry(0, "cat", "1.png"), entry(2, "eel", "2.png"))
    with pytest.raises(FileError, match="its class numbers reach 2, and no image is of class 1"):
        read_lists(made, "train")
    with pytest.raises(SpherectlError, match="Expected a folder of images, got the file") as caught:
        open_dataset(DataSpec(), 32, root=made)
    assert "--set data.kind=jsonl" in caught.value.hint
