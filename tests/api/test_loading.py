"""load and from_pretrained: what is found under which name, in which dtype, and what a loaded model owes its file."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import spherectl
from spherectl import api
from spherectl.errors import FileError, SpherectlError, TrainingError, UsageError
from spherectl.model import devices
from spherectl.model.formats import weights
from spherectl.model.formats.layouts import PUBLISHED
from tests.hub import TOKEN, hub_on_this_machine

pytestmark = pytest.mark.fast
CPU = torch.device("cpu")


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# Names


def test_a_run_its_file_and_a_copy_are_the_same_model(model, tiny_run, tmp_path):
    copy = shutil.copy(tiny_run / "model.safetensors", tmp_path / "copy.safetensors")
    others = [spherectl.load(path, device="cpu", dtype="float32") for path in (str(tiny_run), Path(copy))]
    assert [other.name for other in others] == ["tiny", "copy"]
    for other in others:
        assert other.sha256 == model.sha256 == digest_of(Path(copy))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_raw_weights_are_those_of_the_last_step(model, tiny_run, tmp_path):
    raw = spherectl.load(tiny_run, device="cpu", dtype="float32", weights="raw")
    assert raw.weights == "raw"
    shard = tiny_run / "checkpoints" / "000000000160" / "shard-00000-of-00001.safetensors"
    expected = weights.read_tensors(shard)
    for name, parameter in raw.named_parameters():
        assert torch.equal(parameter, expected[f"model.{name}"])
    assert any(not torch.equal(a, b) for a, b in zip(raw.parameters(), model.parameters(), strict=True))
    copy = shutil.copy(tiny_run / "model.safetensors", tmp_path / "copy.safetensors")
    with pytest.raises(UsageError, match="averaged"):
        spherectl.load(copy, weights="raw")


# Arguments


def test_other_precisions_are_float32_with_more_digits_or_fewer(tiny_run, model, images):
    exact, half = (spherectl.load(tiny_run, device="cpu", dtype=dtype) for dtype in (torch.float64, "bfloat16"))
    assert [{str(p.dtype) for p in one.parameters()} for one in (exact, half)] == [
        {"torch.float64"},
        {"torch.bfloat16"},
    ]
    assert spherectl.load(tiny_run, device="cpu", dtype="float64").dtype == torch.float64
    latents = exact.encode(images)
    assert latents.dtype == exact.decode(latents).dtype == torch.float64
    assert torch.allclose(latents.float(), model.encode(images), atol=1e-4)
    (fine,), (plain,) = (spherectl.generate(one, 4, steps=3, guidance=1.5) for one in (exact, model))
    assert fine.images.dtype == torch.float64
    assert torch.allclose(fine.images.float(), plain.images, atol=1e-4)
    assert half.reconstruct(images).dtype == torch.float32
    assert float((half.reconstruct(images) - model.reconstruct(images)).abs().max()) < 0.1


def test_auto_takes_bfloat16_only_where_it_was_measured_to_be_faster(model, monkeypatch):
    network = model.network
    for device, expected in (("cuda", "bfloat16"), ("mps", "float32"), ("cpu", "float32")):
        monkeypatch.setattr(type(network), "takes_kernels", lambda *_: False)
        assert devices.choose_precision("auto", torch.device(device), network) == expected
    with pytest.raises(UsageError, match="int8 needs the CPU kernels"):
        devices.choose_precision("int8", CPU, network)
    with pytest.raises(UsageError, match="MPS"):
        devices.choose_precision("int8", torch.device("mps"), network)
    monkeypatch.setattr(type(network), "takes_kernels", lambda *_: True)
    for speedup, expected in ((0.9, "float32"), (2.4, "bfloat16")):
        monkeypatch.setattr(devices.kernels, "speedup", lambda speedup=speedup: speedup)
        assert devices.choose_precision("auto", CPU, network) == expected


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dtype": np.array([1, 2])}, r"dtype: expected auto, float32, bfloat16, .* got "),
        ({"dtype": torch.float16}, "not in float16"),
        ({"weights": "avg"}, "weights: expected one of ema, raw, got 'avg'"),
        ({"device": "cuda:99"}, "There is no device 'cuda:99' here"),
        ({"model": 3}, "model: expected a name or a path, got 3"),
        ({"model": "nothing"}, "There is no model 'nothing'"),
    ],
)
def test_load_refuses_what_it_does_not_know(tiny_run, wrong, said):
    with pytest.raises(UsageError, match=said) as caught:
        spherectl.load(**{"model": tiny_run, "device": "cpu", **wrong})
    assert len(caught.value.message) < 400


def test_errors_are_pythons_too(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="dtype"):
        spherectl.load(tiny_run, dtype="fp32")
    with pytest.raises(OSError, match="is no model"):
        spherectl.load(tmp_path)
    assert issubclass(TrainingError, RuntimeError)
    assert str(FileError("Gone.", "Fetch it.")) == "Gone. Fetch it."


# The file


def test_the_hash_is_of_the_whole_file_whoever_asks(tiny_run):
    """Threads and forked processes share the place where an open file stands: by hashlib over the file's bytes."""
    expected = digest_of(tiny_run / "model.safetensors")
    loaded = spherectl.load(tiny_run, device="cpu", dtype="float32")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: loaded.sha256, range(8))) == {expected}
    if hasattr(os, "fork"):
        loaded = spherectl.load(tiny_run, device="cpu", dtype="float32")
        context = multiprocessing.get_context("fork")
        found = context.Queue()
        for child in [context.Process(target=lambda: found.put(loaded.sha256)) for _ in range(3)]:
            child.start()
        assert {found.get(timeout=60) for _ in range(3)} == {expected}


@pytest.fixture
def package(tiny_run: Path) -> weights.Package:
    """The tiny model, with both sets of weights."""
    read = weights.read_package(tiny_run / "model.safetensors")
    return weights.Package(read.header, read.weights, {name: 2 * tensor for name, tensor in read.weights.items()})


@pytest.mark.parametrize("write", [weights.write_package, PUBLISHED.write])
def test_a_model_outlives_its_file_and_is_changed_without_it(tmp_path, package, write):
    """Pages mapped from a file that is cut afterwards would be lost, and the process with them."""
    place = tmp_path / "model.safetensors"
    write(place, package)
    changed, model = (api.load(place, device="cpu", dtype="float32") for _ in range(2))
    file = place if place.is_file() else PUBLISHED.newest(place)
    content, before = file.read_bytes(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    assert file.read_bytes() == content
    os.truncate(file, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_hash_is_of_what_was_loaded(tmp_path, package):
    """Also where a training has replaced the file since."""
    file = tmp_path / "model.safetensors"
    weights.write_package(file, package)
    digest = digest_of(file)
    model = api.load(file, device="cpu")
    weights.write_package(file, weights.Package(package.header, package.weights))
    assert api.model_hash(file) != digest
    assert (model.sha256, model.sha256) == (digest, digest)


# huggingface_hub's three methods


def test_from_pretrained_reads_what_save_pretrained_and_push_to_hub_wrote(model, tmp_path, monkeypatch):
    """Against a hub on this machine; the same latents, the header kept, the card's metadata as the hub reads it."""
    monkeypatch.delenv("SPHERECTL_OFFLINE", raising=False)
    assert model.save_pretrained(tmp_path / "saved") is None
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["README.md", "model.safetensors"]
    with hub_on_this_machine(monkeypatch, tmp_path / "hub", token=True) as hub:
        address = model.push_to_hub("user/mine", private=True)
        assert address.startswith(f"{hub.url}/user/mine/commit/")
        assert hub.repos["user/mine"].private
        pushed = spherectl.Model.from_pretrained("user/mine", device="cpu", dtype="float32")
        assert spherectl.Model.from_pretrained("user/mine", revision="main", device="cpu").name == "mine"
        model.save_pretrained(tmp_path / "both", repo_id="user/both", push_to_hub=True, token=TOKEN)
        assert "user/both" in hub.repos
        with pytest.raises(SpherectlError, match="does not let you write to hf:stranger/mine"):
            model.push_to_hub("stranger/mine")
    saved = spherectl.Model.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "library_name: spherectl\nlicense: unknown\n" in card  # the run's licence is unstated
    latents = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    for other in (saved, pushed):
        assert torch.equal(other.decode(latents, 3), model.decode(latents, 3))
        assert other.class_names == model.class_names
        assert other.header["images_seen"] == 160


def test_what_is_no_repository_is_refused(model, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="revision: expected one of a repository, got 'main' of"):
        spherectl.Model.from_pretrained(tmp_path, revision="main")
    with pytest.raises(UsageError, match="Expected a name, a path or user/repo, got 3"):
        spherectl.Model.from_pretrained(3)
    with pytest.raises(UsageError, match="user/repo, got 'a b'"):
        model.push_to_hub("a b")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="it is a file, not a folder"):
        model.save_pretrained(tmp_path / "file")
    monkeypatch.setenv("SPHERECTL_OFFLINE", "1")
    with pytest.raises(UsageError, match="is not written, because SPHERECTL_OFFLINE says"):
        model.push_to_hub("user/mine")
