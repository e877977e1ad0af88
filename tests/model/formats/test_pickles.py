"""Files of weights as torch writes them, now and before version 1.6, and what is no such file."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spherectl.errors import FileError
from spherectl.model.formats import pickles
from spherectl.model.formats.pickles import read_tensors
from tests.model.formats.test_published import PICKLES, archive

pytestmark = pytest.mark.fast

LEGACY_HEAD = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    b"\x80\x02}q\x00(X\r\x00\x00\x00little_endianq\x01\x88X\n\x00\x00\x00type_sizesq\x02}q\x03u."
)


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 6, generator=generator)
    return {"a": whole, "b": whole[1:, ::2], "c": whole.half(), "batches": torch.tensor(7), "d": torch.zeros(0, 3)}


def refused(path: Path) -> str:
    with pytest.raises(FileError) as caught:
        read_tensors(path, "Fetch it again.")
    assert len(caught.value.message) < 300 + len(str(path))
    return caught.value.message


@pytest.mark.parametrize("as_archive", [True, False])
def test_what_torch_writes_is_read_whole(as_archive: bool, tmp_path: Path) -> None:
    """Both layouts, with a tensor that is part of another and one without elements."""
    torch.save(weights(), tmp_path / "w.pth", _use_new_zipfile_serialization=as_archive)
    found = read_tensors(tmp_path / "w.pth", "")
    assert found.keys() == weights().keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in weights().items()
    )


def test_names_of_old_torch_are_known(tmp_path: Path) -> None:
    """As torch wrote weights from a graphics card before 0.4: other names, which torch still reads."""
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pth").read_bytes()
    old = content.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    assert old != content
    (tmp_path / "w.pth").write_bytes(old)
    assert torch.equal(read_tensors(tmp_path / "w.pth", "")["a"], torch.ones(3))


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_of_other_things(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By themselves, in an archive, and behind what a file of before version 1.6 begins with, which is read itself."""
    (tmp_path / "w.pth").write_bytes(LEGACY_HEAD + b"\x80\x02}." + b"\x80\x02].")
    assert read_tensors(tmp_path / "w.pth", "") == {}
    monkeypatch.setattr(pickles, "MAX_OPCODES", 250_000)  # counting the real 2,000,000 takes seconds
    if name not in ("many", "deep"):  # which are slow to count
        tracemalloc.start()
    (tmp_path / "w.pth").write_bytes(PICKLES[name])
    assert "torch did not write it" in refused(tmp_path / "w.pth")
    for content in (archive(PICKLES[name]), LEGACY_HEAD + PICKLES[name] + b"\x80\x02]."):
        (tmp_path / "w.pth").write_bytes(content)
        assert ("is longer than any" in refused(tmp_path / "w.pth")) == (name == "many")
    assert tracemalloc.get_traced_memory()[1] < 100 << 20  # bytes at most
    tracemalloc.stop()


def test_an_old_file_that_names_more_numbers_than_it_has(tmp_path: Path) -> None:
    """Torch makes room for a storage before it reads it: here for 2 GB, in a file of 500 bytes."""
    torch.save({"a": torch.zeros(100)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pth").read_bytes()
    number = b"cpuq\x06Kd"  # the storage's place, then its 100 elements
    assert content.count(number) == 1
    (tmp_path / "w.pth").write_bytes(content.replace(number, b"cpuq\x06J" + struct.pack("<i", 500_000_000)))
    assert "more numbers than it has" in refused(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(content[:-200])
    refused(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ([1, 2], "no state dict"),
        ({"a": 1}, "no state dict"),
        ({"a": {1: torch.zeros(1)}}, "no state dict"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "larger than the file"),
        ({"a": torch.tensor([1.0, torch.nan])}, "not finite numbers"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "not a readable file of weights"),
        ({"a": torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=False)}, "not a readable file of weights"),
    ],
    ids=str,
)
def test_objects_that_are_no_weights(state: Any, sentence: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    assert sentence in refused(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b"\x1f\x8b" + bytes(600)),
        lambda path: path.write_bytes(b"w.pth" + bytes(95) + b"0000644\0" + bytes(5000)),
    ],
)
def test_what_is_no_file_of_torchs(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / "w.pth")
    refused(tmp_path / "w.pth")
