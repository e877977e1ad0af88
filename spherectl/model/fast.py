"""Both networks without gradients on the compiled kernels: bfloat16 on a CPU with AVX512-BF16.

The mathematics is the same as in `vit.py` and `layers.py`. Weights are packed for the products once. The residual
stream stays in float32, and the inputs of products are bfloat16. An image's bits depend neither on the batch nor on the
number of threads.

Shapes: B batch, N tokens, D width, d token channels, c channels of a mixer, h hidden width of SwiGLU rounded up to 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from spherectl.model import kernels
from spherectl.model.kernels import PLAIN, RESIDUAL, SILU, SWIGLU, even
from spherectl.model.layers import NORM_EPSILON, Mixer, RMSNorm
from spherectl.model.packing import Linear, Prepared, prepared

FLOAT_BYTES = 4


def encode(network: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """`Encoder.forward`: (B, 3, H, W), (B,) -> (B, N, d) float32."""
    ready = prepared(network)
    patch, point = ready.entrance
    tokens = linear(patch, even(network.patches(x).bfloat16()), PLAIN)  # (B, N, D)
    z = linear(ready.output, _blocks(network, ready, _add(point, tokens, network.pos_embed), y), RESIDUAL)  # (B, N, d)
    return _mix(ready, z, network.out.norm) if isinstance(network.out, Mixer) else z


def decode(network: Any, v: Tensor, y: Tensor | None) -> Tensor:
    """`Decoder.forward`: (B, N, d), (B,) -> (B, 3, H, W) float32."""
    ready, pos = prepared(network), network.pos_embed
    (entrance,) = ready.entrance
    v = even(v.bfloat16())
    if ready.mixer:
        mixer: Any = network.x_embedder
        x = _mix(ready, linear(entrance, v, RESIDUAL), mixer[1].norm) + pos.float()  # (B, N, D)
    else:
        x = _add(entrance, v, pos)  # (B, N, D)
    tokens = linear(ready.output, _blocks(network, ready, x, y), PLAIN)  # (B, N, K)
    return _pixels(network.out, tokens)


def _blocks(network: Any, ready: Prepared, x: Tensor, y: Tensor | None) -> Tensor:
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
    norm(ready.norm, next(parts), next(parts))
    result: Tensor = normed
    return result


def linear(
    layer: Linear,
    x: Tensor,
    kind: int,
    out: Tensor | None = None,
    gate: Tensor | int | None = None,
    gate_stride: int = 0,
) -> Tensor:
    """A product, and what follows it in the same pass.

    Args:
        layer: packed.
        x: (B, N, inner) bfloat16.
        kind: PLAIN, SILU, SWIGLU: to bfloat16; RESIDUAL: added to float32.
        out: the tensor to write to; None: a new one, of zeros for RESIDUAL.
        gate: rows of a table, by tensor or address, or None; only with RESIDUAL.
        gate_stride: floats between two images' rows.
    """
    rows, columns = x.numel() // layer.inner, layer.columns
    if out is None:
        shape = (*x.shape[:-1], columns // 2 if kind == SWIGLU else columns)
        out = torch.zeros(shape) if kind == RESIDUAL else torch.empty(shape, dtype=torch.bfloat16)
    into = (layer.bias, gate, gate_stride, x.shape[1], out)
    if layer.scales is None:
        kernels.call("linear_forward", rows, layer.inner, columns, kind, x, layer.packed_weight, *into)
    else:
        quantized, row_scales = torch.empty(x.shape, dtype=torch.uint8), torch.empty(rows)
        kernels.call("bytes_forward", rows, layer.inner, x, quantized, row_scales)
        operands = (quantized, row_scales, layer.packed_weight, layer.scales, layer.zero_points)
        kernels.call("linear_forward_bytes", rows, layer.inner, columns, kind, *operands, *into)
    return out


def _add(layer: Linear, x: Tensor, start: Tensor) -> Tensor:
    """The linear of (B, N, inner) added to (1, N, columns), float32."""
    return linear(layer, x, RESIDUAL, start.float().expand(len(x), -1, -1).clone(memory_format=torch.contiguous_format))


def _mix(ready: Prepared, x: Tensor, last: RMSNorm) -> Tensor:
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
        linear(step.channels2, linear(step.channels1, even(y), SILU, wide), RESIDUAL, x, step.alpha2)
    out: Tensor = last(x)
    return out


def _pixels(head: Any, tokens: Tensor) -> Tensor:
    """The pixel head: (B, N, K) bfloat16 -> (B, 3, H, W) float32 in [-1, 1]."""
    if head.kind != "linear":
        out: Tensor = head(tokens).float()
        return out
    unfold, _, conv, _ = head
    side = unfold.grid * unfold.side
    out = torch.empty(len(tokens), conv.out_channels, side, side)  # (B, 3, H, W)
    weight, bias = conv.weight.float().contiguous(), conv.bias.float()
    kernels.call("pixels_forward", len(tokens), unfold.grid, unfold.side, tokens, weight, bias, out)
    return out


def _modulations(network: Any, ready: Prepared, y: Tensor | None) -> Tensor | None:
    """All modulations of (B,) labels side by side, (B, 6 D blocks + 2 D) float32."""
    if network.y_embedder is None:
        return None
    rows: Tensor = network.class_rows(y, ready.modulations)
    return rows.float()


def _parts(modulation: Tensor | None, width: int) -> Iterator[int | None]:
    """Addresses of shift, scale, gate, ..., each D columns of the table."""
    if modulation is None:
        while True:
            yield None
    start = modulation.data_ptr()
    yield from range(start, start + FLOAT_BYTES * modulation.shape[1], FLOAT_BYTES * width)
