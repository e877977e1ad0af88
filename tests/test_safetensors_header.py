"""What a safetensors file says of itself: what the library wrote is read, anything else is one sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from spherectl.errors import FileError
from spherectl.model.formats.header import read_header
from spherectl.safetensors_header import MAX_HEADER, safetensors_header
from spherectl.settings import packaged

pytestmark = pytest.mark.fast

EMBEDDED = sorted(packaged("zoo").glob("*.safetensors"))
RECIPE = {"name": "small", "model": {"size": "nano", "num_classes": 2}, "run": {"length_images": 1}}
MODEL = {"format": 1, "architecture": "sphere-encoder", "recipe": RECIPE, "class_names": ["a", "b"]}


def write(path: Path, table: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = json.dumps(table).encode() if not isinstance(table, bytes) else table
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def with_header(path: Path, header: Any) -> Path:
    return write(path, {"__metadata__": {"spherectl": header if isinstance(header, str) else json.dumps(header)}})


def refused(path: Path, read: Any = safetensors_header) -> str:
    with pytest.raises(FileError) as caught:
        read(path)
    message = caught.value.message
    assert len(message) < 400 + len(str(path))
    assert message.isprintable()
    return message


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_embedded_files_are_read_as_the_library_reads_them(path: Path) -> None:
    found = safetensors_header(path)
    with safetensors.safe_open(path, "pt") as file:
        assert found.metadata == file.metadata()
        assert found.tensors.keys() == set(file.keys())
        for name, info in found.tensors.items():
            assert list(info.shape) == file.get_slice(name).get_shape()
            assert info.dtype == file.get_slice(name).get_dtype()
    assert read_header(path) == json.loads(found.metadata["spherectl"])


def test_all_types_of_the_library_are_known(tmp_path: Path) -> None:
    names = ("bool", "uint8", "int8", "int16", "uint16", "float16", "bfloat16", "int32", "uint32", "float32", "int64")
    names += ("uint64", "float64", "complex64", "float8_e4m3fn", "float8_e5m2")
    tensors = {name: torch.zeros(3, 5, dtype=getattr(torch, name)) for name in names}
    tensors |= {"scalar": torch.zeros(()), "empty": torch.zeros(0, 7)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    found = safetensors_header(tmp_path / "a.safetensors").tensors
    assert {name: info.shape for name, info in found.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert {name: info.stop - info.start for name, info in found.items()} == {n: t.nbytes for n, t in tensors.items()}


@pytest.mark.parametrize(
    "entry",
    [
        *([], {}, "x" * 100_000, 10**30),
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]},
        {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]},
    ],
    ids=lambda entry: str(entry)[:40],
)
def test_an_entry_that_does_not_fit_the_files_bytes(entry: Any, tmp_path: Path) -> None:
    message = refused(write(tmp_path / "a.safetensors", {"\x1b[1m": entry}, bytes(4)))
    assert "is not a whole safetensors file" in message


def test_tensors_share_no_bytes_and_leave_none(tmp_path: Path) -> None:
    """A hundred thousand tensors over the same bytes would need a hundred thousand times the file's memory."""
    path = tmp_path / "a.safetensors"
    one = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
    assert "do not follow" in refused(write(path, {"a": one, "b": one}, bytes(8)))
    assert "the file 16" in refused(write(path, {"a": one}, bytes(16)))


def test_lengths_that_the_file_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in (3, 2**32, 2**63, 2**64 - 1):
        assert "cut short" in refused(write(path, {}, length=length))
    path.write_bytes(b"")
    assert "cut short" in refused(path)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(MAX_HEADER + 100)
    assert f"at most {MAX_HEADER:,}" in refused(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ["a", "b", "c"]}, "class_names: 3 names for 2 classes"),
        ({"format": 2}, "is in model format 2; this version reads 1"),
        ({"editing": {"restore": {"denoise": {"lambda": None}}}}, "editing"),
    ],
)
def test_the_sentence_names_the_key(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refused(with_header(tmp_path / "a.safetensors", MODEL | changes), read_header)


def test_keys_of_newer_versions_and_headers_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for header in (MODEL | {"of_the_future": {"x": [1]}}, {"format": 9, "architecture": "torus", "recipe": 3}):
        assert read_header(with_header(path, header)) == header
    assert "architecture is missing" in refused(with_header(path, {}), read_header)
