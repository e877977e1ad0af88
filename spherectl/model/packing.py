"""A network's weights as the kernels take them, laid out once and kept until one of them changes.

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
        panels: (columns / 32, inner / 2, 32, 2) bfloat16, or (columns / 32, inner / 4, 32, 4) int8.
        bias: (columns,) float32, rounded up to 32.
        factors: the same of what an int8 weight of each column stands for; None for bfloat16.
        starts: (columns,) int32 where the sums of int8 products begin.
    """

    inner: int
    columns: int
    panels: Tensor
    bias: Tensor
    factors: Tensor | None = None
    starts: Tensor | None = None


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
    """A network's weights, laid out.

    Attributes:
        state: of the parameters these were made from, and whether for int8.
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
    """The weights of an Encoder or Decoder, laid out on the first call and again after any of them changed."""
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
    lay_out = pack_int8 if int8 else pack
    return Step(
        norm1=_scale(block.norm1),
        qkv=lay_out(attn.qkv.weight, attn.qkv.bias),
        proj=lay_out(attn.proj.weight, attn.proj.bias),
        norm2=_scale(block.norm2),
        w12=lay_out(*in_turns(mlp.w12.weight, mlp.w12.bias)),
        w3=lay_out(F.pad(mlp.w3.weight, (0, -mlp.w3.in_features % LANES)), mlp.w3.bias),
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
    """Lay out a linear in bfloat16; an odd number of inputs gets one more, which is to be zero.

    Args:
        weight: (columns, inputs).
        bias: (columns,) or None.
    """
    columns, inner = weight.shape[0], rounded_up(weight.shape[1], 2)
    rows = F.pad(weight.detach().bfloat16(), (0, inner - weight.shape[1], 0, -columns % PANEL))
    panels = rows.reshape(-1, PANEL, inner // 2, 2).transpose(1, 2).contiguous()
    return Linear(inner, columns, panels, _padded(bias, columns))


# W = factor q, |q| <= 127, a factor each column; bytes are 128 more than they mean, so 128 sum(q) comes off
def pack_int8(weight: Tensor, bias: Tensor | None) -> Linear:
    """Lay out a linear in int8, as `pack`; the number of inputs is a multiple of four."""
    columns, inner = weight.shape
    rows = F.pad(weight.detach().float(), (0, 0, 0, -columns % PANEL))
    factors = rows.abs().amax(1).clamp_min(1e-30) / 127  # (columns,)
    octets = (rows / factors[:, None]).round().to(torch.int8)
    panels = octets.reshape(-1, PANEL, inner // 4, 4).transpose(1, 2).contiguous()
    return Linear(inner, columns, panels, _padded(bias, columns), factors, -128 * octets.sum(1, dtype=torch.int32))


def _padded(bias: Tensor | None, columns: int) -> Tensor:
    start = torch.zeros(columns) if bias is None else bias.detach().float()
    return F.pad(start, (0, -columns % PANEL))


def in_turns(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The linear to [a | b] with its outputs in turns, 16 of a and 16 of b, zeros beyond the last of each."""
    beyond, inputs = -(len(weight) // 2) % LANES, weight.shape[1]
    halves = F.pad(weight.unflatten(0, (2, -1)), (0, 0, 0, beyond))  # (2, h, inputs)
    turns = halves.reshape(2, -1, LANES, inputs).transpose(0, 1).reshape(-1, inputs)
    return turns, F.pad(bias.unflatten(0, (2, -1)), (0, beyond)).reshape(2, -1, LANES).transpose(0, 1).reshape(-1)


def pack_tokens(layer: nn.Linear) -> Tokens:
    """Lay out a linear over N tokens."""
    beyond = -layer.in_features % LANES
    weight = F.pad(layer.weight.detach().bfloat16(), (0, beyond, 0, beyond)).contiguous()
    return Tokens(weight, F.pad(layer.bias.detach().float(), (0, beyond)))
