"""Model files: what is written is read back bit for bit, in both formats; bad files are refused."""

from __future__ import annotations

import math
import os
import pickle
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from spherectl.errors import FileError
from spherectl.model.formats.header import read_header
from spherectl.model.formats.layouts import PUBLISHED
from spherectl.model.formats.package import check_weights
from spherectl.model.formats.weights import (
    Package,
    instantiate,
    read_package,
    read_rows,
    read_tensors,
    save_file,
    write_package,
)
from spherectl.recipe import Recipe
from spherectl.safetensors_header import safetensors_header

pytestmark = pytest.mark.fast


def same(a: dict[str, torch.Tensor] | None, b: dict[str, torch.Tensor] | None) -> bool:
    assert a is not None
    assert b is not None
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def test_our_file_reads_back_bit_for_bit(tmp_path: Path, package: Package, recipe: Recipe) -> None:
    write_package(tmp_path / "a.safetensors", package)
    back = read_package(tmp_path / "a.safetensors")
    assert same(back.weights, package.weights)
    assert same(back.raw, package.raw)
    assert back.header["class_names"] == ["a", "b", "ü"]
    assert back.recipe == recipe
    write_package(tmp_path / "b.safetensors", back)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]  # no temporary left
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode  # as the umask says
    header = read_header(tmp_path / "a.safetensors")
    assert (header["format"], header["architecture"]) == (1, "sphere-encoder")
    assert read_package(tmp_path / "a.safetensors", raw=False).raw is None


def test_published_layout_written_then_read_is_the_same(tmp_path: Path, package: Package, recipe: Recipe) -> None:
    PUBLISHED.write(tmp_path, package)
    back = read_package(tmp_path)
    assert same(back.weights, package.weights)
    assert same(back.raw, package.raw)
    derived = {"patch_size", "token_channels", "compression_ratio"}
    assert back.recipe.model.model_dump(exclude=derived) == recipe.model.model_dump(exclude=derived)
    assert (back.recipe.model.patch, back.recipe.model.channels_per_token) == (8, 8)


def test_published_scalars_of_both_shapes_are_taken(tmp_path: Path, reference: Path) -> None:
    source = reference / "published-layout"
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)
    path = tmp_path / "copy" / "ckpt" / "ep0007.pth"
    state = torch.load(path, weights_only=True)
    scalars = sorted(k for k in state["model"] if "alpha" in k)
    for i, key in enumerate(scalars):
        state["model"][key] = state["model"][key].reshape(() if i % 2 else (1,))
    path.unlink()
    torch.save(state, path)
    package = read_package(tmp_path / "copy")
    expected = read_package(source)
    assert same(package.raw, expected.raw)
    instantiate(package, "raw")
    PUBLISHED.write(tmp_path / "again", package)
    again = torch.load(tmp_path / "again" / "ckpt" / "ep0007.pth", weights_only=True)
    assert [again["model"][k].dim() for k in scalars] == [1 - i % 2 for i in range(len(scalars))]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path: Path, reference: Path) -> None:
    shutil.copytree(reference / "published-layout", tmp_path / "c", copy_function=shutil.copyfile)
    evidence = tmp_path / "executed"
    torch.save({"model": {}, "epoch": 1, "x": Payload(evidence)}, tmp_path / "c" / "ckpt" / "ep0007.pth")
    with pytest.raises(FileError, match="never executed"):
        read_package(tmp_path / "c")
    (tmp_path / "c" / "ckpt" / "ep0007.pth").write_bytes(pickle.dumps(Payload(evidence)))
    with pytest.raises(FileError):
        read_package(tmp_path / "c")
    assert not evidence.exists()


def test_damaged_files_are_a_sentence(tmp_path: Path, package: Package) -> None:
    path = tmp_path / "m.safetensors"
    write_package(path, package)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", bytes(range(256)) * 40):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="not a whole safetensors file"):
            read_package(path)
    with pytest.raises(FileError, match="no file"):
        read_package(tmp_path / "absent.safetensors")


def test_foreign_files_are_a_sentence(tmp_path: Path, package: Package) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="it has no spherectl header"):
        read_package(path)
    save_file(path, {"x": torch.zeros(1)}, {"format": 1, "architecture": "torus-encoder", "recipe": {}})
    with pytest.raises(FileError, match="torus-encoder"):
        read_package(path)
    save_file(path, {"x": torch.zeros(1)}, {"format": 99, "architecture": "sphere-encoder", "recipe": {}})
    with pytest.raises(FileError, match="99"):
        read_package(path)


def test_weights_that_do_not_fit_name_what_differs(package: Package) -> None:
    name = "decoder.out.2.bias"
    short = {k: t for k, t in package.weights.items() if k != name}
    with pytest.raises(FileError, match=f"{name} is missing"):
        instantiate(Package(package.header, short))
    with pytest.raises(FileError, match=r"decoder.out.2.bias is \(5,\), expected"):
        instantiate(Package(package.header, {**package.weights, name: torch.zeros(5)}))
    with pytest.raises(FileError, match="extra is left over"):
        instantiate(Package(package.header, {**package.weights, "extra": torch.zeros(5)}))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    write_package(path, package)
    before = path.read_bytes()

    def full_disk(_tensors: Any, file: Path, **_: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(FileError, match="No space left"):
        write_package(path, package)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_rows_and_whole_tensors_are_as_the_library_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {"a": torch.arange(30.0).reshape(10, 3), "b": torch.arange(4).bfloat16(), "c": torch.tensor(3.0)}
    tensors |= {"d": torch.zeros(0, 3), "e": torch.arange(6).reshape(3, 2), "f": torch.tensor([True, False])}
    save_file(path, tensors, {})
    found, expected = read_tensors(path), safetensors.torch.load_file(path)
    assert same(found, expected)
    assert {name: t.dtype for name, t in found.items()} == {name: t.dtype for name, t in tensors.items()}
    info = safetensors_header(path).tensors["a"]
    with path.open("rb") as file:
        assert torch.equal(read_rows(file, info, path, 2, 3), tensors["a"][2:5])
        assert torch.equal(read_rows(file, info, path, 9), tensors["a"][9:])
        assert read_rows(file, info, path, 4, 0).shape == (0, 3)


def test_a_file_that_is_cut_afterwards_leaves_its_weights_alone(tmp_path: Path, package: Package) -> None:
    """A mapped file would end the process."""
    path = tmp_path / "m.safetensors"
    write_package(path, package)
    model = instantiate(read_package(path))
    info = safetensors_header(path).tensors["decoder.out.2.bias"]
    with path.open("r+b") as file:
        file.truncate(100)
        assert same(model.state_dict(), package.weights)
        with pytest.raises(FileError, match="cut short while it was read"):
            read_rows(file, info, path)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["complex64", "int64", "float8_e4m3fn", "float16", "float64"])
def test_models_have_floating_point_weights(dtype: str, tmp_path: Path, package: Package) -> None:
    weights = {name: t.to(getattr(torch, dtype)) for name, t in package.weights.items()}
    write_package(tmp_path / "m.safetensors", Package(package.header, weights))
    if dtype in ("float16", "float64"):
        back = read_package(tmp_path / "m.safetensors").weights
        assert same(back, weights)
        assert all(back[name].dtype == t.dtype for name, t in weights.items())
        return
    with pytest.raises(FileError, match=r"has the type \w+, which no model has"):
        read_package(tmp_path / "m.safetensors")


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_weights_that_are_no_numbers_are_named(number: float, tmp_path: Path, package: Package) -> None:
    name = "decoder.out.2.bias"
    for key in ("weights", "raw"):
        tensors = {k: t.clone() for k, t in package.weights.items()}
        tensors[name].view(-1)[-1] = number
        write_package(tmp_path / "m.safetensors", replace(package, **{key: tensors}))
        with pytest.raises(FileError, match=f"{name}.*not finite numbers"):
            read_package(tmp_path / "m.safetensors")
    check_weights({"a": torch.full((1000,), 3e38), "b": torch.full((1000,), 6e4).half()}, "x")  # whose sum is not


@pytest.mark.parametrize(
    "model", [{"num_classes": 100_000, "size": "giant"}, {"token_channels": 10**18}, {"compression_ratio": 1e-300}]
)
def test_a_recipe_that_does_not_fit_the_tensors_is_found_at_once(
    model: dict[str, Any], tmp_path: Path, package: Package
) -> None:
    table = {**package.header["recipe"], "model": {**package.header["recipe"]["model"], **model}}
    write_package(
        tmp_path / "m.safetensors", replace(package, header={**package.header, "recipe": table, "class_names": []})
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with pytest.raises(FileError) as caught:
        instantiate(read_package(tmp_path / "m.safetensors"))
    assert len(caught.value.message) < 300 + len(str(tmp_path))
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
