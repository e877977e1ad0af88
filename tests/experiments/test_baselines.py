"""A VAE and a diffusion model under the training loop: they learn, stop, go on, and are told from Sphere Encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import samples
from experiments.baselines import DiffusionModel, Vae, load_baseline, load_vae
from spherectl import api, registry
from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import read_package
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.training.flops import training_gflop
from spherectl.training.loop import train
from spherectl.training.plan import plan, resolve
from spherectl.training.run import Run
from spherectl.training.step import Part

pytest.importorskip("diffusers")

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "vae": {"model": {"kind": "vae", "encoder_mixer_blocks": 0}, "loss": {"kl": 1e-3}},
    "diffusion": {"model": {"kind": "diffusion"}},
}


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> ImageSet:
    recipe = recipes.load(packaged("recipes") / "debug.toml")
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


def debug(kind: str, dataset: ImageSet, **run: Any) -> Recipe:
    recipe = recipes.load(packaged("recipes") / "debug.toml").replace(**CHANGES[kind])
    return resolve(recipe.replace(run=run), dataset, CPU)


def lines(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(dataset: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A finished run of each kind, long enough to learn something."""
    folder = tmp_path_factory.mktemp("baselines")
    length = {"length_images": 240, "checkpoint_images": 240, "sample_images": 240}
    return {kind: train(debug(kind, dataset, **length), dataset, folder / kind, device=CPU).run for kind in CHANGES}


@pytest.mark.parametrize("kind", CHANGES)
def test_it_learns(kind: str, runs: dict[str, Run]) -> None:
    told = lines(runs[kind])
    assert sum(line["loss"] for line in told[-10:]) / 10 < 0.85 * told[0]["loss"]
    parts = {"vae": ["loss_rec", "loss_rec_perc", "loss_kl"], "diffusion": []}[kind]
    assert [key for key in told[0] if key.startswith("loss_")] == parts
    assert not parts or told[-1]["loss"] == pytest.approx(sum(told[-1][part] for part in parts))


@pytest.mark.parametrize("kind", CHANGES)
def test_a_run_that_is_stopped_goes_on_bit_for_bit(kind: str, dataset: ImageSet, tmp_path: Path) -> None:
    recipe = debug(kind, dataset, length_images=32, checkpoint_images=32, sample_images=32)
    whole = train(recipe, dataset, tmp_path / "whole", device=CPU).run
    steps = iter([False, True])
    train(recipe, dataset, tmp_path / "parts", device=CPU, should_stop=lambda: next(steps))
    parts = train(recipe, dataset, tmp_path / "parts", device=CPU)
    assert (parts.finished, parts.steps_now) == (True, 2)
    one, other = (read_package(run.model, kind).weights for run in (whole, parts.run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["loss"] for line in lines(whole)] == [line["loss"] for line in lines(parts.run)]


@pytest.mark.parametrize("kind", CHANGES)
def test_its_file_is_told_from_a_sphere_encoders(kind: str, runs: dict[str, Run], tiny_run: Path) -> None:
    header = read_header(runs[kind].model)
    assert (header["architecture"], header["recipe"]["model"]["kind"]) == (kind, kind)
    with pytest.raises(UsageError, match=rf"holds a {kind}; a sphere-encoder is needed here"):
        api.load(runs[kind].path)
    with pytest.raises(UsageError, match=r"holds a sphere-encoder; a vae or diffusion is needed here"):
        load_baseline(tiny_run)
    if kind == "diffusion":
        with pytest.raises(UsageError, match="holds a diffusion; a vae is needed here"):
            load_vae(runs[kind].path)


@pytest.mark.parametrize("kind", CHANGES)
def test_the_package_alone_says_who_reads_it(kind: str, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry.NETWORKS, kind)
    said = r"experiments/"
    with pytest.raises(UsageError, match=rf"holds a {kind}, which experiments/ can read.*python -m experiments"):
        api.load(runs[kind].path)
    with pytest.raises(UsageError, match=rf"model\.kind: networks of the kind '{kind}' are in {said}"):
        recipes.load(runs[kind].recipe)


def test_a_vae_samples_encodes_and_decodes(runs: dict[str, Run], dataset: ImageSet) -> None:
    model = load_baseline(runs["vae"].path)
    assert isinstance(model, Vae)
    numbers = torch.arange(6)
    found = model.sample(numbers, model.spread(6))
    torch.testing.assert_close(found[4:], model.sample(numbers[4:], torch.tensor([4, 5])))
    assert not torch.equal(found, model.sample(numbers, model.spread(6), seed=1))
    images = to_float(dataset.gather(numbers))
    mean, variance = model.posterior(images, dataset.labels[numbers])
    assert mean.shape == variance.shape == (6, 16, 8)
    assert bool((variance > 0).all())
    again = model.decode(mean, dataset.labels[numbers])
    assert float((again - images).square().mean()) < float((images - 0.5).square().mean())


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
def test_a_diffusion_model_samples_by_number(runs: dict[str, Run], solver: Any) -> None:
    model = load_baseline(runs["diffusion"].path)
    assert isinstance(model, DiffusionModel)
    found = model.sample(torch.arange(4), model.spread(4), steps=3, solver=solver)
    assert found.shape == (4, 3, 32, 32)
    torch.testing.assert_close(found, found[:, :1].expand_as(found), rtol=0, atol=1e-5)  # grey, as what it has seen
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    torch.testing.assert_close(found[3:], model.sample(torch.tensor([3]), torch.tensor([3]), steps=3, solver=solver))


@pytest.mark.parametrize("kind", CHANGES)
def test_samples_are_rows_of_one_noise(kind: str, runs: dict[str, Run], tmp_path: Path) -> None:
    out = tmp_path / "rows.png"
    samples.main([str(runs[kind].path), "--steps", "2,3", "--count", "4", "--out", str(out)])
    image = samples.rows(load_baseline(runs[kind].path), (2, 3), 4)
    assert image.shape == (3, (1 if kind == "vae" else 2) * 34 - 2, 4 * 34 - 2)
    assert out.read_bytes()[:4] == b"\x89PNG"
    if kind == "diffusion":
        with pytest.raises(UsageError, match="samples in 1 to 1000 steps; it was asked for 1001"):
            samples.rows(load_baseline(runs[kind].path), (1001,), 4)


@pytest.mark.parametrize("kind", CHANGES)
def test_a_step_is_counted_in_operations_as_torch_counts_it(kind: str, dataset: ImageSet) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    recipe = debug(kind, dataset, batch_size=3).replace(model={"attention": "math"})
    model = registry.NETWORKS[kind].build(recipe.model)
    for trunk in model.children():
        trunk.by_modules = True
    step = registry.NETWORKS[kind].step(recipe, None)
    with FlopCounterMode(display=False) as counter:
        noise = step.noise(torch.tensor([1, 2, 3]), Part(0, 0, 3, CPU))
        step.loss(model, torch.rand(3, 3, 32, 32), noise)["loss"].backward()
    assert training_gflop(recipe.replace(loss={"perceptual": "none"})) == pytest.approx(
        counter.get_total_flops() / 3e9, rel=0.01
    )
    assert plan(recipe).parameters == sum(p.numel() for p in model.parameters())
