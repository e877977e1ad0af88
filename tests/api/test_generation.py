"""generate against the method written out; its batches, settings, classes and refusals."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import spherectl
from spherectl import api, sampling
from spherectl.cli.sample import sample
from spherectl.errors import UsageError
from spherectl.model import sampler, seeding
from spherectl.model.formats import weights
from spherectl.provenance import Provenance
from spherectl.recipe import SampleSpec

pytestmark = pytest.mark.fast


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
    found = [first, *rest]
    assert [len(batch) for batch in found] == [len(batch.pil()) for batch in found] == [3, 3, 1]
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(7))
    assert torch.cat([batch.labels for batch in found]).tolist() == [8, 2, 8, 2, 8, 2, 8]
    images = torch.cat([batch.images for batch in found])
    assert images.shape == (7, 3, 32, 32)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_generate_is_the_method_of_section_5(model):
    """Against the method written out over the bare networks: e, f, D, then rounds of E, f, noise, D."""
    indices = torch.arange(4)
    labels = torch.tensor([1, 1, 1, 1])
    (batch,) = spherectl.generate(model, 4, classes=[1], steps=3, noise="fresh", strength="decaying", seed=9)
    with torch.no_grad():
        x = model.network.decode(sampler.spherify(seeding.noise(9, seeding.INITIAL, indices, (16, 8))), labels)
        for k in (1, 2):
            noise = seeding.noise(9, seeding.ROUND, indices, (16, 8), k)
            v = model.network.encode(x, labels)
            x = model.network.decode(sampler.spherify(v + (1 - k / 3) * model.recipe.noise.sigma_max * noise), labels)
    assert torch.allclose(batch.images, (x / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_the_noise_between_steps_has_an_angle_of_its_own(model, tiny_run, tmp_path):
    """Training's where none is asked; the model's [sample] table may have one; 0 is no noise at all."""

    def made(one: api.Model = model, **settings):
        (batch,) = spherectl.generate(one, 4, **{"steps": 3, **settings})
        return batch.images

    plain, less = made(), made(noise_deg=60.0)
    assert torch.equal(plain, made(noise_deg="training"))
    assert torch.equal(plain, made(noise_deg=model.recipe.noise.angle_deg))
    assert not torch.equal(plain, less)
    assert torch.equal(made(steps=1, noise_deg=60.0), made(steps=1))  # one step has no noise but its own
    labels = torch.arange(4)
    x = made(steps=1) * 2 - 1
    with torch.no_grad():
        again = model.network.decode(model.network.encode(x, labels), labels)
    assert torch.allclose(made(steps=2, noise_deg=0.0, guidance=1.0), (again / 2 + 0.5).clamp(0, 1), atol=1e-4)
    package = weights.read_package(tiny_run / "model.safetensors")
    table = package.header["recipe"] | {"sample": package.header["recipe"]["sample"] | {"noise_deg": 60.0}}
    weights.write_package(tmp_path / "own.safetensors", replace(package, header=package.header | {"recipe": table}))
    own = api.load(tmp_path / "own.safetensors", device="cpu", dtype="float32")
    assert torch.equal(made(own), less)
    assert torch.equal(made(own, noise_deg="training"), plain)


def test_settings_default_to_the_models_own(model):
    (mine,) = spherectl.generate(model, 4)
    own = model.recipe.sample
    (named,) = spherectl.generate(model, 4, steps=own.steps, guidance=own.guidance, noise=own.noise)
    assert torch.equal(mine.images, named.images)
    for other in ({"steps": 1}, {"guidance": 2.0}, {"seed": 1}):
        (changed,) = spherectl.generate(model, 4, **other)
        assert not torch.equal(mine.images, changed.images), other


def test_an_image_does_not_depend_on_batch_or_count(model):

    def made(count: int, batch: int) -> torch.Tensor:
        batches = spherectl.generate(model, count, classes="bag", steps=3, guidance=1.5, batch=batch)
        return torch.cat([one.images for one in batches])

    whole = made(5, 64)
    assert torch.equal(whole, made(5, 2))
    assert torch.equal(whole, made(8, 64)[:5])
    assert not any(torch.equal(a, b) for a, b in pairwise(whole))


def test_classes_take_turns_and_share_evenly(model, free):
    labels = api.spread_classes(model, 23, None)
    counts = torch.bincount(labels, minlength=10)
    assert (int(counts.min()), int(counts.max())) == (2, 3)
    assert labels[:10].tolist() == list(range(10))
    assert api.spread_classes(model, 3, ["none"]).tolist() == [10, 10, 10]
    (batch,) = spherectl.generate(free, 3)
    assert batch.labels is None
    with pytest.raises(UsageError, match="free is unconditional"):
        spherectl.generate(free, 3, classes=[1])
    with pytest.raises(UsageError, match="free is unconditional: guidance needs classes"):
        spherectl.generate(free, 3, guidance=2.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": 10**12}, "count: expected a whole number from 1 to 10000000"),
        ({"batch": 0}, "batch: expected a whole number from 1 to 8192"),
        ({"seed": 2**64}, "seed: expected a whole number from 0"),
        ({"steps": "4"}, "sample.steps: .* got '4'"),
        ({"guidance": float("nan")}, "sample.guidance: expected a finite number from 1 to 1000"),
        ({"noise_deg": 90.0}, "sample.noise_deg: expected a finite number from 0 below 90"),
        ({"guide": "dog", "strength": "great"}, r"sample\.guide.*sample\.strength"),
        ({"classes": []}, "at least one class"),
    ],
)
def test_generate_refuses_before_it_computes(model, wrong, said):
    """From the call itself, not from the first batch."""
    with pytest.raises(UsageError, match=said):
        spherectl.generate(model, **{"count": 4, **wrong})


# One record


def test_every_setting_is_in_the_signature_the_table_the_provenance_and_the_command():
    """A setting that is added to `sampling.Sampling` and forgotten somewhere fails here."""
    names = [option.name for option in sampling.options()]
    assert list(SampleSpec.model_fields) == names
    assert set(names) <= set(Provenance.model_fields)
    assert set(names) <= set(inspect.signature(sample).parameters)
    signature = inspect.signature(spherectl.generate).parameters
    assert [name for name in signature if name in names] == names
    assert all(f"        {name}: " in spherectl.generate.__doc__ for name in names)
    assert SampleSpec().model_dump() == {option.name: option.default for option in sampling.options()}
