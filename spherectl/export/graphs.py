"""The three exported parts of a model, as modules that a tracer can follow: decoder, encoder, one round.

Images are in [0, 1]; latents may be any points, because every part puts them on the sphere itself. Nothing in a part is
random. Shapes: B batch, N tokens, d token channels, R sets of labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spherectl.api import Model
from spherectl.errors import UsageError
from spherectl.model import seeding
from spherectl.model.geometry import perturb, spherify
from spherectl.model.layers import Attention
from spherectl.model.sampler import Network, to_unit
from spherectl.model.sphere import SphereEncoder, build

Part = Literal["decoder", "encoder", "round"]
PARTS: tuple[Part, ...] = ("decoder", "encoder", "round")

GUIDANCE = 1.4  # of the inputs made here

OUTPUTS: dict[Part, tuple[str, ...]] = {
    "decoder": ("image",),
    "encoder": ("latent", "raw"),
    "round": ("next_latent", "image"),
}


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(self, network: SphereEncoder) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, N, d), (B,) -> (B, 3, H, W) in [0, 1]."""
        return to_unit(self.decoder(spherify(latent), labels))


class Encoder(nn.Module):
    """Images to latents."""

    def __init__(self, network: SphereEncoder) -> None:
        super().__init__()
        self.encoder = network.encoder

    def forward(self, image: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1], (B,) -> (B, N, d) on the sphere, and before that, which guidance mixes."""
        raw = self.encoder(2 * image - 1, labels)  # (B, N, d)
        return spherify(raw), raw


# x = D(f(v), y); v' = f(f(E(x, y)) + sigma e)
class Round(nn.Module):
    """One round of sampling: the image of a latent, and the latent of the next round.

    Guidance is a sum over R sets of labels with weights: free + w (bound - free) has the sets (null, y) and the weights
    (1 - w, w). Without guidance there is one set of weight 1, and no work done twice.
    """

    def __init__(self, network: SphereEncoder) -> None:
        super().__init__()
        self.encoder, self.decoder = network.encoder, network.decoder

    def forward(
        self,
        latent: Tensor,
        noise: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        encoder_weights: Tensor | None = None,
        decoder_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One round.

        Args:
            latent, noise: (B, N, d).
            sigma: one number, the noise strength s_k tan(angle_max).
            labels: (R, B).
            encoder_weights, decoder_weights: (R,).

        Returns:
            The next latent (B, N, d) on the sphere, and the image (B, 3, H, W) in [0, 1] of the latent given.
        """
        x = mix(self.decoder, spherify(latent), labels, decoder_weights).clamp(-1, 1)  # (B, 3, H, W)
        z = spherify(mix(self.encoder, x, labels, encoder_weights))  # (B, N, d)
        return perturb(z, sigma, noise), to_unit(x)


def mix(network: Network, x: Tensor, labels: Tensor | None, weights: Tensor | None) -> Tensor:
    """Sum over sets r of weights[r] * network(x, labels[r]): (B, ...), (R, B), (R,) -> (B, ...)."""
    if labels is None or weights is None:
        return network(x, None)
    sets, batch = labels.shape[0], x.shape[0]
    repeated = x.expand(sets, *x.shape).flatten(0, 1)  # (R B, ...)
    out = network(repeated, labels.flatten())  # (R B, ...)
    out = out.reshape(sets, batch, *out.shape[1:])  # (R, B, ...)
    return (weights.reshape(-1, *[1] * (out.dim() - 1)) * out).sum(0)


@dataclass(frozen=True)
class Traced:
    """A part of a model as a graph.

    Attributes:
        part: which.
        program: torch's own form of the graph; its batch, and R of a round, may be any number from 1.
        inputs, outputs: names, in order.
    """

    part: Part
    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def trace(model: Model, part: Part) -> Traced:
    """Trace one part through the plain modules: scaled_dot_product_attention, no kernels of ours, no tables.

    Args:
        model: loaded in float32.
        part: which of the three.

    Raises:
        UsageError: the model was loaded in less than float32.
    """
    network = plain(model)
    module: nn.Module = {"decoder": Decoder, "encoder": Encoder, "round": Round}[part](network)
    inputs = example(model, part, batch=2)
    batch, sets = torch.export.Dim("batch"), torch.export.Dim("sets")
    dynamic: dict[str, Any] = {
        "sigma": {},
        "labels": {0: sets, 1: batch} if part == "round" else {0: batch},
        "encoder_weights": {0: sets},
        "decoder_weights": {0: sets},
    }
    shapes = {name: dynamic.get(name, {0: batch}) for name in inputs}
    with torch.no_grad():
        program = torch.export.export(module.eval(), (), kwargs=inputs, dynamic_shapes=shapes, strict=False)
    return Traced(part, program, tuple(inputs), OUTPUTS[part])


def plain(model: Model) -> SphereEncoder:
    """The model's networks on the CPU, with its weights shared, ready for a tracer.

    Raises:
        UsageError: the model was loaded in less than float32.
    """
    if model.dtype != torch.float32:
        raise UsageError(
            f"An export needs the model in float32; {model.name} was loaded in {model.precision}.",
            'Load it with dtype="float32".',
        )
    with torch.device("meta"):
        network = build(model.recipe.model)
    network.load_state_dict({name: p.detach().cpu() for name, p in model.network.state_dict().items()}, assign=True)
    for module in network.modules():
        if isinstance(module, Attention):
            module.backend = "sdpa"
    for trunk in (network.encoder, network.decoder):  # a tracer must not fill the cache of tables that all models share
        trunk.kept_rotary = trunk.rotary(torch.device("cpu"), torch.float32)
    return network.eval().requires_grad_(False)


def example(model: Model, part: Part, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of a part by name, from a seed: latents of noise, smooth images, all classes in order, guidance."""
    images, shape = torch.arange(batch), model.network.latent_shape
    latent = seeding.noise(seed, seeding.INITIAL, images, shape)  # (B, N, d)
    labels = images % (model.num_classes + 1)  # (B,), the null class among them
    given: dict[str, Tensor]
    if part == "encoder":
        given = {"image": model.decode(spherify(latent), labels if model.num_classes else None).cpu()}
    else:
        given = {"latent": latent}
    if part == "round":
        noise = seeding.noise(seed, seeding.ROUND, images, shape, 1)
        given |= {"noise": noise, "sigma": torch.tensor(model.recipe.noise.sigma_max)}
    if model.num_classes == 0:
        return given
    if part != "round":
        return {**given, "labels": labels}
    both = torch.stack((torch.full_like(labels, model.num_classes), labels))  # (2, B)
    share = math.sqrt(GUIDANCE)  # w' of guidance over both networks
    weights = torch.tensor([1 - share, share])  # cloned: a tracer takes one tensor given twice for one input
    return {**given, "labels": both, "encoder_weights": weights, "decoder_weights": weights.clone()}
