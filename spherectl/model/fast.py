"""Both networks without gradients on the compiled kernels: bfloat16 on a CPU with AVX512-BF16.

The mathematics is that of `vit.py` and `layers.py`. Weights are laid out for the products once; the sum that runs
through the blocks stays in float32, and bfloat16 is what enters a product. An image's bits depend neither on the batch
nor on the number of threads.

Shapes: B batch, N tokens, D width, d token channels, c channels of a mixer, h hidden width of SwiGLU rounded up to 16.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl.model import kernels
from spherectl.model.layers import NORM_EPSILON, Block, Mixer

if TYPE_CHECKING:
    from spherectl.model.vit import Decoder, Encoder, PixelHead, Trunk

PLAIN, SILU, SWIGLU, RESIDUAL = range(4)  # what becomes of a product, as in kernels.c
LANES, PANEL, LEAST_ROWS = 16, 32, 8
FLOAT_BYTES = 4


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
        state: of the parameters these were made from.
        entrance: linears from patches or latent tokens to the width.
        mixer: steps of the MLP-Mixer, before the blocks in a decoder, after them in an encoder.
        blocks, norm, output: the trunk.
        modulations: gathered rows of each 16 classes asked for so far, (16, all modulations side by side) float32.
    """

    state: tuple[int, ...]
    entrance: list[Linear]
    mixer: list[MixerStep]
    blocks: list[Step]
    norm: Tensor | None
    output: Linear
    modulations: dict[int, Tensor]


def encode(network: Encoder, x: Tensor, y: Tensor | None) -> Tensor:
    """`Encoder.forward`: (B, 3, H, W), (B,) -> (B, N, d) float32."""
    ready = prepared(network)
    patch, point = ready.entrance
    tokens = linear(patch, network.patches(x).bfloat16().contiguous(), PLAIN)  # (B, N, D)
    z = linear(ready.output, _blocks(network, ready, _add(point, tokens, network.pos_embed), y), RESIDUAL)  # (B, N, d)
    return _mix(ready, z, network.out.norm) if isinstance(network.out, Mixer) else z


def decode(network: Decoder, v: Tensor, y: Tensor | None) -> Tensor:
    """`Decoder.forward`: (B, N, d), (B,) -> (B, 3, H, W) float32."""
    ready, pos = prepared(network), network.pos_embed
    (entrance,) = ready.entrance
    v = F.pad(v, (0, entrance.inner - v.shape[-1])).bfloat16().contiguous()
    if ready.mixer:
        x = _mix(ready, linear(entrance, v, RESIDUAL), network.x_embedder[1].norm) + pos.float()  # type: ignore[index]
    else:
        x = _add(entrance, v, pos)  # (B, N, D)
    tokens = linear(ready.output, _blocks(network, ready, x, y), PLAIN)  # (B, N, K)
    return _pixels(network.out, tokens)


def _blocks(network: Trunk, ready: Prepared, x: Tensor, y: Tensor | None) -> Tensor:
    """Tokens (B, N, D) float32, which are overwritten, through blocks and last norm: (B, N, D) bfloat16."""
    images, tokens, width = x.shape
    rows, heads, hidden = images * tokens, network.heads, ready.blocks[0].w3.inner if ready.blocks else 0
    table = network.rotary(x.device, torch.float32)
    normed, attended = torch.empty(2, images, tokens, width, dtype=torch.bfloat16)
    qkv = torch.empty(images, tokens, 3 * width, dtype=torch.bfloat16)
    gated = torch.empty(images, tokens, hidden, dtype=torch.bfloat16)
    modulation = _modulations(network, ready, y)  # (B, parts of D)
    stride = 0 if modulation is None else modulation.shape[1]
    parts = _parts(modulation, width)

    def norm(weight: Tensor, shift: int | None, scale: int | None) -> None:
        kernels.call(
            *("norm_forward", rows, width, tokens, NORM_EPSILON, x, None, None, 0, weight, shift, scale, stride, None),
            *(normed, None),
        )

    scale = 1 / math.sqrt(width // heads)
    for block in ready.blocks:
        shift1, scale1, gate1, shift2, scale2, gate2 = (next(parts) for _ in range(6))
        norm(block.norm1, shift1, scale1)
        linear(block.qkv, normed, PLAIN, qkv)  # (B, N, 3 D)
        kernels.call("attention_forward", images, tokens, heads, width // heads, scale, qkv, table, attended, None)
        linear(block.proj, attended, RESIDUAL, x, gate1, stride)  # (B, N, D)
        norm(block.norm2, shift2, scale2)
        linear(block.w12, normed, SWIGLU, gated)  # (B, N, h)
        linear(block.w3, gated, RESIDUAL, x, gate2, stride)  # (B, N, D)
    if ready.norm is None:
        return x.bfloat16()
    shift, scale_ = next(parts), next(parts)
    norm(ready.norm, shift, scale_)
    return normed


def linear(
    layer: Linear,
    x: Tensor,
    kind: int,
    out: Tensor | None = None,
    gate: Tensor | int | None = None,
    gate_stride: int = 0,
) -> Tensor:
    """A product and what becomes of it.

    Args:
        layer: packed.
        x: (B, N, inner) bfloat16.
        kind: PLAIN, SILU, SWIGLU: to bfloat16; RESIDUAL: added to float32.
        out: where to; None: new, for RESIDUAL zero.
        gate: rows of a table, by tensor or address, or None; only with RESIDUAL.
        gate_stride: floats between two images' rows.
    """
    rows, columns = x.numel() // layer.inner, layer.columns
    if out is None:
        shape = (*x.shape[:-1], columns)
        out = torch.zeros(shape) if kind == RESIDUAL else torch.empty(shape, dtype=torch.bfloat16)
    into = (layer.bias, gate, gate_stride, x.shape[1], out)
    if layer.factors is None:
        kernels.call("linear_forward", rows, layer.inner, columns, kind, x, layer.panels, *into)
    else:
        octets, row_factors = torch.empty(x.shape, dtype=torch.uint8), torch.empty(rows)
        kernels.call("bytes_forward", rows, layer.inner, x, octets, row_factors)
        operands = (octets, row_factors, layer.panels, layer.factors, layer.starts)
        kernels.call("linear_forward_bytes", rows, layer.inner, columns, kind, *operands, *into)
    return out


def _add(layer: Linear, x: Tensor, start: Tensor) -> Tensor:
    """The linear of (B, N, inner) added to (1, N, columns), float32."""
    return linear(layer, x, RESIDUAL, start.float().expand(len(x), -1, -1).clone(memory_format=torch.contiguous_format))


def _mix(ready: Prepared, x: Tensor, last: nn.Module) -> Tensor:
    """MLP-Mixer blocks and their last norm over (B, N, c) float32, which is overwritten; (B, N, c) float32."""
    images, tokens, channels = x.shape
    rows, y = images * tokens, torch.empty(x.shape, dtype=torch.bfloat16)
    mixed, wide = torch.empty_like(y), torch.empty(images, tokens, 2 * channels, dtype=torch.bfloat16)
    plain = (rows, channels, tokens, NORM_EPSILON, x, None, None, 0)
    for step in ready.mixer:
        kernels.call("norm_forward", *plain, step.norm1, None, None, 0, None, y, None)
        for source, (weight, bias), kind, gate, target in (
            (y, step.tokens1, SILU, 0.0, mixed),
            (mixed, step.tokens2, RESIDUAL, step.alpha1, x),
        ):
            kernels.call("tokens_forward", images, tokens, channels, kind, source, weight, bias, gate, target)
        kernels.call("norm_forward", *plain, step.norm2, None, None, 0, None, y, None)
        linear(step.channels2, linear(step.channels1, _even(y), SILU, wide), RESIDUAL, x, step.alpha2)
    weight = last.weight
    return F.rms_norm(x, (channels,), None if weight is None else weight.float(), NORM_EPSILON)


def _even(x: Tensor) -> Tensor:
    """With one more channel of zeros where the number of channels is odd."""
    return F.pad(x, (0, 1)) if x.shape[-1] % 2 else x


def _pixels(head: PixelHead, tokens: Tensor) -> Tensor:
    """The pixel head: (B, N, K) bfloat16 -> (B, 3, H, W) float32 in [-1, 1]."""
    if head.kind != "linear":
        return head(tokens).float()  # type: ignore[no-any-return]
    unfold, _, conv, _ = head
    side = unfold.grid * unfold.side
    out = torch.empty(len(tokens), conv.out_channels, side, side)
    weight, bias = conv.weight.float().contiguous(), conv.bias.float()
    kernels.call("pixels_forward", len(tokens), unfold.grid, unfold.side, tokens, weight, bias, out)
    return out


def _modulations(network: Trunk, ready: Prepared, y: Tensor | None) -> Tensor | None:
    """All modulations of (B,) labels side by side, (B, 6 D blocks + 2 D) float32."""
    if network.y_embedder is None:
        return None
    found = network.class_rows(y, ready.modulations)
    return found if found.dtype == torch.float32 else found.float()


def _parts(modulation: Tensor | None, width: int) -> Iterator[int | None]:
    """Addresses of shift, scale, gate, ..., each D columns of the table."""
    if modulation is None:
        while True:
            yield None
    start = modulation.data_ptr()
    yield from range(start, start + FLOAT_BYTES * modulation.shape[1], FLOAT_BYTES * width)


_prepared: weakref.WeakKeyDictionary[nn.Module, Prepared] = weakref.WeakKeyDictionary()
_parameters: weakref.WeakKeyDictionary[nn.Module, list[dict[str, Any]]] = weakref.WeakKeyDictionary()


def prepared(network: Trunk) -> Prepared:
    """The network's weights, laid out on the first call and again after any of them changed."""
    if network not in _parameters:
        _parameters[network] = [module._parameters for module in network.modules() if module._parameters]  # noqa: SLF001
    state: list[int] = []
    for table in _parameters[network]:
        for parameter in table.values():
            if parameter is not None:
                state += (parameter.data_ptr(), parameter._version)  # noqa: SLF001
    known = _prepared.get(network)
    if known is None or known.state != (now := tuple(state)):
        known = _prepared[network] = _prepare(network, tuple(state))
    return known


def _prepare(network: Any, state: tuple[int, ...]) -> Prepared:
    if hasattr(network, "patch_size"):
        entrance = [
            pack(network.patch.weight.flatten(1), None),
            pack(network.point.weight.flatten(1), network.point.bias),
        ]
        mixer = network.out
    else:
        first = network.x_embedder if isinstance(network.x_embedder, nn.Linear) else network.x_embedder[0]
        entrance = [pack(first.weight, first.bias)]
        mixer = None if first is network.x_embedder else network.x_embedder[1]
    return Prepared(
        state,
        entrance,
        [_mixer_step(block) for block in mixer.blocks] if isinstance(mixer, Mixer) else [],
        [_step(block, network.int8) for block in network.blocks],
        None if network.ffn.norm is None else network.ffn.norm.weight.float(),
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
        w12=lay_out(*_in_turns(mlp.w12.weight, mlp.w12.bias)),
        w3=lay_out(F.pad(mlp.w3.weight, (0, -mlp.w3.in_features % LANES)), mlp.w3.bias),
    )


def _mixer_step(block: nn.Module) -> MixerStep:
    over, along = block.tok_mixer.mix, block.chn_mixer.mix
    channels = along[0].in_features
    return MixerStep(
        norm1=_scale(block.norm1),
        tokens1=_pack_tokens(over[0]),
        tokens2=_pack_tokens(over[2]),
        alpha1=float(block.alpha1),
        norm2=_scale(block.norm2),
        channels1=pack(along[0].weight, along[0].bias),
        channels2=pack(along[2].weight, along[2].bias),
        alpha2=block.alpha2.float().expand(channels).contiguous(),
    )


def _scale(norm: nn.Module) -> Tensor:
    return norm.weight.detach().float()


def pack(weight: Tensor, bias: Tensor | None) -> Linear:
    """Lay out a linear in bfloat16; an odd number of inputs gets one more, which is to be zero.

    Args:
        weight: (columns, inputs).
        bias: (columns,) or None.
    """
    columns, inner = weight.shape[0], _up(weight.shape[1], 2)
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


def _in_turns(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The linear to [a | b] with its outputs in turns, 16 of a and 16 of b, zeros beyond the last of each."""
    beyond, inputs = -(len(weight) // 2) % LANES, weight.shape[1]
    halves = F.pad(weight.unflatten(0, (2, -1)), (0, 0, 0, beyond))  # (2, h, inputs)
    turns = halves.reshape(2, -1, LANES, inputs).transpose(0, 1).reshape(-1, inputs)
    return turns, F.pad(bias.unflatten(0, (2, -1)), (0, beyond)).reshape(2, -1, LANES).transpose(0, 1).reshape(-1)


def _pack_tokens(layer: nn.Linear) -> Tokens:
    tokens = layer.in_features
    beyond = _up(tokens, LANES) - tokens
    weight = F.pad(layer.weight.detach().bfloat16(), (0, beyond, 0, beyond)).contiguous()
    return Tokens(weight, F.pad(layer.bias.detach().float(), (0, beyond)))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
