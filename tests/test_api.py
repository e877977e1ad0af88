"""What `import spherectl` offers, used as the README shows it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spherectl
from spherectl import api
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.sets import find_record
from spherectl.data.transforms import to_float
from spherectl.errors import FileError, UsageError
from spherectl.model import devices, sampler, seeding
from spherectl.model.formats import weights
from spherectl.recipe import DataSpec

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> api.Model:
    return spherectl.load(tiny_run, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def free(model: api.Model, lively) -> api.Model:
    """An unconditional model that came from no file."""
    package = lively(model.recipe.replace(model={"num_classes": 0}))
    return api.Model(weights.instantiate(package), package.header, name="free", device=CPU)


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> ImageSet:
    return open_dataset(DataSpec(kind="fashion-mnist", fit="pad", channels="grey"), image_size=32, root=fashion_excerpt)


@pytest.fixture(scope="module")
def images(dataset: ImageSet) -> Tensor:
    return to_float(dataset.gather(range(6)))


# load


def test_a_thousand_classes_without_names_are_imagenets_if_the_data_is(model, lively):
    """As published checkpoints come, whose cfg.json names the data and no class."""
    package = lively(model.recipe.replace(model={"num_classes": 1000, "size": "nano"}))
    for data, names in (("imagenet", 1000), ("somebody's", 0)):
        made = api.Model(weights.instantiate(package), {**package.header, "data": data}, name="big", device=CPU)
        assert len(made.class_names) == names
        if names:
            assert made.labels(["golden retriever", "Husky", 0], 3).tolist() == [207, 250, 0]
        else:
            with pytest.raises(UsageError, match="big has 1000 classes"):
                made.labels(["golden retriever"], 1)


def test_a_model_says_what_it_is(model):
    assert (model.name, model.num_classes, model.weights) == ("tiny", 10, "ema")
    assert model.class_names == find_record("fashion-mnist").class_names
    assert (model.device, model.precision, model.dtype) == (CPU, "float32", torch.float32)
    assert model.recipe.noise.angle_deg == 80
    assert model.header["images_seen"] == 160
    assert not any(p.requires_grad for p in model.network.parameters())


def test_a_run_its_file_and_a_copy_are_the_same_model(model, tiny_run, tmp_path):
    copy = shutil.copy(tiny_run / "model.safetensors", tmp_path / "copy.safetensors")
    places = (str(tiny_run), tiny_run / "model.safetensors", copy)
    others = [spherectl.load(path, device="cpu", dtype="float32") for path in places]
    assert [other.name for other in others] == ["tiny", "tiny", "copy"]
    assert {other.sha256 for other in others} == {model.sha256}
    for other in others:
        for mine, theirs in zip(model.network.parameters(), other.network.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_without_a_name_the_newest_run_is_loaded(tiny_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert spherectl.load().name == "mine"


def test_raw_weights_of_a_run_are_those_of_the_last_step(model, tiny_run):
    raw = spherectl.load(tiny_run, device="cpu", dtype="float32", weights="raw")
    assert raw.weights == "raw"
    shard = tiny_run / "checkpoints" / "000000000160" / "shard-00000-of-00001.safetensors"
    expected = weights.read_tensors(shard)
    for name, parameter in raw.network.named_parameters():
        assert torch.equal(parameter, expected[f"model.{name}"])
    assert any(not torch.equal(a, b) for a, b in zip(raw.network.parameters(), model.network.parameters(), strict=True))


def test_raw_weights_of_a_file_without_them_are_refused(tiny_run, tmp_path):
    copy = shutil.copy(tiny_run / "model.safetensors", tmp_path / "copy.safetensors")
    with pytest.raises(UsageError, match="averaged"):
        spherectl.load(copy, weights="raw")


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="There is no model 'nothing'"):
        spherectl.load("nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="is no model"):
        spherectl.load(tmp_path / "empty")


def test_devices_and_dtypes(tiny_run):
    half = spherectl.load(tiny_run, device="cpu", dtype="bfloat16")
    assert {p.dtype for p in half.network.parameters()} == {torch.bfloat16}
    network = half.network
    assert devices.choose_precision("auto", torch.device("cuda"), network) == "bfloat16"
    assert devices.choose_precision("auto", torch.device("mps"), network) == "float32"
    for name in ("bfloat16", "int8"):
        with pytest.raises(UsageError, match="MPS"):
            devices.choose_precision(name, torch.device("mps"), network)


def test_auto_takes_bfloat16_only_where_it_was_measured_to_be_faster(tiny_run, monkeypatch):
    network = spherectl.load(tiny_run, device="cpu").network
    monkeypatch.setattr(type(network), "takes_kernels", lambda *_: True)
    for speedup, expected in ((0.9, "float32"), (2.4, "bfloat16")):
        monkeypatch.setattr(devices.kernels, "speedup", lambda speedup=speedup: speedup)
        assert devices.choose_precision("auto", CPU, network) == expected
    monkeypatch.setattr(type(network), "takes_kernels", lambda *_: False)
    assert devices.choose_precision("auto", CPU, network) == "float32"
    with pytest.raises(UsageError, match="int8 needs the CPU kernels"):
        devices.choose_precision("int8", CPU, network)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, torch.float32),
        ("float32", torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float64, torch.float64),
        ("float64", torch.float64),
    ],
)
def test_a_dtype_is_torchs_or_its_name(tiny_run, dtype, expected):
    loaded = spherectl.load(tiny_run, device="cpu", dtype=dtype)
    assert loaded.dtype == expected
    assert {p.dtype for p in loaded.network.parameters()} == {expected}
    assert str(expected) == f"torch.{loaded.precision}"


def test_float64_is_float32_with_more_digits(tiny_run, model, images):
    exact = spherectl.load(tiny_run, device="cpu", dtype=torch.float64)
    latents = exact.encode(images)
    assert latents.dtype == exact.decode(latents).dtype == torch.float64
    assert torch.allclose(latents.float(), model.encode(images), atol=1e-4)
    (fine,), (plain,) = (spherectl.generate(one, 4, steps=3, guidance=1.5) for one in (exact, model))
    assert fine.images.dtype == torch.float64
    assert torch.allclose(fine.images.float(), plain.images, atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", 3, None, torch.complex64, np.array([1, 2]), "float" * 10_000, ["float32"]])
def test_another_dtype_is_refused_and_says_which_there_are(tiny_run, dtype):
    with pytest.raises(UsageError, match=r"dtype: expected auto, float32, bfloat16, .* got ") as caught:
        spherectl.load(tiny_run, device="cpu", dtype=dtype)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("dtype", ["float16", torch.float16])
def test_float16_on_a_cpu_is_refused(tiny_run, dtype):
    with pytest.raises(UsageError, match="not in float16"):
        spherectl.load(tiny_run, device="cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"weights": "avg"}, "weights: expected one of ema, raw, got 'avg'"),
        ({"weights": None}, "weights: expected one of ema, raw, got None"),
        ({"compile": 1}, "compile: expected one of False, True, got 1"),
        ({"compile": "no"}, "compile: expected one of False, True, got 'no'"),
        ({"device": None}, "There is no device None here"),
        ({"device": ["cpu"]}, r"There is no device \['cpu'\] here"),
        ({"device": "meta"}, "There is no device 'meta' here"),
        ({"model": 3}, "model: expected a name or a path, got 3"),
    ],
)
def test_load_refuses_what_it_does_not_know(tiny_run, wrong, said):
    with pytest.raises(UsageError, match=said):
        spherectl.load(**{"model": tiny_run, "device": "cpu", **wrong})


def test_the_hash_is_of_the_whole_file_whoever_asks(tiny_run):
    """Threads and forked processes share the place where an open file stands: by hashlib over the file's bytes."""
    expected = hashlib.sha256((tiny_run / "model.safetensors").read_bytes()).hexdigest()
    for _ in range(5):
        loaded = spherectl.load(tiny_run, device="cpu", dtype="float32")
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _, one=loaded: one.sha256, range(8))) == {expected}
        assert loaded.sha256 == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_processes_get_the_same_hash(tiny_run):
    expected = hashlib.sha256((tiny_run / "model.safetensors").read_bytes()).hexdigest()
    loaded = spherectl.load(tiny_run, device="cpu", dtype="float32")
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    children = [context.Process(target=lambda: found.put(loaded.sha256)) for _ in range(3)]
    for child in children:
        child.start()
    assert {found.get(timeout=60) for _ in children} == {expected}
    for child in children:
        child.join(60)
    assert loaded.sha256 == expected


def test_device_names(tiny_run):
    for absent in ("abacus", "cuda:99"):
        with pytest.raises(UsageError, match=f"There is no device '{absent}' here"):
            spherectl.load(tiny_run, device=absent)


# encode, decode, reconstruct


def test_encode_gives_points_on_the_sphere(model, images):
    latents = model.encode(images)
    assert latents.shape == (6, 16, 8)
    assert latents.dtype == torch.float32
    assert latents.flatten(1).norm(dim=1).tolist() == pytest.approx([128**0.5] * 6, rel=1e-4)  # sqrt(L)


def test_decode_gives_images_in_0_1(model, images):
    decoded = model.decode(model.encode(images))
    assert (decoded.shape, decoded.dtype) == ((6, 3, 32, 32), torch.float32)
    assert 0 <= float(decoded.min()) < float(decoded.max()) <= 1
    far = model.decode(100 * torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0)))
    assert 0 <= float(far.min()) <= float(far.max()) <= 1  # clamped


def test_reconstruct_is_decode_of_encode(model, images):
    for classes in (None, [0, "sneaker", 9, "bag", 10, "none"], torch.tensor([0, 7, 9, 8, 10, 10])):
        expected = model.decode(model.encode(images, classes), classes)
        assert torch.equal(model.reconstruct(images, classes), expected)


def test_encode_agrees_with_the_bare_networks(model, images):
    labels = torch.tensor([0, 7, 9, 8, 10, 10])
    with torch.no_grad():
        expected = model.network.encode(images * 2 - 1, labels)
        decoded = model.network.decode(expected, labels)
    assert torch.equal(model.encode(images, ["t-shirt", 7, 9, "bag", 10, "none"]), expected)
    assert torch.equal(model.decode(expected, labels), (decoded / 2 + 0.5).clamp(0, 1))


def test_no_classes_mean_the_null_class(model, images):
    assert torch.equal(model.encode(images), model.encode(images, [10] * 6))
    assert not torch.equal(model.encode(images), model.encode(images, [3] * 6))


def test_an_unconditional_model_takes_no_classes_into_account(free, images):
    assert free.sha256 == ""
    assert free.reconstruct(images).shape == images.shape
    assert torch.equal(free.encode(images), free.encode(images, [3] * 6))


def test_half_precision_speaks_float32_outside(tiny_run, model, images):
    half = spherectl.load(tiny_run, device="cpu", dtype="bfloat16")
    latents = half.encode(images)
    assert latents.dtype == half.decode(latents).dtype == torch.float32
    assert float((half.reconstruct(images) - model.reconstruct(images)).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(2, 3, 28, 28), r"expected images of shape \(B, 3, 32, 32\), got \(2, 3, 28, 28\)"),
        (torch.zeros(2, 1, 32, 32), r"got \(2, 1, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int32), "torch.int32"),
        (torch.full((2, 3, 32, 32), 1.01), "from 1.01 to 1.01"),
        (torch.full((2, 3, 32, 32), -0.5), "from -0.5"),
        (torch.full((2, 3, 32, 32), float("nan")), "nan"),
        (torch.zeros(0, 3, 32, 32), r"got \(0, 3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(2, 3, 32, 32).to(torch.float8_e4m3fn), "torch.float8"),
        (torch.zeros(2, 3, 32, 32).to_sparse(), "sparse"),
        (np.zeros((2, 3, 32, 32), np.int64), "an array of int64"),
        (None, "a list of them, got None"),
    ],
)
def test_images_of_another_shape_or_range_are_refused(model, wrong, said):
    with pytest.raises(UsageError, match=f"(?i){said}"):
        model.encode(wrong)


def test_a_rounding_error_beyond_the_range_is_none(model, images):
    model.encode(images.clamp(1e-7, 1) - 1e-7)
    model.encode(torch.full((1, 3, 32, 32), 1 + 5e-7))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "as a plain torch.Tensor, got None"),
        (torch.zeros(2, 16, 8, dtype=torch.int64), "of floating point numbers, got torch.int64"),
        (torch.zeros(2, 16, 8, dtype=torch.complex64), "of floating point numbers, got torch.complex64"),
        (torch.full((2, 16, 8), float("nan")), "of finite numbers"),
        (torch.full((2, 16, 8), float("inf")), "of finite numbers"),
    ],
)
def test_latents_of_another_kind_are_refused(model, wrong, said):
    with pytest.raises(UsageError, match=f"Expected latents {said}"):
        model.decode(wrong)


def test_mixtures_of_classes_are_finite(model, images):
    mixed = torch.full((6, 11), 1 / 11)
    assert torch.isfinite(model.encode(images, mixed)).all()
    with pytest.raises(UsageError, match="weights of classes that are finite"):
        model.encode(images, mixed / 0)


@pytest.mark.parametrize("shape", [(2, 16, 9), (2, 128), (16, 8), (0, 16, 8)])
def test_latents_of_another_shape_are_refused(model, shape):
    with pytest.raises(UsageError, match=r"Expected latents of shape \(B, 16, 8\)"):
        model.decode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([1, 2], "one for each of 6 images, got 2"),
        (["hat"] * 6, "none is called 'hat'"),
        ([11] * 6, "there is no class 11"),
        (["all"] * 6, "one class for each image"),
        (["0-3"] * 6, "one class for each image"),
    ],
)
def test_classes_that_do_not_fit_are_refused(model, images, classes, said):
    with pytest.raises(UsageError, match=said):
        model.encode(images, classes)


# generate


def test_generate_iterates_over_finished_batches(model, monkeypatch):
    computed = []
    real = api.generation.sample_indices

    def watched(model, indices, *rest):
        computed.append(len(indices))
        return real(model, indices, *rest)

    monkeypatch.setattr(api.generation, "sample_indices", watched)
    batches = spherectl.generate(model, 7, classes=["bag", 2], batch=3)
    assert computed == []
    first = next(batches)
    assert computed == [3]  # the rest is not waited for
    rest = list(batches)
    assert isinstance(first, spherectl.Generated)
    assert [len(batch.images) for batch in (first, *rest)] == [3, 3, 1]
    assert torch.cat([batch.indices for batch in (first, *rest)]).tolist() == list(range(7))
    assert torch.cat([batch.labels for batch in (first, *rest)]).tolist() == [8, 2, 8, 2, 8, 2, 8]
    for batch in (first, *rest):
        assert batch.images.shape[1:] == (3, 32, 32)
        assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1


def test_generate_is_the_method_of_section_5(model):
    """Against the method written out over the bare networks: e, f, D, then rounds of E, f, noise, D."""
    indices = torch.arange(4)
    labels = torch.tensor([1, 1, 1, 1])
    (batch,) = spherectl.generate(model, 4, classes=[1], steps=3, noise="fresh", strength="decaying", seed=9)
    x = model.network.decode(sampler.spherify(seeding.noise(9, seeding.INITIAL, indices, (16, 8))), labels)
    for k in (1, 2):
        noise = seeding.noise(9, seeding.ROUND, indices, (16, 8), k)
        v = model.network.encode(x, labels)
        x = model.network.decode(sampler.spherify(v + (1 - k / 3) * model.recipe.noise.sigma_max * noise), labels)
    assert torch.allclose(batch.images, (x / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_the_noise_between_steps_has_an_angle_of_its_own(model, tiny_run, tmp_path):
    """Training's where none is asked; the model's [sample] table may have one; 0 is no noise at all."""
    (plain,) = spherectl.generate(model, 4, steps=3)
    (named,) = spherectl.generate(model, 4, steps=3, noise_deg="training")
    (same,) = spherectl.generate(model, 4, steps=3, noise_deg=model.recipe.noise.angle_deg)
    (less,) = spherectl.generate(model, 4, steps=3, noise_deg=60.0)
    (first,) = spherectl.generate(model, 4, steps=1, noise_deg=60.0)
    (alone,) = spherectl.generate(model, 4, steps=1)
    assert torch.equal(plain.images, named.images)
    assert torch.equal(plain.images, same.images)
    assert not torch.equal(plain.images, less.images)
    assert torch.equal(first.images, alone.images)  # one step has no noise but its own
    (none,) = spherectl.generate(model, 4, steps=2, noise_deg=0.0, guidance=1.0)
    x = alone.images * 2 - 1
    again = model.network.decode(model.network.encode(x, alone.labels), alone.labels)
    assert torch.allclose(none.images, (again / 2 + 0.5).clamp(0, 1), atol=1e-4)
    package = weights.read_package(tiny_run / "model.safetensors")
    table = package.header["recipe"] | {"sample": package.header["recipe"]["sample"] | {"noise_deg": 60.0}}
    weights.write_package(tmp_path / "own.safetensors", replace(package, header=package.header | {"recipe": table}))
    own = api.load(tmp_path / "own.safetensors", device="cpu", dtype="float32")
    (mine,) = spherectl.generate(own, 4, steps=3)
    (full,) = spherectl.generate(own, 4, steps=3, noise_deg="training")
    assert torch.equal(mine.images, less.images)
    assert torch.equal(full.images, plain.images)


def test_settings_default_to_the_models_own(model):
    (mine,) = spherectl.generate(model, 4)
    own = model.recipe.sample
    (named,) = spherectl.generate(model, 4, steps=own.steps, guidance=own.guidance, noise=own.noise)
    assert torch.equal(mine.images, named.images)
    for other in ({"steps": 1}, {"steps": 4}, {"guidance": 2.0}, {"seed": 1}, {"classes": ["none"]}):
        (changed,) = spherectl.generate(model, 4, **other)
        assert not torch.equal(mine.images, changed.images), other


def test_an_image_does_not_depend_on_batch_or_count(model):
    (whole,) = spherectl.generate(model, 7, classes="bag", steps=4, guidance=1.5)
    parts = torch.cat([b.images for b in spherectl.generate(model, 7, classes="bag", steps=4, guidance=1.5, batch=2)])
    more = torch.cat([b.images for b in spherectl.generate(model, 12, classes="bag", steps=4, guidance=1.5)])
    assert torch.equal(whole.images, parts)
    assert torch.equal(whole.images, more[:7])
    for a, b in pairwise(whole.images):
        assert not torch.equal(a, b)


def test_classes_take_turns_and_share_evenly(model):
    labels = torch.cat([batch.labels for batch in spherectl.generate(model, 23, steps=1)])
    counts = torch.bincount(labels, minlength=10)
    assert (int(counts.min()), int(counts.max())) == (2, 3)
    assert labels[:10].tolist() == list(range(10))
    null = torch.cat([batch.labels for batch in spherectl.generate(model, 3, classes=["none"], steps=1)])
    assert null.tolist() == [10, 10, 10]


def test_an_unconditional_model_generates_without_labels(free):
    (batch,) = spherectl.generate(free, 3)
    assert batch.labels is None
    assert batch.images.shape == (3, 3, 32, 32)
    with pytest.raises(UsageError, match="free is unconditional"):
        spherectl.generate(free, 3, classes=[1])
    with pytest.raises(UsageError, match="free is unconditional: guidance needs classes"):
        spherectl.generate(free, 3, guidance=2.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": 0}, "count: expected a whole number from 1"),
        ({"count": 10**12}, "count: expected a whole number from 1 to 10000000"),
        ({"count": True}, "count: .* got True"),
        ({"batch": 0}, "batch: expected a whole number from 1"),
        ({"batch": 10**9}, "batch: expected a whole number from 1 to 8192"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"seed": 2**64}, "seed: expected a whole number from 0"),
        ({"seed": "7"}, "seed: .* got '7'"),
        ({"steps": 0}, "sample.steps"),
        ({"steps": 10**9}, "sample.steps: expected a whole number from 1 to 1000"),
        ({"steps": "4"}, "sample.steps: .* got '4'"),
        ({"steps": True}, "sample.steps: .* got True"),
        ({"guidance": float("nan")}, "sample.guidance"),
        ({"guidance": 1e300}, "sample.guidance: expected a finite number from 1 to 1000"),
        ({"guidance": "2"}, "sample.guidance: .* got '2'"),
        ({"guidance": 0.5}, "sample.guidance"),
        ({"guidance": float("inf")}, "sample.guidance"),
        ({"noise": "loud"}, "sample.noise"),
        ({"noise_deg": 90.0}, "sample.noise_deg: expected a finite number from 0 below 90"),
        ({"noise_deg": "60"}, "sample.noise_deg"),
        ({"noise": ["shared"]}, "sample.noise"),
        ({"strength": True}, "sample.strength"),
        ({"noise_deg": -1.0}, "sample.noise_deg"),
        ({"guide": "dog", "strength": "great"}, r"sample\.guide.*sample\.strength"),
        ({"classes": ["hat"]}, "none is called 'hat'"),
        ({"classes": []}, "at least one class"),
        ({"classes": 1.5}, "Expected class numbers or names, got 1.5"),
        ({"classes": b"ab"}, "Expected class numbers or names"),
        ({"classes": {1: 2}}, "Expected class numbers or names"),
        ({"classes": [1.5]}, "Expected a class number or name, got 1.5"),
        ({"classes": [True]}, "Expected a class number or name, got True"),
        ({"classes": [None]}, "Expected a class number or name, got None"),
        ({"classes": [[1, 2]]}, r"Expected a class number or name, got \[1, 2\]"),
        ({"classes": [10**5000]}, "Expected a class number or name, got a number of about 5,000 digits"),
        ({"classes": [-1]}, "there is no class -1"),
    ],
)
def test_generate_refuses_before_it_draws(model, wrong, said):
    """From the call itself, not from the first batch."""
    with pytest.raises(UsageError, match=said):
        spherectl.generate(model, **{"count": 4, **wrong})


# objective


class ConvEncoder(nn.Module):
    """A small network of somebody's own: images to 8 x 4 x 4 numbers, no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), nn.SiLU(), nn.Conv2d(16, 32, 2, 2), nn.SiLU(), nn.Conv2d(32, 8, 1)
        )

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return self.layers(x)  # (B, 3, 32, 32) -> (B, 8, 4, 4)


class ConvDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(8, 32, 1), nn.SiLU(), nn.ConvTranspose2d(32, 16, 2, 2), nn.SiLU(), nn.ConvTranspose2d(16, 3, 4, 4)
        )

    def forward(self, v: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return self.layers(v)  # (B, 8, 4, 4) -> (B, 3, 32, 32)


def conv_loss(encode: nn.Module, decode: nn.Module, images: Tensor, first: int) -> spherectl.Losses:
    draws = spherectl.training_noise(0, first, None, batch=len(images), latent_shape=(8, 4, 4), hard_ratio=1.5)
    return spherectl.objective(encode, decode, images, draws, sigma_max=5.67)


def test_the_objective_trains_somebodys_own_networks(dataset):
    torch.manual_seed(0)
    encode, decode = ConvEncoder(), ConvDecoder()
    optimiser = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=1e-2)
    history = []
    for step in range(30):
        losses = conv_loss(encode, decode, to_float(dataset.gather(range(32))), 32 * step)
        parts = losses.rec + losses.con + losses.latent
        assert losses.total.item() == pytest.approx(parts.item(), rel=1e-6)
        assert (float(losses.rec_perceptual), float(losses.con_perceptual)) == (0, 0)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append((losses.total.item(), losses.rec.item()))
    (first, first_rec), (last, last_rec) = history[0], history[-1]
    assert last < 0.8 * first
    assert last_rec < 0.5 * first_rec


def test_gradients_of_the_objective_reach_both_networks(images):
    torch.manual_seed(0)
    encode, decode = ConvEncoder(), ConvDecoder()
    conv_loss(encode, decode, images, 0).total.backward()
    for network in (encode, decode):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_each_part_of_the_objective_teaches_whom_it_should(images):
    """Section 4: z_clean and the consistency target are constants, so parts alone have known gradients."""
    torch.manual_seed(0)
    encode, decode = ConvEncoder(), ConvDecoder()

    def gradients(part: str) -> Any:
        losses = conv_loss(encode, decode, images, 0)
        inputs = [*encode.parameters(), *decode.parameters()]
        return torch.autograd.grad(getattr(losses, part), inputs, allow_unused=True)

    for part in ("rec", "con", "latent"):
        assert all(one is not None and bool(one.any()) for one in gradients(part)), part
    losses = conv_loss(encode, decode, images, 0)
    assert not losses.z_clean.requires_grad
    assert losses.x_large.shape == losses.x_small.shape == images.shape
