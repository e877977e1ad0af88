"""TensorBoard: what its own reader finds in the files, also after a resume."""

from __future__ import annotations

import shutil
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from spherectl.errors import FileError
from spherectl.training.checkpoint import Counts
from spherectl.training.tensorboard import opened

pytestmark = pytest.mark.fast


def events(folder: Path) -> Any:
    """All that is in a folder's files, as TensorBoard shows it."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


def train(folder: Path, first: int, last: int, *, of: int, value: float) -> None:
    """Show the steps from first to last."""
    with opened(folder, step=first - 1, last_step=of) as board:
        for step in range(first, last + 1):
            board.scalars({"step": step, "images_seen": 8 * step, "loss": value + step / 100})
            if step % 15 == 0:
                board.images("samples", torch.full((3, 4, 4), step, dtype=torch.uint8), Counts(step))


def test_every_tenth_step_and_the_last_are_shown(tmp_path: Path) -> None:
    train(tmp_path, 1, 25, of=25, value=1)
    found = events(tmp_path)
    assert sorted(found.Tags()["scalars"]) == ["images_seen", "loss"]
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [
        (step, pytest.approx(1 + step / 100, rel=1e-6)) for step in (10, 20, 25)
    ]
    assert [one.value for one in found.Scalars("images_seen")] == [80, 160, 200]


@pytest.mark.parametrize(("checkpoint", "kept"), [(0, []), (22, [(10, 1.1), (20, 1.2)])])
def test_after_a_resume_each_step_is_there_once(tmp_path: Path, checkpoint: int, kept: list[tuple[int, float]]) -> None:
    """Killed after step 33, resumed from a checkpoint: what lay between is shown again, and only that."""
    train(tmp_path, 1, 33, of=40, value=1)
    train(tmp_path, checkpoint + 1, 40, of=40, value=2)
    found = events(tmp_path)
    again = [(10, 2.1), (20, 2.2), (30, 2.3), (40, 2.4)]
    assert [(one.step, round(one.value, 4)) for one in found.Scalars("loss")] == kept + again[len(kept) :]
    assert [one.step for one in found.Images("samples")] == [15, 30]


def pixels(event: Any) -> np.ndarray:
    with Image.open(BytesIO(event.encoded_image_string)) as image:
        return np.asarray(image)


@pytest.fixture
def ramp() -> Tensor:
    return torch.arange(3 * 5 * 7, dtype=torch.uint8).mul(2).reshape(3, 5, 7)


def test_images_are_shown_byte_for_byte(tmp_path: Path, ramp: Tensor) -> None:
    with opened(tmp_path, step=0, last_step=9) as board:
        board.images("bytes", ramp, Counts(3))
        board.images("floats", ramp.float() / 255, Counts(4))
        board.images("floats", (ramp.float() + 0.4) / 255.4, Counts(5))  # rounded, as everywhere, and not cut off
    found = events(tmp_path)
    assert [one.step for one in found.Images("floats")] == [4, 5]
    expected = ramp.permute(1, 2, 0).numpy()
    for event in (*found.Images("bytes"), *found.Images("floats")):
        assert np.array_equal(pixels(event), expected)


def test_a_training_goes_on_where_its_board_can_no_longer_be_written(
    tmp_path: Path, ramp: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    """The folder is removed under it; TensorBoard's own thread would print a traceback, and the next call raise it."""
    pytest.importorskip("tensorboard")
    folder = tmp_path / "tensorboard"
    steps = 0
    with opened(tmp_path, step=0, last_step=10_000) as board:
        shutil.rmtree(folder)
        for step in range(10, 1000, 10):
            board.scalars({"step": step, "loss": 1.0})
            board.images("samples", ramp, Counts(step))
            time.sleep(0.001)  # TensorBoard's thread writes meanwhile
            steps += 1
    assert steps == 99
    assert not folder.exists()
    assert capfd.readouterr() == ("", "")


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_bytes(b"a file")
    with pytest.raises(FileError, match=r"Cannot write .*tensorboard: "), opened(tmp_path, step=0, last_step=1):
        pass
