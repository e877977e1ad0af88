"""Both networks with gradients through the compiled kernels: bfloat16 on a CPU with AVX512-BF16.

The mathematics is the same as in `layers.py`, in another grouping: each residual addition is done with the norm after
it, so that a block is four products and four passes over memory between them. The residual stream stays in float32; the
inputs of products are bfloat16.

Shapes: B batch, N tokens, D width, H heads, K head width, h hidden width of SwiGLU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl.model import kernels
from spherectl.model.kernels import LANES, PANEL, PLAIN, ROWS, even, rounded_up
from spherectl.model.layers import NORM_EPSILON, Attention, Mixer

BACKWARD_TOKENS = 1024  # above it the (N, N) weights of a head no longer stay in a processor's cache


def fits(dtype: torch.dtype, tokens: int, attention: Attention) -> bool:
    """Whether a network of `tokens` tokens can use the kernels on the CPU: in bfloat16, where there are any.

    A recipe that asks for an attention backend gets that backend, on torch alone.
    """
    return (
        dtype == torch.bfloat16
        and attention.backend is None
        and tokens >= ROWS  # one tile of a product at least
        and not (torch.is_grad_enabled() and tokens > BACKWARD_TOKENS)
        and not torch.compiler.is_compiling()
        and kernels.available()
    )


def encode(network: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """`Encoder.forward`: (B, 3, H, W), (B,) -> (B, N, d) bfloat16."""
    with torch.autocast("cpu", enabled=False):
        patch, point, bias = network.patch.weight.flatten(1), network.point.weight.flatten(1), network.point.bias
        tokens = _linear(network.patches(x).bfloat16(), patch, None)  # (B, N, D)
        tokens = _linear(tokens, point, bias)  # (B, N, D)
        z = _blocks(network, tokens, y)  # (B, N, d)
        return mix(z, network.out) if isinstance(network.out, Mixer) else z


def decode(network: Any, v: Tensor, y: Tensor | None) -> Tensor:
    """`Decoder.forward`: (B, N, d), (B,) -> (B, 3, H, W) bfloat16."""
    with torch.autocast("cpu", enabled=False):
        entrance: Any = network.x_embedder
        if isinstance(entrance, nn.Linear):
            tokens = linear(entrance, v.bfloat16())  # (B, N, D)
        else:
            tokens = mix(linear(entrance[0], v.bfloat16()), entrance[1])  # (B, N, D)
        tokens = _blocks(network, tokens, y)  # (B, N, K)
    return network.out(tokens)  # type: ignore[no-any-return]


def _blocks(network: Any, x: Tensor, y: Tensor | None) -> Tensor:
    """Position embedding, blocks, last norm and output linear: (B, N, D), (B,) -> (B, N, channels) bfloat16."""
    modulations = network.modulations(y)
    table = network.rotary(x.device, torch.float32)
    x, delta, gate = x.float() + network.pos_embed.float(), None, None  # (B, N, D)
    blocks: Any = network.blocks
    for block, modulation in zip(blocks, modulations[:-1], strict=True):
        shift1, scale1, gate1, shift2, scale2, gate2 = _parts(modulation, 6)  # (B, D) each
        x, y = add_norm(x, delta, gate, block.norm1.weight, shift1, scale1)  # (B, N, D) twice
        y = attention(linear(block.attn.qkv, y), table, block.attn.heads)  # (B, N, D)
        x, y = add_norm(x, linear(block.attn.proj, y), gate1, block.norm2.weight, shift2, scale2)
        delta, gate = linear(block.mlp.w3, swiglu(linear(block.mlp.w12, y))), gate2  # (B, N, D)
    if network.ffn.norm is None:
        return linear(network.ffn.linear, (x if delta is None else x + delta).bfloat16())  # (B, N, channels)
    shift, scale = _parts(modulations[-1], 2)
    y = add_norm(x, delta, gate, network.ffn.norm.weight, shift, scale)[1]  # (B, N, D)
    return linear(network.ffn.linear, y)  # (B, N, channels)


def mix(x: Tensor, mixer: Mixer) -> Tensor:
    """MLP-Mixer blocks and their last norm: (B, N, c) -> (B, N, c) bfloat16."""
    x, delta, gate = x.float().contiguous(), None, None
    blocks: Any = mixer.blocks
    for block in blocks:
        x, y = add_norm(x, delta, gate, block.norm1.weight, None, None)  # (B, N, c) twice
        first, second = block.tok_mixer.mix[0], block.tok_mixer.mix[2]
        delta = _over_tokens(second, silu(_over_tokens(first, y)))  # (B, N, c)
        x, y = add_norm(x, delta, _expanded(block.alpha1, x), block.norm2.weight, None, None)
        delta = linear(block.chn_mixer.mix[2], silu(linear(block.chn_mixer.mix[0], y)))  # (B, N, c)
        gate = _expanded(block.alpha2, x)
    return add_norm(x, delta, gate, mixer.norm.weight, None, None)[1]


def _over_tokens(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear over the tokens of (B, N, c)."""
    weight, bias = layer.weight.bfloat16(), layer.bias.bfloat16()
    return torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x)


def _expanded(alpha: Tensor, x: Tensor) -> Tensor:
    """One learned number as (B, c) float32."""
    return alpha.float().expand(x.shape[0], x.shape[-1]).contiguous()


def _parts(modulation: Tensor | None, parts: int) -> Sequence[Tensor | None]:
    return [None] * parts if modulation is None else modulation.float().chunk(parts, dim=-1)


# y = x W^T + b; dx = dy W, dW = dy^T x, db = sums of dy
def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer on bfloat16 (B, N, inputs or more); (B, N, outputs)."""
    return _linear(x, layer.weight, layer.bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not kernels.products_pay():
        beyond = x.shape[-1] - weight.shape[1]
        return F.linear(x, F.pad(weight, (0, beyond)).bfloat16(), None if bias is None else bias.bfloat16())
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return _Linear.apply(even(x), weight.float(), bias.float())  # type: ignore[no-any-return]


def _product(x: Tensor, weight: Tensor, bias: Tensor, transposed: bool, columns: int) -> Tensor:
    """x W^T + b, or x W if `transposed`; `columns` may be more than the weight has, of zeros."""
    outputs, inputs = weight.shape
    inner = x.shape[-1]
    packed_weight = torch.empty(rounded_up(columns, PANEL) * inner // 2, dtype=torch.int32)
    kernels.call("pack_forward", outputs, inputs, inner, transposed, weight, packed_weight)
    y = x.new_empty(*x.shape[:-1], columns)
    rows = x.numel() // inner
    kernels.call("linear_forward", rows, inner, columns, PLAIN, x, packed_weight, bias, None, 0, x.shape[1], y)
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight.contiguous(), bias, False, len(weight))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (outputs, inputs), inner = weight.shape, x.shape[-1]
        dy = dy.contiguous()
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _product(even(dy), weight.contiguous(), weight.new_zeros(inner), True, inner)
        dweight, dbias = torch.empty_like(weight), weight.new_empty(outputs)
        kernels.call("linear_backward", x.numel() // inner, inputs, inner, outputs, x, dy, dweight, dbias)
        return dx, dweight, dbias


# s = x + gate delta; y = s / sqrt(mean(s^2) + eps) weight (1 + scale) + shift
def add_norm(
    x: Tensor,
    delta: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Residual, norm and modulation.

    Args:
        x: (B, N, D) float32.
        delta: (B, N, D) bfloat16, or None for nothing to add.
        gate, shift, scale: (B, D) float32, or None.
        weight: (D,) of the norm, or None.

    Returns:
        s float32 and y bfloat16, (B, N, D) each.
    """
    weight = None if weight is None else weight.float()
    return _AddNorm.apply(x, delta, gate, weight, shift, scale)  # type: ignore[no-any-return]


def _stride(rows: Tensor | None) -> int:
    """Floats between the rows of (B, D), which may be columns of a wider table."""
    return 0 if rows is None else rows.stride(0)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor | None,
        gate: Tensor | None,
        weight: Tensor | None,
        shift: Tensor | None,
        scale: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        total = x if delta is None else torch.empty_like(x)
        inverse = x.new_empty(x.shape[:2])
        tokens, width = x.shape[1:]
        y = torch.empty(x.shape, dtype=torch.bfloat16)
        kernels.call(
            *("norm_forward", x.numel() // width, width, tokens, NORM_EPSILON, x, delta, gate, _stride(gate)),
            *(weight, shift, scale, _stride(scale), total, y, inverse),
        )
        ctx.save_for_backward(total, inverse, delta, gate, weight, scale)
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        total, inverse, delta, gate, weight, scale = ctx.saved_tensors
        images, tokens, width = total.shape
        dy = total.new_zeros(total.shape, dtype=torch.bfloat16) if dy is None else dy.contiguous()
        dtotal = None if dtotal is None else dtotal.contiguous()
        dx, ddelta = torch.empty_like(total), None if delta is None else torch.empty_like(delta)
        dgate, dweight, dshift, dscale = (
            None if one is None else total.new_empty(images, width) for one in (gate, weight, scale, scale)
        )
        kernels.call(
            *("norm_backward", images, width, tokens, dy, dtotal, total, inverse, delta, gate, _stride(gate)),
            *(weight, scale, _stride(scale), dx, ddelta, dgate, dweight, dshift, dscale),
        )
        return dx, ddelta, dgate, None if dweight is None else dweight.sum(0), dshift, dscale


# silu(a) b, [a | b] = x
def swiglu(x: Tensor) -> Tensor:
    """(B, N, 2 h) bfloat16 -> (B, N, h rounded up to 16), zero beyond h."""
    return _SwiGLU.apply(x)  # type: ignore[no-any-return]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        hidden = x.shape[-1] // 2
        wide = rounded_up(hidden, LANES)
        y = x.new_empty(*x.shape[:-1], wide)
        kernels.call("swiglu_forward", y.numel() // wide, hidden, wide, x, y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        wide, dx = dy.shape[-1], torch.empty_like(x)
        kernels.call("swiglu_backward", dy.numel() // wide, x.shape[-1] // 2, wide, x, dy.contiguous(), dx)
        return dx


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x) of bfloat16."""
    return _SiLU.apply(x)  # type: ignore[no-any-return]


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        kernels.call("silu_forward", x.numel(), x, y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        kernels.call("silu_backward", x.numel(), x, dy.contiguous(), dx)
        return dx


# softmax(q k^T / sqrt(K)) v, [q | k | v] = x, q and k rotated by the rotary embedding
def attention(x: Tensor, table: Tensor, heads: int) -> Tensor:
    """(B, N, 3 D) bfloat16 -> (B, N, D); `table` (2, N, K) float32."""
    return _Attention.apply(x, table, heads)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, heads: int) -> Tensor:
        images, tokens, width = x.shape[0], x.shape[1], x.shape[2] // 3
        norms = torch.empty(images, heads, tokens)  # logarithms of the rows' sums
        y = x.new_empty(images, tokens, width)
        scale = 1 / math.sqrt(width // heads)
        kernels.call("attention_forward", images, tokens, heads, width // heads, scale, x, table, y, norms)
        ctx.save_for_backward(x, table, y, norms)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x, table, y, norms = ctx.saved_tensors
        (images, heads, tokens), dx = norms.shape, torch.empty_like(x)
        head_width = y.shape[-1] // heads
        kernels.call(
            *("attention_backward", images, tokens, heads, head_width, 1 / math.sqrt(head_width)),
            *(x, table, y, norms, dy.contiguous(), dx),
        )
        return dx, None, None
