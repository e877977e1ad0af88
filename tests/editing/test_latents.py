"""Files of latents: what was written comes back, and a file of a stranger is a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from spherectl.api import Model
from spherectl.editing import latents as module
from spherectl.editing.latents import decoded, open_latents, write_latents
from spherectl.errors import FileError, UsageError
from spherectl.model.formats.header import HEADER_KEY

pytestmark = pytest.mark.fast

LABELS = torch.tensor([0, 10, 3, 9])
FILES = ["a.png", "b.png", "ü/日.png", "d\x1b[31m.png"]


@pytest.fixture
def written(garments: Model, originals: Tensor, tmp_path: Path) -> Path:
    latents = garments.encode(originals, LABELS)
    write_latents(tmp_path / "l.safetensors", garments, FILES, LABELS, [([0, 1], latents[:2]), ([2, 3], latents[2:])])
    return tmp_path / "l.safetensors"


def changed(path: Path, tensors: dict[str, Tensor] | None = None, **header: Any) -> Path:
    """A copy with some tensors and keys of the header replaced, written by safetensors itself."""
    with open_latents(path) as found:
        table = found.header | header
    other = path.with_name("changed.safetensors")
    told = {HEADER_KEY: json.dumps(table)}
    safetensors.torch.save_file(safetensors.torch.load_file(path) | (tensors or {}), other, told)
    return other


def test_latents_come_back_with_the_names_of_their_files(garments: Model, originals: Tensor, written: Path) -> None:
    with open_latents(written) as found:
        found.check_model(garments, written)
        assert torch.equal(found.read(0, 4), garments.encode(originals, LABELS))
        assert torch.equal(found.read(2, 3), found.read(0, 4)[2:3])
        assert found.labels is not None
        assert torch.equal(found.labels, LABELS)
        assert found.header["files"] == FILES
        images = torch.cat(list(decoded(found, garments, LABELS, steps=1, batch=3)))
    assert torch.equal(images, garments.reconstruct(originals, LABELS).cpu())
    assert torch.equal(safetensors.torch.load_file(written)["labels"], LABELS)  # any reader of the format can


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"latents": torch.full((4, 64, 8), float("nan"))}, "latents 0 to 3 are not all finite"),
        ({"latents": torch.zeros(4, 64, 8, dtype=torch.int64)}, "its latents are not those of its files"),
        ({"latents": torch.zeros(5, 64, 8)}, "its latents are not those of its files"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "its labels are not those of its files"),
        ({"labels": torch.tensor([0, 2**62, 0, 0])}, "its labels are no classes"),
    ],
)
def test_other_tensors_are_a_sentence(tensors: dict[str, Tensor], said: str, written: Path) -> None:
    other = changed(written, tensors)
    with pytest.raises(FileError, match=said), open_latents(other) as found:
        found.read(0, 4)


@pytest.mark.parametrize("key", ["format", "architecture", "model", "model_sha256", "weights", "files"])
def test_a_header_of_another_type_is_a_sentence(key: str, written: Path) -> None:
    with pytest.raises(FileError, match=key), open_latents(changed(written, **{key: [1] * 4})):
        pass


def test_latents_of_another_model_or_shape_are_refused(garments: Model, written: Path) -> None:
    theirs = changed(written, model_sha256="0" * 64)
    with open_latents(theirs) as found, pytest.raises(UsageError, match="which mean nothing to"):
        found.check_model(garments, written)
    small = changed(written, {"latents": torch.zeros(4, 8, 8)})
    with open_latents(small) as found, pytest.raises(UsageError, match=r"Expected latents of shape \(B, 64, 8\)"):
        list(decoded(found, garments, None, steps=1, batch=2))


def test_a_file_that_shrinks_is_a_sentence(written: Path) -> None:
    """A mapped file that shrinks would end the process."""
    with open_latents(written) as found:
        os.truncate(written, written.stat().st_size - 3000)
        with pytest.raises(FileError, match="was cut short while it was read"):
            found.read(0, 4)
    with pytest.raises(FileError, match="not a whole safetensors file"), open_latents(written):
        pass


def test_more_images_than_a_file_has_room_for_are_refused_before_they_are_encoded(
    garments: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    with pytest.raises(UsageError, match="at most 3 images; got 4"):
        write_latents(tmp_path / "l.safetensors", garments, FILES, LABELS, iter(()))
    assert not list(tmp_path.iterdir())
