"""SphereEncoder: the pair of networks, how it is built from a recipe, and how it starts.

Shapes: B batch, N tokens, d token channels. Images are in [-1, 1] here; `spherectl.api` has the [0, 1] side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spherectl.model import seeding
from spherectl.model.geometry import spherify
from spherectl.model.layers import Attention
from spherectl.model.vit import Decoder, Encoder
from spherectl.recipe import SIZES, ModelSpec


class SphereEncoder(nn.Module):
    """An encoder to the sphere and a decoder from it.

    Args:
        encoder: images (B, 3, H, W) and labels (B,) to latents (B, N, d).
        decoder: points of the sphere (B, N, d) and labels (B,) to images (B, 3, H, W).
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @property
    def num_classes(self) -> int:
        """Classes without the null class; 0 for an unconditional model."""
        return self.encoder.num_classes

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(N, d)."""
        return self.encoder.grid**2, self.encoder.ffn.linear.out_features

    def takes_kernels(self, device: torch.device) -> bool:
        """Whether the compiled kernels would sample from both networks there, in bfloat16 or int8."""
        with torch.no_grad():
            return all(trunk.path(device, torch.bfloat16) == "fast" for trunk in (self.encoder, self.decoder))

    def null_labels(self, batch: int, device: torch.device | None = None) -> Tensor | None:
        """(B,) labels of the null class; None for an unconditional model."""
        return torch.full((batch,), self.num_classes, device=device) if self.num_classes else None

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """f(E(x, y)): (B, 3, H, W) in [-1, 1] to points on the sphere (B, N, d); no labels: the null class."""
        return spherify(self.encoder(x, self._or_null(y, x)))

    def decode(self, v: Tensor, y: Tensor | None = None) -> Tensor:
        """D(v, y): points on the sphere (B, N, d) to images (B, 3, H, W) in [-1, 1]; no labels: the null class."""
        out: Tensor = self.decoder(v, self._or_null(y, v))
        return out

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """D(f(E(x, y)), y), without noise: (B, 3, H, W) -> (B, 3, H, W), both in [-1, 1]."""
        return self.decode(self.encode(x, y), y)

    def _or_null(self, y: Tensor | None, like: Tensor) -> Tensor | None:
        return self.null_labels(len(like), like.device) if y is None else y


def build(spec: ModelSpec) -> SphereEncoder:
    """The networks of a recipe's [model] table, on the default device, with torch's own start values.

    Under `torch.device("meta")` nothing is allocated, which is enough to count parameters. Call `initialise` to train.
    """
    return SphereEncoder(build_encoder(spec, spec.channels_per_token), build_decoder(spec))


def build_encoder(spec: ModelSpec, channels: int) -> Encoder:
    """The encoder of a [model] table, with so many channels a token at its end."""
    encoder = Encoder(
        **_trunk_options(spec, spec.size),
        token_channels=channels,
        mixer_blocks=spec.encoder_mixer_blocks,
        mixer_norm_scale=spec.mixer_norm_scale,
    )
    choose_attention(encoder, spec)
    return encoder


def build_decoder(spec: ModelSpec) -> Decoder:
    """The decoder of a [model] table."""
    decoder = Decoder(
        **_trunk_options(spec, spec.decoder_size or spec.size),
        token_channels=spec.channels_per_token,
        mixer_blocks=spec.decoder_mixer_blocks,
        mixer_norm_scale=spec.mixer_norm_scale,
        pixel_head=spec.pixel_head,
        spherify_blocks=spec.spherify_decoder_blocks,
    )
    choose_attention(decoder, spec)
    return decoder


def _trunk_options(spec: ModelSpec, name: str) -> dict[str, Any]:
    """What both networks take from a [model] table, the size of the trunk by name."""
    size = SIZES[name]
    return {
        "image_size": spec.image_size,
        "patch_size": spec.patch,
        "num_classes": spec.classes,
        "in_context_tokens": spec.in_context_tokens,
        "in_context_start": size.in_context_start,
        "width": size.width,
        "blocks": size.blocks // (2 if spec.halve_depth else 1),
        "heads": size.heads,
    }


def choose_attention(network: nn.Module, spec: ModelSpec) -> None:
    """Let all attention in a network compute as the recipe says; "auto" leaves the choice to each situation."""
    if spec.attention != "auto":
        for module in network.modules():
            if isinstance(module, Attention):
                module.backend = spec.attention


# Start values are drawn in pieces of so many numbers, which stay in a processor's cache.
PIECE = 1 << 16


def initialise(model: nn.Module, seed: int) -> None:
    """Start values of section 3, each parameter from its own counter (SPEC 11, stream 12); of a baseline's trunk alike.

    Every linear Xavier-uniform, zero bias; norms' scales 1; mixer gates 0. Exceptions: the decoder's input N(0, 1);
    class tables and in-context tensors N(0, 0.02); modulations and the trunks' output linears zero; the pixel head's
    convolutions Xavier-uniform with gain 0.01 over the weight seen as a matrix. A diffusion model's embedding of times
    is N(0, 0.02) as in DiT (Peebles and Xie, 2023), beside which that of classes is not lost.
    """
    with torch.no_grad():
        for place, (name, parameter) in enumerate(model.named_parameters()):
            is_norm = name.endswith("weight") and parameter.dim() == 1
            is_weight = name.endswith("weight") and not is_norm
            if not parameter.requires_grad:
                continue  # the fixed position embedding
            if is_norm:
                parameter.fill_(1)
            elif "embedding_table" in name or "inctx" in name or (is_weight and "t_embedder" in name):
                parameter.copy_(0.02 * _drawn(seeding.normal, parameter, seed, place))
            elif not is_weight or "adaLN_modulation" in name or name.endswith(".ffn.linear.weight"):
                parameter.zero_()
            elif name.startswith("decoder.x_embedder"):
                parameter.copy_(_drawn(seeding.normal, parameter, seed, place))
            else:
                rows, columns = parameter.shape[0], parameter[0].numel()
                gain = 0.01 if name.startswith("decoder.out") else 1.0
                bound = gain * math.sqrt(6 / (rows + columns))
                parameter.copy_(bound * (2 * _drawn(seeding.uniform, parameter, seed, place) - 1))


def _drawn(distribution: Callable[..., Tensor], like: Tensor, seed: int, place: int) -> Tensor:
    """Numbers of a parameter's shape on its device, float64 where there is one."""
    image = torch.tensor([place], device="cpu" if like.device.type == "mps" else like.device)
    counts = [min(PIECE, like.numel() - start) for start in range(0, like.numel(), PIECE)]
    pieces = [distribution(seed, seeding.START, image, count, piece)[0].float() for piece, count in enumerate(counts)]
    return torch.cat(pieces).reshape(like.shape).to(like.device)


def parameter_count(model: nn.Module) -> int:
    """All parameters, the fixed position embeddings counted in."""
    return sum(p.numel() for p in model.parameters())
