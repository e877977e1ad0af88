"""Parts of the two networks: norm, SwiGLU, rotary embedding, modulation, mixer (section 3 of the method).

Shapes: B batch, N tokens, D width, H heads, K head width, c channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherectl.model import attention as attention_backends
from spherectl.model.attention import Backend
from spherectl.model.geometry import at_least_float32

NORM_EPSILON = 1e-6
FREQUENCY_BASE = 10000.0


# x / sqrt(mean(x^2) + eps) * weight
class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, its statistics never in less than float32."""

    def __init__(self, width: int, scale: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width) in the dtype of `x`."""
        wide = at_least_float32(x)
        weight = None if self.weight is None else self.weight.to(wide.dtype)
        return F.rms_norm(wide, wide.shape[-1:], weight, NORM_EPSILON).to(x.dtype)


# x (1 + scale) + shift
def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale tokens (B, N, D) by (B, D) each."""
    return torch.addcmul(x + shift[:, None], x, scale[:, None])


# W3 (silu(a) * b), [a | b] = W12 x, hidden width floor(8 D / 3)
class SwiGLU(nn.Module):
    """Gated feed-forward part of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width * 8 // 3
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        a, b = self.w12(x).chunk(2, dim=-1)  # (B, N, h) each
        out: Tensor = self.w3(F.silu(a) * b)  # (B, N, D)
        return out


def rotary_table(grid: int, head_width: int) -> Tensor:
    """Cosines and sines of the axial rotary embedding.

    The first half of a head is rotated by the row index, the second half by the column index, at frequencies
    10000^(-2i/h2), h2 = K/2, each for two neighbouring entries. Always computed in float32.

    Returns:
        (2, N, K) float32: cosines, each twice; sines, each as -sin and +sin, as `rotate` needs them.
    """
    half = head_width // 2
    frequencies = FREQUENCY_BASE ** (-torch.arange(0, half, 2, dtype=torch.float32, device="cpu") / half)  # (K/4,)
    angles = torch.arange(grid, dtype=torch.float32, device="cpu")[:, None] * frequencies  # (G, K/4)
    rows = angles[:, None].expand(grid, grid, -1)  # (G, G, K/4)
    columns = angles[None, :].expand(grid, grid, -1)  # (G, G, K/4)
    both = torch.cat((rows, columns), dim=-1).flatten(0, 1)  # (N, K/2)
    cos, sin = both.cos(), both.sin()
    return torch.stack((torch.stack((cos, cos), -1).flatten(-2), torch.stack((-sin, sin), -1).flatten(-2)))


# (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)
def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the last N of M tokens; in-context tokens, which come first, stay as they are.

    Args:
        x: (B, M, ..., K), M >= N.
        table: (2, N, K) from `rotary_table`, in the dtype of `x`.
    """
    tokens = table.shape[1]
    extra, x = x[:, : x.shape[1] - tokens], x[:, x.shape[1] - tokens :]
    between = [1] * (x.dim() - 3)
    cos, sin = table.reshape(2, tokens, *between, -1)  # (N, 1.., K) each
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)  # (x1, x0), (x3, x2), ...
    rotated = torch.addcmul(x * cos, swapped, sin)  # (B, N, ..., K)
    return torch.cat((extra, rotated), dim=1) if extra.shape[1] else rotated


class Attention(nn.Module):
    """Multi-head self-attention with rotary embedding on queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.backend: Backend | None = None  # None: chosen for each situation
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, M, D) -> (B, M, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, M, 3, H, K)
        rotated = rotate(qkv[:, :, :2], table.to(qkv.dtype))  # (B, M, 2, H, K)
        q, k, v = rotated[:, :, 0], rotated[:, :, 1], qkv[:, :, 2]  # (B, M, H, K) each
        backend = self.backend or attention_backends.choose(
            x.device, v.dtype, x.shape[1], q.shape[-1], torch.is_grad_enabled()
        )
        out: Tensor = self.proj(attention_backends.attention(q, k, v, backend).flatten(2))  # (B, M, D)
        return out


class Modulation(nn.Sequential):
    """adaLN: SiLU, then a linear from the class embedding to `parts` vectors of the width."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))


class Block(nn.Module):
    """Pre-norm transformer block; in conditional models shifted, scaled and gated by the class."""

    def __init__(self, width: int, heads: int, conditional: bool) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width)
        self.adaLN_modulation = Modulation(width, 6) if conditional else None

    def forward(self, x: Tensor, table: Tensor, modulation: Tensor | None) -> Tensor:
        """(B, M, D) -> (B, M, D); `modulation` is (B, 6 D): shift, scale, gate for attention, then for the ffn."""
        if modulation is None:
            x = x + self.attn(self.norm1(x), table)
            out: Tensor = x + self.mlp(self.norm2(x))
            return out
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)  # (B, D) each
        x = torch.addcmul(x, gate1[:, None], self.attn(modulate(self.norm1(x), shift1, scale1), table))  # (B, M, D)
        return torch.addcmul(x, gate2[:, None], self.mlp(modulate(self.norm2(x), shift2, scale2)))  # (B, M, D)


class OutputLinear(nn.Module):
    """Last linear of a trunk; in conditional models after a norm that the class shifts and scales."""

    def __init__(self, width: int, channels: int, conditional: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(width) if conditional else None
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = Modulation(width, 2) if conditional else None

    def forward(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, N, channels); `modulation` is (B, 2 D): shift, scale."""
        if self.norm is not None and modulation is not None:
            x = modulate(self.norm(x), *modulation.chunk(2, dim=-1))  # (B, N, D)
        out: Tensor = self.linear(x)  # (B, N, channels)
        return out


class TwoLayer(nn.Module):
    """Linear, SiLU, linear over the last axis: what a mixer block applies to tokens and to channels."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        out: Tensor = self.mix(x)
        return out


# x += a1 T(norm(x)); x += a2 M(norm(x)); T over tokens, M over channels, a1 and a2 start at 0
class MixerBlock(nn.Module):
    """MLP-Mixer block with learned scalar gates."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(channels)
        self.tok_mixer = TwoLayer(tokens, tokens)
        self.norm2 = RMSNorm(channels)
        self.chn_mixer = TwoLayer(channels, 2 * channels)
        self.alpha1 = nn.Parameter(torch.zeros(1))
        self.alpha2 = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, c) -> (B, N, c)."""
        x = x + self.alpha1 * self.tok_mixer(self.norm1(x).mT).mT  # (B, N, c)
        out: Tensor = x + self.alpha2 * self.chn_mixer(self.norm2(x))  # (B, N, c)
        return out


class Mixer(nn.Module):
    """MLP-Mixer blocks and one last norm, with or without a learned scale."""

    def __init__(self, tokens: int, channels: int, blocks: int, norm_scale: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MixerBlock(tokens, channels) for _ in range(blocks))
        self.norm = RMSNorm(channels, norm_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, c) -> (B, N, c)."""
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


def position_embedding(grid: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine embedding (1, N, D): width/2 features of the column index, then width/2 of the row index.

    Each half is [sin | cos] at frequencies 10000^(-2i/(width/2)), i = 0..width/4-1. One axis is computed on the CPU
    and moved to the default device: on the meta device `arange` would load torch's compiler, which takes a second.
    """
    half = width // 2
    exponents = torch.arange(half // 2, dtype=torch.float64, device="cpu") / half  # (D/4,)
    frequencies = FREQUENCY_BASE ** (-2.0 * exponents)  # (D/4,)
    angles = torch.arange(grid, dtype=torch.float64, device="cpu")[:, None] * frequencies  # (G, D/4)
    axis = torch.cat((angles.sin(), angles.cos()), dim=-1).float().to(torch.get_default_device())  # (G, D/2)
    embedding = torch.empty(grid, grid, width, dtype=torch.float32)
    embedding[..., :half], embedding[..., half:] = axis[None, :], axis[:, None]
    return embedding.reshape(1, grid * grid, width)  # (1, N, D)
