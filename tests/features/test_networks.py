"""Feature networks: shapes, the folding of batch normalisation, unit features."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from spherectl.features.networks import KINDS, FeatureNetwork, build_network, fold, normalise_channels

pytestmark = pytest.mark.fast

ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {"num_classes": 10, "widths": [4, 6, 8], "convolutions": [1, 2, 2]},
    "residual": {"num_classes": 10, "widths": [4, 6, 8], "blocks": [1, 2, 1]},
}


def with_uneven_statistics(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Batch normalisation as after training: no mean, variance, scale or shift at its starting value."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = (module.num_features,)
            cast("Tensor", module.running_mean).copy_(torch.randn(shape, generator=generator))
            cast("Tensor", module.running_var).copy_(torch.rand(shape, generator=generator) + 0.1)
            module.weight.data.copy_(torch.randn(shape, generator=generator))
            module.bias.data.copy_(torch.randn(shape, generator=generator))
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_folded_network_equals_the_normalised_one_in_eval_mode(kind: str) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    trained = with_uneven_statistics(build_network(kind, ARGUMENTS[kind], norm=True), generator).eval().double()
    folded = fold(trained, build_network(kind, ARGUMENTS[kind])).double()
    images = torch.rand(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    # fold() rounds the new weights to float32: 1e-6 of the logits' size, and no more.
    torch.testing.assert_close(folded(images), trained(images), rtol=2e-6, atol=2e-6)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not folded.training


@pytest.mark.parametrize(("kind", "sides"), [("plain", (32, 16, 8)), ("residual", (16, 8, 4))])
def test_stages_halve_and_logits_are_a_linear_map_of_the_embedding(kind: str, sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_network(kind, ARGUMENTS[kind]).eval()
    assert isinstance(network, FeatureNetwork)
    images = torch.rand(2, 3, 32, 32)
    stages = network.stages(images)
    assert [tuple(s.shape) for s in stages] == [(2, c, h, h) for c, h in zip((4, 6, 8), sides, strict=True)]
    embedding = network.embed(images)
    torch.testing.assert_close(embedding, stages[-1].mean((2, 3)))
    torch.testing.assert_close(network(images), cast("nn.Linear", network.head)(embedding))


def test_unit_features_have_length_one_and_a_zero_vector_has_a_finite_gradient() -> None:
    features = torch.tensor([[3.0, 0.0], [4.0, 0.0]])[None, :, None, :].requires_grad_()  # vectors (3, 4) and (0, 0)
    unit = normalise_channels(features)
    torch.testing.assert_close(unit[0, :, 0, 0], torch.tensor([0.6, 0.8]))
    assert unit[0, :, 0, 1].tolist() == [0.0, 0.0]
    unit.square().sum().backward()
    assert torch.isfinite(cast("Tensor", features.grad)).all()
