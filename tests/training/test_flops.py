"""Counted operations: against torch's own counter on steps that are run, closed forms, and published counts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.errors import UsageError
from spherectl.model.objective import LossWeights, Perceptual, TrainingNoise, objective
from spherectl.model.sphere import build
from spherectl.recipe import SIZES, ModelSpec, Recipe
from spherectl.training import flops
from spherectl.training.perceptual import build_perceptual

# Everything that changes what a step multiplies, on networks that run in milliseconds.
SPECS: dict[str, dict[str, Any]] = {
    "conv head": {"pixel_head": "conv", "num_classes": 10},
    "linear head": {"pixel_head": "linear", "num_classes": 10},
    "unconditional": {"pixel_head": "linear", "num_classes": 0},
    "in-context tokens": {"in_context_tokens": 3, "num_classes": 10},
    "in-context tokens, unconditional": {"in_context_tokens": 3, "num_classes": 0},
    "halved": {"halve_depth": True, "num_classes": 10, "size": "micro"},
    "halved above the in-context start": {"halve_depth": True, "num_classes": 0, "in_context_tokens": 2},
    "two sizes": {"decoder_size": "micro", "num_classes": 10},
    "no mixers": {"encoder_mixer_blocks": 0, "decoder_mixer_blocks": 0, "num_classes": 10},
    "deep mixers": {"encoder_mixer_blocks": 3, "decoder_mixer_blocks": 1, "num_classes": 10},
    "spherified blocks": {"spherify_decoder_blocks": True, "num_classes": 10},
    "other patches": {"image_size": 64, "patch_size": 16, "num_classes": 10},
}


def counted(call: Callable[[], Any]) -> float:
    """GFLOP by torch's counter, which knows attention as plain products alone."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def step(spec: ModelSpec, perceptual: Perceptual | None = None, weights: LossWeights | None = None) -> None:
    """The objective on one image, forward and backward, on the networks' own modules."""
    network = build(spec.model_copy(update={"attention": "sdpa"}))
    labels = torch.zeros(1, dtype=torch.int64) if spec.classes else None
    both = None if labels is None else torch.cat((labels, labels))
    draws = TrainingNoise(torch.ones(1), torch.ones(1), torch.ones(1, *network.latent_shape), labels, both, labels)
    images = torch.full((1, 3, spec.image_size, spec.image_size), 0.5)
    arguments = {"sigma_max": 1.0, "perceptual": perceptual, "weights": weights}
    objective(network.encoder, network.decoder, images, draws, **arguments).total.backward()  # type: ignore[arg-type]


def shipped(name: str) -> Recipe:
    return recipes.load(zoo.find_recipe(name))


@pytest.mark.fast
@pytest.mark.parametrize("keys", SPECS.values(), ids=SPECS)
def test_a_step_counts_as_torch_counts_it(keys: dict[str, Any]) -> None:
    spec = ModelSpec(**{"size": "nano", "patch_size": 8, **keys})
    assert flops.step_gflop(spec) == pytest.approx(counted(lambda: step(spec)), rel=1e-12)


@pytest.mark.fast
def test_a_block_costs_its_closed_form() -> None:
    """Halving the depth takes blocks out of both networks; each runs twice, and a gradient is two more passes.

    A pass of a block over N tokens of width D: 4 D^2 and 3 D h weights a token, q k^T and the weighted sum, and for
    each image the modulation, 6 D^2.
    """
    spec = ModelSpec(size="micro", patch_size=4, num_classes=10)
    width, tokens, hidden = SIZES["micro"].width, spec.tokens, SIZES["micro"].width * 8 // 3
    products = 2 * tokens * (4 * width**2 + 3 * width * hidden) + 2 * 2 * tokens**2 * width + 2 * 6 * width**2
    removed = SIZES["micro"].blocks - SIZES["micro"].blocks // 2
    halved = spec.model_copy(update={"halve_depth": True})
    expected = 2 * removed * 2 * 3 * products / 1e9
    assert flops.step_gflop(spec) - flops.step_gflop(halved) == pytest.approx(expected, rel=1e-6)


@pytest.mark.fast
def test_the_published_networks_count_as_torch_counts_them() -> None:
    with torch.device("meta"):
        images = torch.empty(1, 3, 64, 64)
    forward = counted(lambda: flops.published_distance().features(images))
    model = ModelSpec(image_size=64, num_classes=0)
    assert flops.perceptual_gflop(Recipe(name="a", model=model)) == pytest.approx(5 * forward, rel=1e-12)


@pytest.mark.fast
@pytest.mark.parametrize(("rec", "con"), [(1.0, 0.5), (1.0, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_a_feature_network_counts_as_the_weights_of_the_loss_ask_for_it(rec: float, con: float) -> None:
    loss = {"rec_perceptual": rec, "con_perceptual": con}
    recipe = shipped("fashion-mnist").replace(loss=loss, model={"size": "nano"})
    perceptual = build_perceptual(recipe.loss, 32, "cpu")
    weights = LossWeights(rec_perceptual=rec, con_perceptual=con)
    expected = counted(lambda: step(recipe.model, perceptual, weights)) - flops.step_gflop(recipe.model)
    assert flops.perceptual_gflop(recipe) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert flops.training_gflop(recipe) == pytest.approx(flops.step_gflop(recipe.model) + expected, rel=1e-12)


@pytest.mark.fast
def test_classes_that_are_not_known_yet_are_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"model\.num_classes is still"):
        flops.training_gflop(shipped("folder32"))


@pytest.mark.slow
def test_counting_the_embedded_recipe_loads_no_compiler(cli: Any) -> None:
    code = (
        "import sys; from spherectl import recipe, zoo; from spherectl.training.flops import training_gflop;"
        "training_gflop(recipe.load(zoo.find_recipe('fashion-mnist')));"
        "print(sorted({'sympy', 'torch._dynamo', 'torch._inductor', 'torch.utils.flop_counter'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=cli.environment(), capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
