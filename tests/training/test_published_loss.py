"""The whole training loss with the published perceptual part, against section 4 written out once more.

The other side is built of the package `lpips`, torchvision's ConvNeXt-Small and plain torch, and takes of ours only the
networks E and D. Weights are random, of the true shapes, and come over HTTP as the true ones do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import lpips
import pytest
import torch
from torch import Tensor, nn

from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.features.imagenet import Source
from spherectl.model.formats.weights import Package, instantiate
from spherectl.model.objective import LossWeights, TrainingNoise, objective
from spherectl.model.sphere import SphereEncoder
from spherectl.recipe import Recipe
from spherectl.training.perceptual import build_perceptual
from tests.published import resized

PARTS = ("total", "rec", "rec_perceptual", "con", "con_perceptual", "latent")


def on_sphere(z: Tensor) -> Tensor:
    return z / (z.square().mean((1, 2), keepdim=True) + 1e-6).sqrt()


def published_parts(
    model: SphereEncoder,
    images: Tensor,
    draws: TrainingNoise,
    sigma_max: float,
    weights: LossWeights,
    perceptual: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Steps 1 and 3 to 6 of section 4 for (B, 3, H, W) images in [0, 1]; no strength may be 0."""
    z = model.encoder(2 * images - 1, draws.labels_encode)
    v = on_sphere(z)
    large, small = (on_sphere(v + (sigma_max * r)[:, None, None] * draws.noise) for r in (draws.large, draws.small))
    decoded = model.decoder(torch.cat([large, small]), draws.labels_decode)
    x_large, x_small = decoded[: len(images)], decoded[len(images) :]
    again = model.encoder(x_large, draws.labels_again).flatten(1)
    cos = (again * z.detach().flatten(1)).sum(1) / (again.norm(dim=1) * z.detach().flatten(1).norm(dim=1))

    def pixels(a: Tensor, b: Tensor) -> Tensor:  # smoothL1 of differences below 1
        return 0.5 * (a - b).square().mean()

    far, near = (x_large + 1) / 2, (x_small + 1) / 2
    parts = {
        "rec": weights.rec * pixels(near, images),
        "rec_perceptual": weights.rec_perceptual * perceptual(near, images),
        "con": weights.con * pixels(far, near.detach()),
        "con_perceptual": weights.con_perceptual * perceptual(far, near.detach()),
        "latent": weights.latent * (1 - cos).mean(),
    }
    return parts | {"total": torch.stack(list(parts.values())).sum()}


def gradients(model: SphereEncoder, loss: Tensor) -> dict[str, float]:
    """Norm of each parameter's gradient, and of all together."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    norms = [g.norm() for g in torch.autograd.grad(loss, [p for _, p in named])]
    return {name: float(norm) for (name, _), norm in zip(named, norms, strict=True)} | {
        "all": float(torch.stack(norms).norm())
    }


@pytest.mark.parametrize(
    ("recipe_name", "px", "batch"),
    [
        pytest.param("cifar10", 32, 2, marks=pytest.mark.slow),
        pytest.param("imagenet256", 128, 1, marks=pytest.mark.slow),
        pytest.param("imagenet256", 256, 1, marks=pytest.mark.soak),  # half a minute on one core
    ],
)
def test_objective_with_the_published_networks_is_section_4(
    recipe_name: str,
    px: int,
    batch: int,
    lively: Callable[[Recipe], Package],
    lpips_module: lpips.LPIPS,
    convnext: nn.Module,
    served: tuple[Source, Source],
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Total, all parts and the gradients, with the paper's weights of the parts.

    In float64: in float32 rounding decides a ReLU or a maximum one way or the other, on AVX512 enough to move the
    gradient by 2e-4.
    """
    recipe = recipes.load(zoo.find_recipe(recipe_name)).replace(
        model={"size": "nano", "image_size": px, "num_classes": 10}
    )
    classes, loss = recipe.model.classes, recipe.loss
    weights = LossWeights(loss.rec, loss.rec_perceptual, loss.con, loss.con_perceptual, loss.latent)
    model = instantiate(lively(recipe)).double().requires_grad_(True)
    for table in ("encoder.pos_embed", "decoder.pos_embed"):
        model.get_parameter(table).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(batch, 3, px, px, generator=generator).double()
    labels = torch.tensor([3, classes])[:batch]  # one of them dropped to the null class
    draws = TrainingNoise(
        large=torch.tensor([0.7, 1.05]).double()[:batch],
        small=torch.tensor([0.2, 0.4]).double()[:batch],
        noise=torch.randn(batch, *model.latent_shape, generator=generator).double(),
        labels_encode=labels,
        labels_decode=torch.cat([labels, labels.flip(0)]),
        labels_again=labels,
    )

    monkeypatch.setenv("SPHERECTL_CACHE", str(shared_cache))
    perceptual = build_perceptual(loss, px, "cpu")
    assert perceptual is not None
    perceptual, lpips64, convnext64 = perceptual.double(), deepcopy(lpips_module).double(), deepcopy(convnext).double()
    assert loss.perceptual == "lpips+convnext"
    ours = objective(
        model.encoder,
        model.decoder,
        images,
        draws,
        sigma_max=recipe.noise.sigma_max,
        weights=weights,
        perceptual=perceptual,
    )

    def by_formula(a: Tensor, b: Tensor) -> Tensor:
        logits = (convnext64(resized(a)) - convnext64(resized(b))).square().mean()
        return (lpips64(2 * a - 1, 2 * b - 1).mean() + 0.1 * logits) / 1.1

    angle = {"cifar10": 80, "imagenet256": 85}[recipe_name]
    theirs = published_parts(model, images, draws, math.tan(math.radians(angle)), weights, by_formula)
    for part in PARTS:
        got, expected = getattr(ours, part).item(), theirs[part].item()
        assert got == pytest.approx(expected, rel=1e-5), part
        assert expected > 1e-3 * theirs["total"].item(), part  # each is seen in the sum
    norms, expected_norms = gradients(model, ours.total), gradients(model, theirs["total"])
    whole = expected_norms["all"]
    assert norms["all"] == pytest.approx(whole, rel=1e-5)
    # Small gradients are sums that cancel: float32 leaves them digits of the whole, not digits of their own. Those of a
    # mixer's scalars are one such sum over all of a latent; in float64 all of this agrees to 3e-7.
    assert norms == {
        name: pytest.approx(norm, rel=1e-3 if "alpha" in name else 1e-5, abs=5e-6 * whole)
        for name, norm in expected_norms.items()
    }
