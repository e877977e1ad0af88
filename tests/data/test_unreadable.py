"""Counting what cannot be read, against 1% by hand; replacing it, against the rule, whatever reads."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.decode import ImageError
from spherectl.data.order import Batch, image_numbers, training_batches
from spherectl.data.unreadable import Tally, tolerated
from spherectl.errors import FileError
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

N = 200
SEED = 11


def test_over_one_percent_names_some():
    assert [tolerated(n) for n in (1, 99, 100, 199, 200, 1_281_167)] == [0, 0, 1, 1, 2, 12_811]
    tally = Tally(1000, 100)
    for epoch in range(3):  # 1% goes on for ever
        for batch in range(10):
            tally.add(1000 * epoch + 100 * batch, ("a.png",), 1)
    assert tally.names == ("a.png",)
    tally.add(3000, tuple(f"{i}.png" for i in range(6)), 10)
    with pytest.raises(FileError, match=r"^11 images of one epoch of 1,000 .*: a\.png, 0\.png, .* and 3 more\. "):
        tally.add(3900, ("last.png",), 1)
    with pytest.raises(FileError, match=r"20 images .* other processes have met them"):
        Tally(1000, 100).add(0, (), 20)


def met(batch: int, broken: tuple[int, ...], epochs: int) -> Tally:
    """What is counted of these images over so many epochs."""
    tally = Tally(N, batch)
    for first in range(0, epochs * N + batch, batch):
        tally.add(first, (), sum(int(number) in broken for number in image_numbers(SEED, first, batch, N)))
    return tally


@pytest.mark.parametrize("batch", [7, 100, 150, 1000])
def test_one_percent_never_stops_and_twice_as_many_stop_within_two_epochs(batch):
    """Batches straddle epochs, or hold several: an image met twice in one is no second broken image."""
    met(batch, (3, 117), epochs=9)
    with pytest.raises(FileError, match="cannot be read"):
        met(batch, (3, 50, 117, 150, 199), epochs=2)


BROKEN = (5, 199)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """200 images of one colour, their number; 5 and 199 are none."""
    root = tmp_path_factory.mktemp("images")
    for i in range(N):
        path = root / "ab"[i >= 100] / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)
        if i in BROKEN:
            path.write_bytes(b"no image")
    return root


@pytest.fixture
def dataset(folder) -> ImageSet:
    return open_dataset(DataSpec(), 8, root=folder)


def test_the_next_readable_image_stands_for_one_with_its_label(dataset, folder):
    read = dataset.read([4, 5, 199, 6])
    assert read.images[:, 0, 0, 0].tolist() == [4, 6, 0, 6]
    assert read.labels.tolist() == [0, 0, 0, 0], "of image 0, not of 199"
    assert read.unreadable == (str(folder / "a" / "005.png"), str(folder / "b" / "199.png"))
    with pytest.raises(ImageError, match=r"Cannot read the image .*005\.png"):
        dataset.gather([4, 5])  # as an evaluation reads


def test_more_in_a_row_than_may_be_is_the_last_ones_sentence(tmp_path):
    for i in range(120):
        (tmp_path / f"{i:03d}.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "002.png")
    dataset = open_dataset(DataSpec(), 8, root=tmp_path)
    assert dataset.read([1]).images.shape == (1, 3, 8, 8), "one in a row of 120 is within 1%"
    with pytest.raises(ImageError, match=r"Cannot read the image .*001\.png"):
        dataset.read([0])


def epoch(dataset: ImageSet, batch_size: int, **options) -> list[Batch]:
    batches = training_batches(dataset, seed=SEED, batch_size=batch_size, **options)
    taken = list(itertools.islice(batches, N // batch_size))
    batches.close()
    return taken


def test_an_epoch_meets_each_once_over_all_processes_and_workers(dataset, folder):
    names = sorted([str(folder / "a" / "005.png"), str(folder / "b" / "199.png")])
    whole = epoch(dataset, 50, workers=0)
    assert sorted(name for batch in whole for name in batch.unreadable) == names
    with_workers = epoch(dataset, 50, workers=1)
    assert [batch.unreadable for batch in with_workers] == [batch.unreadable for batch in whole]
    shares = [epoch(dataset, 50, workers=0, share=share) for share in ((0, 20), (20, 50))]
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        assert sum((part.unreadable for part in parts), ()) == batch.unreadable
