"""Where images go: three kinds of target that hold the same images, places refused, names that are free."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spherectl import output
from spherectl.api import Generated
from spherectl.data.transforms import to_uint8
from spherectl.errors import FileError, UsageError
from spherectl.files import claimed
from spherectl.images import read_provenance
from spherectl.output import check_target, write_images

pytestmark = pytest.mark.fast

# Seven images, each a ramp of its own, in batches of 3, 3 and 1, of three classes in turn.
RAMPS = (torch.arange(7 * 3 * 8 * 8).reshape(7, 3, 8, 8) % 251 / 255).float()
LABELS = torch.tensor([4, 2, 9, 4, 2, 9, 4])


def batches(labels: torch.Tensor | None = LABELS) -> list[Generated]:
    places = [torch.arange(start, min(start + 3, 7)) for start in (0, 3, 6)]
    return [Generated(RAMPS[i], None if labels is None else labels[i], i) for i in places]


def about(indices: torch.Tensor, labels: torch.Tensor | None, columns: int | None) -> dict[str, Any]:
    return {"indices": indices.tolist(), "labels": None if labels is None else labels.tolist(), "columns": columns}


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_holds_every_image(here):
    assert write_images(here / "v1.2", batches(), 7, about) == 7
    files = sorted((here / "v1.2").iterdir())
    assert files == [here / "v1.2" / f"{i:06d}.png" for i in range(7)]
    for i, path in enumerate(files):
        assert torch.equal(pixels(path), to_uint8(RAMPS[i]))
        assert read_provenance(path) == {"indices": [i], "labels": [int(LABELS[i])], "columns": None}


def test_a_grid_has_a_column_a_class(here):
    assert write_images(here / "a.png", batches(), 7, about) == 1
    sheet = pixels(here / "a.png")
    assert sheet.shape == (3, 3 * 10 - 2, 3 * 10 - 2)
    for i in range(7):
        top, left = i // 3 * 10, i % 3 * 10
        assert torch.equal(sheet[:, top : top + 8, left : left + 8], to_uint8(RAMPS[i]))
    assert read_provenance(here / "a.png") == {"indices": list(range(7)), "labels": LABELS.tolist(), "columns": 3}


@pytest.mark.parametrize("labels", [None, torch.zeros(7, dtype=torch.int64), torch.arange(7)])
def test_without_turns_of_classes_a_grid_is_nearly_square(here, labels):
    write_images(here / "A.PNG", batches(labels), 7, about)
    assert read_provenance(here / "A.PNG")["columns"] is None
    assert pixels(here / "A.PNG").shape == (3, 28, 28)
    write_images(here / "A.PNG", batches(labels), 7, None)
    assert read_provenance(here / "A.PNG") is None


def test_arrays_hold_images_with_the_channels_last_and_labels(here):
    write_images(here / "a.npz", batches(), 7, about)
    with np.load(here / "a.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["arr_0"], to_uint8(RAMPS).permute(0, 2, 3, 1).numpy())
        assert (arrays["arr_1"].dtype, arrays["arr_1"].tolist()) == (np.int64, LABELS.tolist())


@pytest.mark.parametrize("out", ["folder", "a.npz", "a.png"])
def test_sampled_floats_are_let_go(here, out):
    """When a batch is sampled the one before it may still be there, the others are not; a grid keeps bytes alone."""
    known: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def drawing() -> Iterator[Generated]:
        for batch in batches():
            images = batch.images.clone()
            known.append(weakref.ref(images))
            alive.append(sum(one() is not None for one in known))
            sampled = Generated(images, batch.labels, batch.indices)
            del images
            yield sampled
            del sampled

    write_images(here / out, drawing(), 7, None)
    assert alive[0] == 1
    assert max(alive) <= 2


def test_a_disk_that_fills_up_leaves_whole_files_only(here, monkeypatch):
    """The third image does not fit: it is named, the two before it are whole, and nothing else is there."""
    real, count = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 4:  # two syncs a file: its contents, its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(output, "PARALLEL_IMAGES", 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"Cannot write .*/000002\.png: No space left on device\."):
        write_images(here / "folder", batches(), 7, about)
    assert [path.name for path in sorted((here / "folder").iterdir())] == ["000000.png", "000001.png"]
    assert torch.equal(pixels(here / "folder" / "000001.png"), to_uint8(RAMPS[1]))
    for name in ("a.png", "a.npz"):
        (here / name).write_text("old")
        with pytest.raises(FileError, match="No space left"):
            write_images(here / name, batches(), 7, about)
        assert (here / name).read_text() == "old"
    assert [path.name for path in sorted(here.iterdir())] == ["a.npz", "a.png", "folder"]


@pytest.mark.parametrize(
    ("out", "error", "said"),
    [
        ("a.jpg", UsageError, r"Expected a \.png \(a grid\), an \.npz .* or a folder to write to, got a\.jpg\."),
        ("folder.png", UsageError, r"folder\.png is a folder"),
        ("file", UsageError, "is a file, not a folder"),
        ("/proc/images", FileError, r"Cannot write /proc/images: no file can be made in /proc \("),
    ],
)
def test_places_that_cannot_be_written_are_refused(here, out, error, said):
    """/proc stands for read-only folders: it refuses a superuser too."""
    if out.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc on this system")
    (here / "folder.png").mkdir()
    (here / "file").write_text("kept")
    with pytest.raises(error, match=said):
        check_target(Path(out))
    assert sorted(path.name for path in here.iterdir()) == ["file", "folder.png"]


def test_places_that_can_be_written_are_left_as_they_are(here):
    (here / "taken.jpg").mkdir()  # a folder, whatever its name looks like
    for out in ("new/folders/a.png", "taken.jpg", "new/images", ".", "a.npz"):
        check_target(Path(out))
    assert [path.name for path in here.iterdir()] == ["taken.jpg"]


def test_a_claimed_name_is_plain_nobody_elses_and_free_after_an_error(here):
    def fail() -> None:
        with claimed("a"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(here.iterdir()) == []
    with claimed("a") as first, claimed("a") as second, claimed("my model: v2/../x") as third:
        first.write_text("1")
        second.write_text("2")
        third.write_text("3")
    written = {path.name: path.read_text() for path in here.iterdir()}
    assert written == {"a.png": "1", "a-1.png": "2", "my-model-v2-..-x.png": "3"}
