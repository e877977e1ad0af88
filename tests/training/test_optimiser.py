"""Schedule, parameter groups and moving average against their formulas."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from spherectl.model.sphere import build
from spherectl.recipe import ModelSpec, OptimSpec, Recipe
from spherectl.training.ema import EMA, ema_decay
from spherectl.training.optimiser import build_optimiser, learning_rate, set_learning_rate, total_steps

pytestmark = pytest.mark.fast

NANO = {"image_size": 32, "patch_size": 8, "size": "nano", "num_classes": 3, "compression_ratio": 24}


def recipe(images: int = 25_600, warmup: int = 2_560, batch: int = 512, **optim: Any) -> Recipe:
    table = {"lr": 1e-4, "min_lr": 1e-6, "warmup_images": warmup, **optim}
    return Recipe.model_validate(
        {"name": "x", "model": NANO, "optim": table, "run": {"length_images": images, "batch_size": batch}}
    )


def test_schedule_warms_up_from_a_share_and_ends_at_its_floor() -> None:
    r = recipe()  # 50 steps of 512, 5 of them warm-up; rates doubled by the batch
    rates = [learning_rate(step, r) for step in range(50)]
    assert rates[:5] == pytest.approx([2e-4 * (t + 1) / 6 for t in range(5)])
    assert rates[5] == pytest.approx(2e-4)
    assert rates[-1] == pytest.approx(2e-6)
    middle = 2e-6 + (2e-4 - 2e-6) * 0.5 * (1 + math.cos(math.pi * 22 / 44))
    assert rates[27] == pytest.approx(middle)
    assert all(a > b for a, b in itertools.pairwise(rates[5:]))


def test_a_rate_that_falls_late_is_the_same_before_whatever_the_length() -> None:
    short, long = recipe(decay_images=5_120), recipe(images=51_200, decay_images=5_120)  # 50 and 100 steps, 10 of decay
    rates = [learning_rate(step, short) for step in range(50)]
    assert rates[:41] == [learning_rate(step, long) for step in range(41)]
    assert rates[5:41] == pytest.approx([2e-4] * 36)
    assert rates[-1] == pytest.approx(2e-6)
    assert rates[43] == pytest.approx(2e-6 + (2e-4 - 2e-6) * 0.5 * (1 + math.cos(math.pi * 3 / 9)))
    assert [learning_rate(step, recipe(decay_images=10**9)) for step in range(50)] == [
        learning_rate(step, recipe()) for step in range(50)
    ]


def test_steps_cover_the_images_and_one_step_has_a_rate() -> None:
    assert total_steps(recipe(images=1000, batch=300)) == 4
    assert learning_rate(0, recipe(images=512, warmup=0)) == pytest.approx(2e-4)


def test_the_encoder_runs_at_its_share_floor_included_and_fixed_embeddings_not_at_all() -> None:
    model = build(ModelSpec.model_validate(NANO))
    optimiser = build_optimiser(model, OptimSpec(encoder_lr_ratio=0.1))
    set_learning_rate(optimiser, 3e-4)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        if name.endswith("pos_embed") and "inctx" not in name:
            assert id(p) not in rates
        else:
            assert rates[id(p)] == pytest.approx(3e-5 if name.startswith("encoder") else 3e-4)
    group = optimiser.param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.95), 0.0)


def test_the_papers_half_life_is_its_decay() -> None:
    assert ema_decay(OptimSpec(), images_seen=10**9, batch=256) == pytest.approx(0.9997, abs=1e-9)


def test_the_ramp_shortens_the_half_life_early() -> None:
    optim = OptimSpec(ema_half_life_images=1000, ema_ramp_ratio=0.1)
    assert ema_decay(optim, images_seen=500, batch=50) == pytest.approx(0.5)  # half-life 50
    assert ema_decay(optim, images_seen=10**6, batch=50) == pytest.approx(0.5**0.05)


def test_the_average_starts_at_the_start_values_and_follows() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1)
        ema = EMA(layer)
        layer.weight.fill_(3)
        ema.update(layer, 0.75)
        ema.update(layer, 0.75)
    # 1 -> 0.75 + 0.25 * 3 = 1.5 -> 1.125 + 0.75 = 1.875
    assert ema.state()["weight"].tolist() == [[1.875, 1.875]]
