"""Training on grey images: what is sampled is grey, whatever the perceptual network asks of each channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.model.formats.weights import read_package
from spherectl.model.sphere import build, initialise
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.training.grey import tie_channels
from spherectl.training.loop import train
from spherectl.training.plan import resolve

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


def recipe_of(head: str = "linear", **tables: Any) -> Recipe:
    recipe: Recipe = recipes.load(packaged("recipes") / "debug.toml").replace(model={"pixel_head": head}, **tables)
    return recipe


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> ImageSet:
    recipe = recipe_of()
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_a_trained_model_has_equal_channels(head: str, dataset: ImageSet, tmp_path: Path) -> None:
    recipe = resolve(recipe_of(head, run={"length_images": 32}), dataset, CPU)
    run = train(recipe, dataset, tmp_path / "run", device=CPU).run
    weights = read_package(run.model).weights
    network = build(recipe.model)
    network.load_state_dict(weights)
    latents = torch.randn(4, *network.latent_shape, generator=torch.Generator().manual_seed(0))
    images = network.decode(latents, torch.arange(4))
    torch.testing.assert_close(images, images[:, :1].expand_as(images), rtol=0, atol=1e-6)
    start = build(recipe.model)
    initialise(start, recipe.run.seed)
    last = start.decoder.out[-2].weight
    assert not torch.equal(network.decoder.out[-2].weight, last)  # it has learnt


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_the_tie_takes_the_mean_of_the_channels(head: str) -> None:
    recipe = recipe_of(head)
    network = build(recipe.model)
    initialise(network, 0)
    with torch.no_grad():
        network.decoder.out[-2].bias.copy_(torch.tensor([0.1, 0.2, 0.6]))
    latents = torch.randn(2, *network.latent_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(2)
    before = network.decode(latents, labels).atanh()
    tie_channels(network, recipe)
    once = {name: p.clone() for name, p in network.named_parameters()}
    tie_channels(network, recipe)
    assert all(torch.equal(p, once[name]) for name, p in network.named_parameters())  # to the last bit
    after = network.decode(latents, labels).atanh()
    torch.testing.assert_close(after, before.mean(1, keepdim=True).expand_as(after))


def test_models_of_colours_stay_as_they_are() -> None:
    recipe = recipe_of(data={"channels": "rgb"})
    network = build(recipe.model)
    initialise(network, 0)
    before = network.decoder.out[-2].weight.clone()
    tie_channels(network, recipe)
    assert torch.equal(network.decoder.out[-2].weight, before)
