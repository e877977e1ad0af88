"""Parameter counts of the paper's models, start values, and what a batch may not change."""

from __future__ import annotations

import math

import pytest
import torch

from spherectl.model import sampler, seeding
from spherectl.model.objective import objective, training_noise
from spherectl.model.sphere import SphereEncoder, build, initialise, parameter_count
from spherectl.recipe import ModelSpec

pytestmark = pytest.mark.fast

CIFAR = ModelSpec(image_size=32, num_classes=10, pixel_head="conv", compression_ratio=1.5)
LARGE = {"image_size": 256, "encoder_mixer_blocks": 4, "decoder_mixer_blocks": 4}
NANO = ModelSpec(image_size=32, patch_size=8, size="nano", num_classes=10, compression_ratio=24, pixel_head="conv")


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (CIFAR, 263_818_155),
        (CIFAR.model_copy(update={"size": "large"}), 921_569_387),
        (ModelSpec(**LARGE, size="large", num_classes=0), 642_148_324),
        (ModelSpec(**LARGE, size="large", num_classes=102), 948_844_516),
        (ModelSpec(**LARGE, size="base", num_classes=1000, compression_ratio=3), 287_914_916),
        (ModelSpec(**LARGE, size="large", num_classes=1000, compression_ratio=3), 950_354_532),
        (ModelSpec(**LARGE, size="xlarge", num_classes=1000, compression_ratio=3), 1_388_922_404),
    ],
    ids=["cifar-base", "cifar-large", "af-large", "of-large", "imagenet-base", "imagenet-large", "imagenet-xlarge"],
)
def test_the_papers_parameter_counts(spec: ModelSpec, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(build(spec)) == count


def test_the_papers_counts_of_each_network() -> None:
    with torch.device("meta"):
        cifar = build(CIFAR)
        xlarge = build(ModelSpec(**LARGE, size="xlarge", num_classes=1000, compression_ratio=3))
    assert (parameter_count(cifar.encoder), parameter_count(cifar.decoder)) == (129_827_684, 133_990_471)
    assert (parameter_count(xlarge.encoder), parameter_count(xlarge.decoder)) == (684_529_160, 704_393_244)


def fresh(spec: ModelSpec = NANO, seed: int = 0) -> SphereEncoder:
    model = build(spec)
    initialise(model, seed)
    return model


def test_start_values_have_the_spread_of_section_3() -> None:
    model = fresh(ModelSpec(image_size=32, size="micro", num_classes=10, in_context_tokens=2, pixel_head="conv"))
    parameters = dict(model.named_parameters())

    def bound(name: str) -> float:
        weight = parameters[name].flatten(1)
        return math.sqrt(6 / sum(weight.shape))

    for name, gain in (
        ("encoder.x_embedder.0.weight", 1),
        ("encoder.blocks.3.attn.qkv.weight", 1),
        ("decoder.blocks.3.mlp.w3.weight", 1),
        ("decoder.out.2.weight", 0.01),
        ("decoder.out.4.weight", 0.01),
        ("encoder.out.blocks.0.tok_mixer.mix.0.weight", 1),
    ):
        limit = gain * bound(name)
        largest = float(parameters[name].abs().max())
        assert 0.95 * limit < largest <= limit, name  # uniform up to its bound
    for name, deviation in (
        ("decoder.x_embedder.0.weight", 1),
        ("decoder.x_embedder.1.blocks.0.chn_mixer.mix.0.weight", 1),
        ("encoder.y_embedder.embedding_table.weight", 0.02),
        ("decoder.inctx_pos_embed", 0.02),
    ):
        values = parameters[name]
        assert float(values.std()) == pytest.approx(deviation, rel=4 / math.sqrt(2 * values.numel())), name
    zero = [n for n, p in parameters.items() if not p.any()]
    assert all("adaLN" in n or n.endswith("bias") or "alpha" in n or "ffn.linear" in n for n in zero)
    assert {
        "encoder.ffn.linear.weight",
        "decoder.ffn.linear.weight",
        "encoder.blocks.0.adaLN_modulation.1.weight",
    } <= set(zero)
    assert all(bool((p == 1).all()) for n, p in parameters.items() if ".norm" in n)


def test_start_values_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = fresh().state_dict()
    torch.manual_seed(2)
    assert all(torch.equal(first[name], t) for name, t in fresh().state_dict().items())
    assert not torch.equal(
        first["decoder.x_embedder.0.weight"], fresh(seed=1).state_dict()["decoder.x_embedder.0.weight"]
    )


def test_the_first_steps_are_finite_although_the_first_latent_is_exactly_zero() -> None:
    model = fresh()
    images = torch.linspace(0, 1, 4 * 3 * 32 * 32).reshape(4, 3, 32, 32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    norms = []
    for step in range(3):
        step_noise = training_noise(
            0, 4 * step, torch.arange(4), batch=4, latent_shape=model.latent_shape, hard_ratio=1.1, num_classes=10
        )
        losses = objective(model.encoder, model.decoder, images, step_noise, sigma_max=5.67)
        if step == 0:
            assert not losses.z_clean.any()  # so that a plain quotient would be 0 / 0
        optimiser.zero_grad()
        losses.total.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimiser.step()
    assert all(math.isfinite(norm) for norm in norms)
    assert norms[1] > 10 * max(norms[0], 1.0)  # why gradients are clipped, at 1


def test_modulations_looked_up_equal_modulations_computed() -> None:
    model = fresh(NANO.model_copy(update={"num_classes": 40}))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "adaLN" in name:
                p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))
    y = torch.tensor([0, 15, 16, 39, 40, 3])
    computed = model.encoder.modulations(y)
    with torch.no_grad():
        looked_up = model.encoder.modulations(y)
    for a, b in zip(computed, looked_up, strict=True):
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_class_table_follows_changed_weights() -> None:
    model = fresh()
    y = torch.tensor([1])
    with torch.no_grad():
        before = model.decoder.modulations(y)[0]
        dict(model.decoder.named_parameters())["blocks.0.adaLN_modulation.1.bias"].add_(1)
        after = model.decoder.modulations(y)[0]
    assert before is not None
    assert after is not None
    torch.testing.assert_close(after, before + 1)


@pytest.fixture(scope="module")
def trained_like() -> dict[str, SphereEncoder]:
    """Networks whose every part is at work: random weights of a size that keeps activations near one."""
    models = {}
    for head in ("linear", "conv"):
        spec = ModelSpec(image_size=32, latent_resolution="low", size="micro", num_classes=10, compression_ratio=6)
        model = build(spec.model_copy(update={"pixel_head": head}))
        generator = torch.Generator().manual_seed(0)
        for p in model.parameters():
            if p.requires_grad:
                scale = 1 / math.sqrt(p[0].numel()) if p.dim() > 1 else 0.1
                p.data.copy_(torch.randn(p.shape, generator=generator) * scale)
        models[head] = model.eval().requires_grad_(False)
    return models


def images_of(model: SphereEncoder, numbers: list[int], steps: int, guidance: float) -> torch.Tensor:
    indices = torch.tensor(numbers)
    y = indices % 10
    networks = sampler.guided(model.encoder, model.decoder, torch.full_like(y, 10), guidance, "both")
    shape = model.latent_shape
    with torch.no_grad():
        return sampler.generate(
            *networks,
            seeding.noise(0, seeding.INITIAL, indices, shape),
            y,
            steps=steps,
            sigma_max=5.67,
            noise=lambda _: seeding.noise(0, seeding.ROUND, indices, shape, 1),
        )


@pytest.mark.parametrize(
    ("head", "steps", "guidance", "batches"), [("linear", 1, 1.0, (1, 5, 16, 31)), ("conv", 4, 1.4, (1, 3))]
)
def test_an_image_is_the_same_in_every_batch_and_on_any_number_of_threads(
    head: str, steps: int, guidance: float, batches: tuple[int, ...], trained_like: dict[str, SphereEncoder]
) -> None:
    """Two batches of each size and one image more; `make soak` compares 64 images in more batches."""
    model, numbers = trained_like[head], list(range(2 * max(batches) + 1))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = images_of(model, numbers, steps, guidance)
        assert float(together.std()) > 0.05  # an image, not a constant
        for alone in (1, 2):
            torch.set_num_threads(alone)
            assert torch.equal(images_of(model, [5], steps, guidance)[0], together[5])
            for batch in batches:
                parts = [numbers[i : i + batch] for i in (0, batch)] + [numbers[2 * batch : 2 * batch + 1]]
                found = torch.cat([images_of(model, part, steps, guidance) for part in parts])
                assert torch.equal(found, together[: len(found)]), (alone, batch)
    finally:
        torch.set_num_threads(threads)
