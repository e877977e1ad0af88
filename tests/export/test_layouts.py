"""Slim model files and the published layout: what is written is the model, and loads again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import spherectl
from spherectl.errors import SpherectlError, UsageError
from spherectl.export.layouts import export_layout, export_safetensors
from spherectl.model.formats import published
from spherectl.model.formats.weights import Package, read_package, write_package
from tests.export.conftest import NAMES

pytestmark = pytest.mark.fast


@pytest.fixture
def package(model_file: Path) -> Package:
    return read_package(model_file)


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.5), ("float16", 0.25), ("bfloat16", 0.25)])
def test_a_slim_file_has_one_set_of_the_chosen_type(package, model_file, tmp_path, dtype, share) -> None:
    written = export_safetensors(package, tmp_path / "slim.safetensors", dtype)
    tensors = safetensors.torch.load_file(written.path)
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert tensors.keys() == package.weights.keys()
    numbers = sum(tensor.numel() for tensor in tensors.values())
    both = sum(tensor.numel() for tensor in safetensors.torch.load_file(model_file).values())
    assert numbers * tensors["encoder.pos_embed"].element_size() == share * both * 4
    assert (written.difference.max_difference == 0) == (dtype == "float32")


def test_it_loads_by_its_path_and_keeps_its_header(package: Package, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "slim.safetensors"
    written = export_safetensors(package, path, "float16", name="small")
    slim, whole = (spherectl.load(str(one), device="cpu", dtype="float32") for one in (path, model_file))
    assert slim.class_names == whole.class_names == tuple(NAMES)
    assert slim.header["licence"] == "CC0-1.0"
    assert slim.recipe == whole.recipe
    assert slim.header["export"]["from"] == "small"
    assert slim.header["export"]["difference"]["median_psnr_db"] == written.difference.median_psnr_db >= 40
    shown = [next(spherectl.generate(one, 4, steps=1)).images for one in (slim, whole)]
    torch.testing.assert_close(*shown, rtol=0, atol=0.02)
    assert not torch.equal(*shown)


def test_raw_weights_can_be_chosen(package: Package, tmp_path: Path) -> None:
    written = export_safetensors(package, tmp_path / "raw.safetensors", weights="raw")
    back = read_package(written.path)
    assert back.header["weights"] == "raw"
    assert package.raw is not None
    assert all(torch.equal(back.weights[name], package.raw[name]) for name in package.raw)
    with pytest.raises(UsageError, match="averaged"):
        export_safetensors(Package(package.header, package.weights), tmp_path / "no.safetensors", weights="raw")
    assert not (tmp_path / "no.safetensors").exists()


def test_a_type_that_cannot_hold_the_weights_is_refused(package: Package, tmp_path: Path) -> None:
    """float16 ends at 65,504: one weight above it is infinite."""
    tensors = {name: tensor.clone() for name, tensor in package.weights.items()}
    tensors["decoder.ffn.linear.weight"][0, 0] = 1e5
    with pytest.raises(SpherectlError, match=r"too much .* in float16 decoder\.ffn\.linear\.weight would be infinite"):
        export_safetensors(Package(package.header, tensors), tmp_path / "slim.safetensors", "float16")
    assert list(tmp_path.iterdir()) == []


def test_published_is_the_same_bits_under_the_published_keys(package: Package, reference: Path, tmp_path: Path) -> None:
    written = export_layout(package, tmp_path / "out")
    assert written.path == tmp_path / "out" / "ckpt" / "ep0000.pth"
    assert written.difference.max_difference == 0
    state = torch.load(written.path, weights_only=True)
    assert package.raw is not None
    for key, wanted in (("model", package.raw), ("ema_model", package.weights)):
        assert state[key].keys() == wanted.keys()
        assert all(torch.equal(state[key][name], tensor) for name, tensor in wanted.items())
    theirs = json.loads((reference / "published-layout" / "cfg.json").read_text())
    cfg = json.loads((tmp_path / "out" / "cfg.json").read_text())
    needed = theirs.keys() & published._KEYS.values() | {
        "num_classes",
        "cond_generator",
        "vit_enc_model_size",
    }
    assert needed <= cfg.keys()
    assert cfg["spherectl"]["class_names"] == NAMES
    assert cfg["spherectl"]["licence"] == "CC0-1.0"
    loaded = spherectl.load(str(tmp_path / "out"), device="cpu", dtype="float32")
    assert all(torch.equal(p, package.weights[name]) for name, p in loaded.network.named_parameters())


def test_a_published_checkpoint_comes_out_as_it_went_in(reference: Path, tmp_path: Path) -> None:
    """Keys, shapes (mixer scalars of 0 axes too) and bits of the reference's own folder."""
    source = reference / "published-layout"
    written = export_layout(read_package(source), tmp_path / "out")
    before = torch.load(source / "ckpt" / "ep0007.pth", weights_only=True)
    after = torch.load(written.path, weights_only=True)
    assert written.path.name == "ep0007.pth"
    assert after["epoch"] == before["epoch"]
    for key in ("model", "ema_model"):
        shapes = [{name: tuple(tensor.shape) for name, tensor in one[key].items()} for one in (before, after)]
        assert shapes[0] == shapes[1]
        assert all(torch.equal(before[key][name], after[key][name]) for name in before[key])
    cfg = [json.loads((folder / "cfg.json").read_text()) for folder in (source, tmp_path / "out")]
    assert {key: value for key, value in cfg[1].items() if key in cfg[0]} == cfg[0]


def test_a_folder_with_another_checkpoint_is_refused(package: Package, tmp_path: Path) -> None:
    """The newest would be read, and cfg.json would be that of the other."""
    later = tmp_path / "out" / "ckpt" / "ep0009.pth"
    later.parent.mkdir(parents=True)
    later.write_bytes(b"of another training")
    with pytest.raises(UsageError, match=r"holds another checkpoint, ep0009\.pth"):
        export_layout(package, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ckpt"]


def test_what_is_not_the_same_bits_is_not_written(package: Package, tmp_path: Path, monkeypatch) -> None:
    really = published.write

    def lossy(folder, given):
        really(folder, Package(given.header, {name: t.half().float() for name, t in given.weights.items()}, given.raw))

    monkeypatch.setattr(published, "write", lossy)
    with pytest.raises(SpherectlError, match="not the model bit for bit"):
        export_layout(package, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unconditional_model_leaves_too(unusual, tmp_path: Path) -> None:
    tensors = dict(unusual.network.state_dict())
    write_package(tmp_path / "model.safetensors", Package(unusual.header, tensors))
    package = read_package(tmp_path / "model.safetensors")
    assert export_layout(package, tmp_path / "out").difference.max_difference == 0
    assert export_safetensors(package, tmp_path / "slim.safetensors").difference.max_difference == 0
