"""Model files: what is written is read back bit for bit, in both formats; bad files are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from spherectl.errors import FileError, UsageError
from spherectl.model.sphere import build, initialise
from spherectl.model.weights import (
    Package,
    instantiate,
    read_header,
    read_package,
    save_file,
    write_package,
    write_published,
)
from spherectl.recipe import Recipe

pytestmark = pytest.mark.fast

RECIPE = Recipe.model_validate(
    {
        "name": "small",
        "model": {"image_size": 32, "patch_size": 8, "size": "nano", "num_classes": 3, "compression_ratio": 24},
        "run": {"length_images": 10},
    }
)


@pytest.fixture
def package() -> Package:
    model = build(RECIPE.model)
    initialise(model, 0)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    raw = {name: t + 1 for name, t in weights.items()}
    return Package({"recipe": RECIPE.to_table(), "weights": "ema", "class_names": ["a", "b", "ü"]}, weights, raw)


def same(a: dict[str, torch.Tensor] | None, b: dict[str, torch.Tensor] | None) -> bool:
    assert a is not None
    assert b is not None
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


def test_our_file_reads_back_bit_for_bit(tmp_path: Path, package: Package) -> None:
    write_package(tmp_path / "a.safetensors", package)
    back = read_package(tmp_path / "a.safetensors")
    assert same(back.weights, package.weights)
    assert same(back.raw, package.raw)
    assert back.header["class_names"] == ["a", "b", "ü"]
    assert back.recipe == RECIPE
    write_package(tmp_path / "b.safetensors", back)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]  # no temporary left


def test_averaged_or_raw_weights(tmp_path: Path, package: Package) -> None:
    name = "decoder.out.2.bias"
    assert torch.equal(instantiate(package).state_dict()[name], package.weights[name])
    assert package.raw is not None
    assert torch.equal(instantiate(package, "raw").state_dict()[name], package.raw[name])
    with pytest.raises(UsageError, match="averaged"):
        instantiate(Package(package.header, package.weights), "raw")


def test_published_layout_read_then_written_is_the_same(tmp_path: Path, reference: Path) -> None:
    source = reference / "published-layout"
    write_published(tmp_path / "out", read_package(source))
    before = torch.load(source / "ckpt" / "ep0007.pth", weights_only=True)
    after = torch.load(tmp_path / "out" / "ckpt" / "ep0007.pth", weights_only=True)
    assert before.keys() == after.keys()
    assert before["epoch"] == after["epoch"]
    for part in ("model", "ema_model"):
        assert same(before[part], after[part])  # shapes too: scalars occur as 0-d and as (1,)
    assert json.loads((source / "cfg.json").read_text()) == json.loads((tmp_path / "out" / "cfg.json").read_text())


def test_published_layout_written_then_read_is_the_same(tmp_path: Path, package: Package) -> None:
    write_published(tmp_path, package)
    back = read_package(tmp_path)
    assert same(back.weights, package.weights)
    assert same(back.raw, package.raw)
    assert back.recipe.model.model_dump(exclude={"patch_size", "token_channels", "compression_ratio"}) == (
        RECIPE.model.model_dump(exclude={"patch_size", "token_channels", "compression_ratio"})
    )
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
    write_published(tmp_path / "again", package)
    again = torch.load(tmp_path / "again" / "ckpt" / "ep0007.pth", weights_only=True)
    assert [again["model"][k].dim() for k in scalars] == [1 - i % 2 for i in range(len(scalars))]


def test_the_newest_epoch_counts_and_unknown_keys_do_not(tmp_path: Path, reference: Path) -> None:
    shutil.copytree(reference / "published-layout", tmp_path / "c", copy_function=shutil.copyfile)
    newer = torch.load(tmp_path / "c" / "ckpt" / "ep0007.pth", weights_only=True)
    newer["epoch"] = 12
    torch.save(newer, tmp_path / "c" / "ckpt" / "ep0012.pth")
    cfg = json.loads((tmp_path / "c" / "cfg.json").read_text())
    (tmp_path / "c" / "cfg.json").write_text(json.dumps({**cfg, "never_heard_of": {"x": 1}}))
    assert read_package(tmp_path / "c").header["published"]["epoch"] == 12


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
    with pytest.raises(FileError, match="without a spherectl header"):
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


def test_files_get_the_mode_of_the_umask(tmp_path: Path, package: Package) -> None:
    write_package(tmp_path / "m.safetensors", package)
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_header_is_json_in_the_files_metadata(tmp_path: Path, package: Package) -> None:
    write_package(tmp_path / "m.safetensors", package)
    header = read_header(tmp_path / "m.safetensors")
    assert (header["format"], header["architecture"]) == (1, "sphere-encoder")
