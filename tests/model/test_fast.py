"""Whole networks on the compiled kernels against the same networks in float32 on torch alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from spherectl.model import fast, fused, kernels
from spherectl.model.formats.weights import instantiate
from spherectl.model.objective import LossWeights, objective, training_noise
from spherectl.model.sphere import SphereEncoder
from spherectl.recipe import Recipe

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(not kernels.available(), reason=f"kernels: {kernels.explain()}"),
]

BASE = {"image_size": 32, "size": "nano", "patch_size": 4, "num_classes": 20, "compression_ratio": 6.0}
MODELS = {
    "linear head": {},
    "convolution head": {"pixel_head": "conv"},
    "unconditional": {"num_classes": 0},
    "no mixers": {"encoder_mixer_blocks": 0, "decoder_mixer_blocks": 0},
    "mixers without a last scale": {"mixer_norm_scale": False},
    "odd patch, odd channels, 49 tokens": {"image_size": 35, "patch_size": 5, "token_channels": 9},
    "27 values a patch": {"image_size": 24, "patch_size": 3, "token_channels": 5},
    "two sizes": {"decoder_size": "micro"},
}
EVERY_MODEL = pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)


def pair(lively, changes: dict[str, object]) -> tuple[SphereEncoder, SphereEncoder]:
    """One set of weights: float32 on torch alone, bfloat16 on the kernels."""
    recipe = Recipe.model_validate({"name": "pair", "model": {**BASE, **changes}, "run": {"length_images": 64}})
    plain = instantiate(lively(recipe))
    return plain, copy.deepcopy(plain).bfloat16()


def inputs(model: SphereEncoder, batch: int = 5) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points on the sphere, images, labels of several tables of 16 classes, the null class among them."""
    generator = torch.Generator().manual_seed(3)
    side = model.encoder.grid * model.encoder.patch_size
    v = torch.randn(batch, *model.latent_shape, generator=generator)
    x = torch.rand(batch, 3, side, side, generator=generator) * 2 - 1
    return v, x, torch.tensor([3, 20, 17, 3, 0])[:batch] if model.num_classes else None


def far(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


@EVERY_MODEL
def test_both_networks_are_those_of_torch(lively, changes):
    plain, half = pair(lively, changes)
    v, x, y = inputs(plain)
    with torch.no_grad():
        assert half.takes_kernels(v.device)
        assert far(half.decode(v, y), plain.decode(v, y)) < 0.02
        assert far(half.encode(x, y), plain.encode(x, y)) < 0.02


def test_sampling_is_on_the_kernels_also_where_training_takes_other_products(lively, monkeypatch):
    _, half = pair(lively, {})
    monkeypatch.setattr(kernels, "products_pay", lambda: False)
    assert half.decoder.path(torch.device("cpu")) == "fused"
    assert half.takes_kernels(torch.device("cpu"))


@EVERY_MODEL
def test_int8_is_a_little_farther(lively, changes):
    plain, half = pair(lively, changes)
    half.encoder.int8 = half.decoder.int8 = True
    v, x, y = inputs(plain)
    with torch.no_grad():
        assert 1e-3 < far(half.decode(v, y), plain.decode(v, y)) < 0.08
        assert 1e-3 < far(half.encode(x, y), plain.encode(x, y)) < 0.08


@EVERY_MODEL
@pytest.mark.parametrize("int8", [False, True])
def test_no_bit_depends_on_the_batch_or_the_threads(lively, changes, int8):
    _, half = pair(lively, changes)
    half.encoder.int8 = half.decoder.int8 = int8
    v, x, y = inputs(half)
    threads = torch.get_num_threads()
    with torch.no_grad():
        images, latents = half.decode(v, y), half.encode(x, y)
        try:
            torch.set_num_threads(1)
            for i in range(len(v)):
                label = None if y is None else y[i : i + 1]
                assert torch.equal(half.decode(v[i : i + 1], label), images[i : i + 1])
                assert torch.equal(half.encode(x[i : i + 1], label), latents[i : i + 1])
        finally:
            torch.set_num_threads(threads)


def test_changed_weights_are_packed_again(lively):
    plain, half = pair(lively, {})
    v, _, y = inputs(plain)
    with torch.no_grad():
        before = half.decode(v, y)
        half.decoder.blocks[1].mlp.w3.weight.mul_(3)
        after = half.decode(v, y)
        assert not torch.equal(before, after)
        half.load_state_dict({name: t.bfloat16() for name, t in plain.state_dict().items()}, assign=True)
        assert torch.equal(half.decode(v, y), before)


def test_changed_class_embeddings_change_the_modulations(lively):
    _, half = pair(lively, {})
    v, _, y = inputs(half)
    with torch.no_grad():
        before = half.decode(v, y)
        half.decoder.y_embedder.embedding_table.weight[17] += 1
        after = half.decode(v, y)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]


@pytest.mark.parametrize(
    "changes", [{"attention": "sdpa"}, {"in_context_tokens": 2}, {"spherify_decoder_blocks": True}, {"patch_size": 16}]
)
def test_what_the_kernels_leave_out_runs_on_torch(lively, changes):
    _, half = pair(lively, changes)
    v, _, y = inputs(half)
    with torch.no_grad():
        assert not half.takes_kernels(v.device)
        assert half.decode(v, y).dtype == torch.bfloat16


def test_float32_never_takes_them(lively, monkeypatch):
    plain, _ = pair(lively, {})
    v, _, y = inputs(plain)
    for module in (fast, fused):
        monkeypatch.setattr(module.kernels, "call", None)
    with torch.no_grad():
        assert plain.decode(v, y).dtype == torch.float32


def gradients(model: SphereEncoder, autocast: bool) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one training step."""
    _, x, _ = inputs(model, 4)
    labels = torch.tensor([3, 19, 17, 3]) if model.num_classes else None
    step_noise = training_noise(
        5, 0, labels, batch=4, latent_shape=model.latent_shape, hard_ratio=1.1, num_classes=model.num_classes
    )
    model.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = objective(
            model.encoder, model.decoder, x / 2 + 0.5, step_noise, sigma_max=5.0, weights=LossWeights(10, 0, 5, 0, 0.1)
        )
    losses.total.backward()
    return losses.total.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@EVERY_MODEL
def test_a_training_step_is_as_near_to_float32_as_autocast_is(lively, changes):
    """Loss and every parameter's gradient against float32 on torch alone, with bfloat16 on torch as the measure."""
    plain, _ = pair(lively, changes)
    trained, autocast = copy.deepcopy(plain), copy.deepcopy(plain)
    for trunk in (autocast.encoder, autocast.decoder):
        for block in trunk.blocks:
            block.attn.backend = "math"
    loss, expected = gradients(plain, autocast=False)
    rough, measure = gradients(autocast, autocast=True)
    mine, found = gradients(trained, autocast=True)
    assert abs(mine - loss) <= 2 * abs(rough - loss) + 1e-3 * loss
    assert found.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        allowed = 1.5 * (measure[name] - gradient).norm() + 0.03 * gradient.norm() + 5e-3 * largest
        assert (found[name] - gradient).norm() < allowed, name
