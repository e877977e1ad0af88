"""A network's weights packed for the kernels, once, until one of them changes.

Shapes: D width, c channels of a mixer, N tokens; `columns` are a linear's outputs, `inner` its inputs.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl.model.kernels import LANES, PANEL, rounded_up
from spherectl.model.layers import Block, Mixer, RMSNorm


class Linear(NamedTuple):
    """A linear as `linear_forward` takes it.

    Attributes:
        inner, columns: inputs and outputs.
        packed_weight: (columns / 32, inner / 2, 32, 2) bfloat16, or (columns / 32, inner / 4, 32, 4) int8.
        bias: (columns,) float32, rounded up to 32.
        scales: (columns,) float32 of an int8 weight, rounded up to 32; None for bfloat16.
        zero_points: (columns,) int32, -128 times the sum of each column's int8 weights, where its sums start.
    """

    inner: int
    columns: int
    packed_weight: Tensor
    bias: Tensor
    scales: Tensor | None = None
    zero_points: Tensor | None = None


class Tokens(NamedTuple):
    """A linear over tokens as `tokens_forward` takes it: (n, n) bfloat16 and (n,) float32, n = N rounded up to 16."""

    weight: Tensor
    bias: Tensor


class MixerStep(NamedTuple):
    """One mixer block: norms (c,), products, and the gates as a number and as (c,)."""

    norm1: Tensor
    tokens1: Tokens
    tokens2: Tokens
    alpha1: float
    norm2: Tensor
    channels1: Linear
    channels2: Linear
    alpha2: Tensor


class Step(NamedTuple):
    """One transformer block: norms (D,) and products."""

    norm1: Tensor
    qkv: Linear
    proj: Linear
    norm2: Tensor
    w12: Linear
    w3: Linear


@dataclass(frozen=True)
class Prepared:
    """The packed weights of a network.

    Attributes:
        state: identifies the parameters these were made from, and whether they are int8.
        entrance: linears from patches or latent tokens to the width.
        mixer: steps of the MLP-Mixer, before the blocks in a decoder, after them in an encoder.
        blocks, norm, output: the trunk.
        modulations: gathered rows of each 16 classes asked for so far, (16, all modulations side by side) float32.
    """

    state: list[int]
    entrance: list[Linear]
    mixer: list[MixerStep]
    blocks: list[Step]
    norm: Tensor | None
    output: Linear
    modulations: dict[int, Tensor]


_prepared: weakref.WeakKeyDictionary[nn.Module, Prepared] = weakref.WeakKeyDictionary()
_parameters: weakref.WeakKeyDictionary[nn.Module, list[dict[str, Any]]] = weakref.WeakKeyDictionary()


def prepared(network: Any) -> Prepared:
    """The packed weights of an Encoder or Decoder, made on the first call and again after any weight changed."""
    if network not in _parameters:
        _parameters[network] = [module._parameters for module in network.modules() if module._parameters]  # noqa: SLF001
    state: list[int] = [network.int8]
    for table in _parameters[network]:
        for parameter in table.values():
            if parameter is not None:
                state += (parameter.data_ptr(), parameter._version)  # noqa: SLF001
    known = _prepared.get(network)
    if known is None or known.state != state:
        known = _prepared[network] = _prepare(network, state)
    return known


def _prepare(network: Any, state: list[int]) -> Prepared:
    if hasattr(network, "patch_size"):
        entrance = [
            pack(network.patch.weight.flatten(1), None),
            pack(network.point.weight.flatten(1), network.point.bias),
        ]
        mixer = network.out  # after the blocks
    else:
        first = network.x_embedder if isinstance(network.x_embedder, nn.Linear) else network.x_embedder[0]
        entrance = [pack(first.weight, first.bias)]
        mixer = None if first is network.x_embedder else network.x_embedder[1]  # before them
    return Prepared(
        state,
        entrance,
        [_mixer_step(block) for block in mixer.blocks] if isinstance(mixer, Mixer) else [],
        [_step(block, network.int8) for block in network.blocks],
        None if network.ffn.norm is None else _scale(network.ffn.norm),
        pack(network.ffn.linear.weight, network.ffn.linear.bias),
        {},
    )


def _step(block: Block, int8: bool) -> Step:
    attn, mlp = block.attn, block.mlp
    packed = pack_int8 if int8 else pack
    return Step(
        norm1=_scale(block.norm1),
        qkv=packed(attn.qkv.weight, attn.qkv.bias),
        proj=packed(attn.proj.weight, attn.proj.bias),
        norm2=_scale(block.norm2),
        w12=packed(*interleaved(mlp.w12.weight, mlp.w12.bias)),
        w3=packed(F.pad(mlp.w3.weight, (0, -mlp.w3.in_features % LANES)), mlp.w3.bias),
    )


def _mixer_step(block: Any) -> MixerStep:
    over, along = block.tok_mixer.mix, block.chn_mixer.mix
    return MixerStep(
        norm1=_scale(block.norm1),
        tokens1=pack_tokens(over[0]),
        tokens2=pack_tokens(over[2]),
        alpha1=float(block.alpha1),
        norm2=_scale(block.norm2),
        channels1=pack(along[0].weight, along[0].bias),
        channels2=pack(along[2].weight, along[2].bias),
        alpha2=block.alpha2.detach().float().expand(along[0].in_features).contiguous(),
    )


def _scale(norm: RMSNorm) -> Tensor:
    assert norm.weight is not None, "the norms of blocks have a scale"
    return norm.weight.detach().float()


def pack(weight: Tensor, bias: Tensor | None) -> Linear:
    """Pack a linear in bfloat16; an odd number of inputs gets one more, which must be zero.

    Args:
        weight: (columns, inputs).
        bias: (columns,) or None.
    """
    columns, inner = weight.shape[0], rounded_up(weight.shape[1], 2)
    rows = F.pad(weight.detach().bfloat16(), (0, inner - weight.shape[1], 0, -columns % PANEL))
    packed_weight = rows.reshape(-1, PANEL, inner // 2, 2).transpose(1, 2).contiguous()
    return Linear(inner, columns, packed_weight, _padded(bias, columns))


# W = scale q, |q| <= 127, one scale a column; inputs are bytes with 128 added, so that 128 sum(q) is subtracted
def pack_int8(weight: Tensor, bias: Tensor | None) -> Linear:
    """Pack a linear in int8, as `pack`; the number of inputs is a multiple of four."""
    columns, inner = weight.shape
    rows = F.pad(weight.detach().float(), (0, 0, 0, -columns % PANEL))
    scales = rows.abs().amax(1).clamp_min(1e-30) / 127  # (columns,)
    quantized = (rows / scales[:, None]).round().to(torch.int8)
    packed_weight = quantized.reshape(-1, PANEL, inner // 4, 4).transpose(1, 2).contiguous()
    zero_points = -128 * quantized.sum(1, dtype=torch.int32)  # (columns,)
    return Linear(inner, columns, packed_weight, _padded(bias, columns), scales, zero_points)


def _padded(bias: Tensor | None, columns: int) -> Tensor:
    start = torch.zeros(columns) if bias is None else bias.detach().float()
    return F.pad(start, (0, -columns % PANEL))


def interleaved(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The linear to [a | b] with its outputs interleaved, 16 of a and 16 of b, zeros beyond the last of each."""
    beyond, inputs = -(len(weight) // 2) % LANES, weight.shape[1]
    halves = F.pad(weight.unflatten(0, (2, -1)), (0, 0, 0, beyond))  # (2, h, inputs)
    rows = halves.reshape(2, -1, LANES, inputs).transpose(0, 1).reshape(-1, inputs)
    return rows, F.pad(bias.unflatten(0, (2, -1)), (0, beyond)).reshape(2, -1, LANES).transpose(0, 1).reshape(-1)


def pack_tokens(layer: nn.Linear) -> Tokens:
    """Pack a linear over N tokens."""
    beyond = -layer.in_features % LANES
    weight = F.pad(layer.weight.detach().bfloat16(), (0, beyond, 0, beyond)).contiguous()
    return Tokens(weight, F.pad(layer.bias.detach().float(), (0, beyond)))
