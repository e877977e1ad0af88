"""Encoder and Decoder: plain vision transformers between images and latents (section 3 of the method).

Shapes: B batch, C = 3 channels, H = W image size, p patch size, G = H / p grid, N = G^2 tokens, D width, d token
channels, k in-context tokens. Images are in [-1, 1] here. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from spherectl.model import fast, fused
from spherectl.model.geometry import spherify
from spherectl.model.layers import Block, Mixer, Modulation, OutputLinear, position_embedding, rotary_table

CHANNELS = 3
CONV_HEAD_CHANNELS = 32

# Modulations of so many classes are computed in one call of this shape, whatever the batch asks for: a product's last
# bits may depend on its number of rows, and an image must not depend on its neighbours.
CLASSES_PER_CALL = 16
CACHED_CALLS = 16


@functools.lru_cache(maxsize=32)
def _rotary(grid: int, head_width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return rotary_table(grid, head_width).to(device, dtype)


def _compute_dtype(attention: Any) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else attention.qkv.weight.dtype


class ClassEmbedding(nn.Module):
    """Embeddings of the classes, and of the null class in the last row."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        # Not nn.Embedding's own normal_: on the meta device it would load torch's compiler, which takes a second.
        start = torch.empty(num_classes + 1, width).uniform_(-1, 1)
        self.embedding_table = nn.Embedding.from_pretrained(start, freeze=False)

    def forward(self, y: Tensor) -> Tensor:
        """(B,) int64 -> (B, D); or weights of all classes, (B, num_classes + 1) floats, to their mixed embeddings."""
        table: Tensor = self.embedding_table.weight
        return y.to(table.dtype) @ table if y.is_floating_point() else F.embedding(y, table)


class Trunk(nn.Module):
    """What Encoder and Decoder share: position embedding, class, in-context tokens, blocks, output linear.

    Args:
        grid: G, tokens along one side.
        width: D.
        blocks: number of transformer blocks.
        heads: attention heads.
        num_classes: 0 for an unconditional network; labels run to `num_classes`, which is the null class.
        in_context_tokens: k extra tokens put in front from block `in_context_start` on.
        in_context_start: counts from 0.
        out_channels: channels of the output linear.
        spherify_blocks: put the image tokens on the sphere after every block but the last.
    """

    def __init__(
        self,
        *,
        grid: int,
        width: int,
        blocks: int,
        heads: int,
        num_classes: int,
        in_context_tokens: int,
        in_context_start: int,
        out_channels: int,
        spherify_blocks: bool = False,
    ) -> None:
        super().__init__()
        conditional = num_classes > 0
        self.grid, self.width, self.heads, self.num_classes = grid, width, heads, num_classes
        self.in_context_tokens, self.in_context_start = in_context_tokens, in_context_start
        self.spherify_blocks = spherify_blocks
        self.pos_embed = nn.Parameter(position_embedding(grid, width), requires_grad=False)
        self.y_embedder = ClassEmbedding(num_classes, width) if conditional else None
        if in_context_tokens:
            self.inctx_pos_embed = nn.Parameter(torch.zeros(1, in_context_tokens, width))
            if not conditional:
                self.inctx_embed = nn.Parameter(torch.zeros(1, in_context_tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads, conditional) for _ in range(blocks))
        self.ffn = OutputLinear(width, out_channels, conditional)
        self.int8 = False  # whether `fast.py` computes the blocks' products in int8
        self.by_modules = False  # whether gradients go through the blocks as modules, for whoever wraps these
        self.checkpointing = False  # whether a block's activations are computed again for its gradient, not kept
        self.register_buffer("kept_rotary", None, persistent=False)  # for a compiled network, which sees no cache
        self._tables: dict[int, Tensor] = {}
        self._tables_of: tuple[object, ...] = ()

    def run(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Tokens (B, N, D) and labels (B,) -> (B, N, out_channels)."""
        modulations = self.modulations(y)
        table = self.rotary(x.device, x.dtype)
        x, extra = x + self.pos_embed, 0  # (B, N, D)
        for i, block in enumerate(self.blocks):
            if self.in_context_tokens and i == self.in_context_start:
                front = self.in_context(y, x.shape[0])  # (B, k, D)
                x, extra = torch.cat((front, x), dim=1), self.in_context_tokens  # (B, k + N, D)
            x = self.step(block, x, table, modulations[i])  # (B, k + N, D)
            if self.spherify_blocks and i + 1 < len(self.blocks):
                x = torch.cat((x[:, :extra], spherify(x[:, extra:]).to(x.dtype)), dim=1)  # (B, k + N, D)
        return self.ffn(x[:, extra:], modulations[-1])  # type: ignore[no-any-return]  # (B, N, out_channels)

    def step(self, block: nn.Module, x: Tensor, table: Tensor, modulation: Tensor | None) -> Tensor:
        """One block, (B, M, D) -> (B, M, D)."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return block(x, table, modulation)  # type: ignore[no-any-return]
        again = torch.utils.checkpoint.checkpoint
        return again(block, x, table, modulation, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]

    def in_context(self, y: Tensor | None, batch: int) -> Tensor:
        """The k tokens in front, (B, k, D): the class repeated, or learned tokens, plus learned positions."""
        if self.y_embedder is None:
            return (self.inctx_embed + self.inctx_pos_embed).expand(batch, -1, -1)
        return self.y_embedder(self._labels(y))[:, None] + self.inctx_pos_embed  # type: ignore[no-any-return]

    def path(self, device: torch.device, dtype: torch.dtype | None = None) -> Literal["torch", "fused", "fast"]:
        """What runs this network here and now: the modules below, or the kernels with or without gradients.

        Args:
            device: of its input.
            dtype: to compute in; None: the weights', or autocast's.

        The kernels leave out what no published model has.
        """
        plain = device.type == "cpu" and not self.in_context_tokens and not self.spherify_blocks
        if not plain or (self.by_modules and torch.is_grad_enabled()):
            return "torch"
        attention: Any = self.blocks[0].attn
        if not fused.fits(dtype or _compute_dtype(attention), self.grid**2, attention):
            return "torch"
        return "fused" if torch.is_grad_enabled() else "fast"

    def rotary(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(2, N, K) cosines and sines, kept from call to call."""
        if isinstance(self.kept_rotary, Tensor):
            return self.kept_rotary
        return _rotary(self.grid, self.width // self.heads, device, dtype)

    def modulations(self, y: Tensor | None) -> Sequence[Tensor | None]:
        """Modulation of every block and of the output linear: (B, 6 D) each and (B, 2 D), or None.

        With gradients, and in a compiled network, each is computed from the labels' embeddings; else looked up in a
        table of the classes.
        """
        if self.y_embedder is None:
            return [None] * (len(self.blocks) + 1)
        y = self._labels(y)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            c = self.y_embedder(y)  # (B, D)
            return [layer(c) for layer in self._modulation_layers()]
        sizes = [layer[1].out_features for layer in self._modulation_layers()]
        return self.class_rows(y, self._kept_tables()).split(sizes, dim=1)  # type: ignore[no-any-return]

    def class_rows(self, y: Tensor | None, tables: dict[int, Tensor]) -> Tensor:
        """Modulations of labels (B,) side by side, (B, 6 D blocks + 2 D), looked up in tables and added to them.

        Args:
            y: labels; or weights of all classes, (B, num_classes + 1), whose modulations are computed row by row.
            tables: of 16 classes each, by class // 16; of these weights.
        """
        if y is not None and y.is_floating_point():
            assert self.y_embedder is not None
            rows = self.y_embedder(y).split(1)  # (1, D) each, so that a row's bits are its own
            return torch.cat([torch.cat([layer(c) for layer in self._modulation_layers()], dim=1) for c in rows])
        chosen = [divmod(label, CLASSES_PER_CALL) for label in self._labels(y).tolist()]
        calls = sorted({call for call, _ in chosen})
        for call in calls:
            if call not in tables:
                while len(tables) >= max(CACHED_CALLS, len(calls)):
                    del tables[next(one for one in tables if one not in calls)]
                tables[call] = self._class_table(call)
        places = torch.tensor([calls.index(call) * CLASSES_PER_CALL + row for call, row in chosen])
        return torch.cat([tables[call] for call in calls])[places.to(tables[calls[0]].device)]

    def _labels(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise ValueError("a class-conditional network needs labels; the null class is num_classes")
        return y

    def _modulation_layers(self) -> list[Modulation]:
        layers = [block.adaLN_modulation for block in [*self.blocks, self.ffn]]
        return [layer for layer in layers if layer is not None]

    def _kept_tables(self) -> dict[int, Tensor]:
        """The tables so far; none after a weight, the device or the dtype changed."""
        assert self.y_embedder is not None
        parameters = [*self.y_embedder.parameters(), *(p for m in self._modulation_layers() for p in m.parameters())]
        device = parameters[0].device.type
        state = (torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),)
        key = (*state, *((p.data_ptr(), p._version, p.dtype) for p in parameters))  # noqa: SLF001
        if key != self._tables_of:
            self._tables.clear()
            self._tables_of = key
        return self._tables

    def _class_table(self, call: int) -> Tensor:
        """Modulations of classes 16 call .. 16 call + 15 side by side, (16, 6 D blocks + 2 D)."""
        assert self.y_embedder is not None
        device = self.pos_embed.device
        classes = torch.arange(call * CLASSES_PER_CALL, (call + 1) * CLASSES_PER_CALL, device=device)
        c = self.y_embedder(classes.clamp(max=self.num_classes))  # (16, D)
        return torch.cat([layer(c) for layer in self._modulation_layers()], dim=1)


class Encoder(Trunk):
    """Images (B, 3, H, W) in [-1, 1] to latents (B, N, d), not yet on the sphere."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        token_channels: int,
        width: int,
        blocks: int,
        heads: int,
        num_classes: int = 0,
        in_context_tokens: int = 0,
        in_context_start: int = 0,
        mixer_blocks: int = 0,
        mixer_norm_scale: bool = True,
    ) -> None:
        grid = image_size // patch_size
        super().__init__(
            grid=grid,
            width=width,
            blocks=blocks,
            heads=heads,
            num_classes=num_classes,
            in_context_tokens=in_context_tokens,
            in_context_start=in_context_start,
            out_channels=token_channels,
        )
        self.patch_size = patch_size
        self.x_embedder = nn.Sequential(
            nn.Conv2d(CHANNELS, width, patch_size, patch_size, bias=False), nn.Conv2d(width, width, 1)
        )
        self.out = Mixer(grid**2, token_channels, mixer_blocks, mixer_norm_scale) if mixer_blocks else nn.Identity()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, N, d)."""
        match self.path(x.device):
            case "fast":
                return fast.encode(self, x, y)
            case "fused":
                return fused.encode(self, x, y)
        out: Tensor = self.out(self.run(self.embed(x), y))  # (B, N, d)
        return out

    def embed(self, x: Tensor) -> Tensor:
        """Both convolutions as products over patches, (B, N, D): they do not overlap, and products keep rows apart."""
        x = F.linear(self.patches(x).to(self.patch.weight.dtype), self.patch.weight.flatten(1))  # (B, N, D)
        return F.linear(x, self.point.weight.flatten(1), self.point.bias)  # (B, N, D)

    def patches(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, 3 p^2), in the order channel, row, column."""
        p, g = self.patch_size, self.grid
        return x.reshape(-1, CHANNELS, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], g * g, -1)

    @property
    def patch(self) -> nn.Conv2d:
        """The p x p convolution of stride p."""
        return self.x_embedder[0]  # type: ignore[return-value]

    @property
    def point(self) -> nn.Conv2d:
        """The 1 x 1 convolution after it."""
        return self.x_embedder[1]  # type: ignore[return-value]


class Decoder(Trunk):
    """Points of the sphere (B, N, d) to images (B, 3, H, W) in [-1, 1]."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        token_channels: int,
        width: int,
        blocks: int,
        heads: int,
        num_classes: int = 0,
        in_context_tokens: int = 0,
        in_context_start: int = 0,
        mixer_blocks: int = 0,
        mixer_norm_scale: bool = True,
        pixel_head: str = "linear",
        spherify_blocks: bool = False,
    ) -> None:
        grid = image_size // patch_size
        super().__init__(
            grid=grid,
            width=width,
            blocks=blocks,
            heads=heads,
            num_classes=num_classes,
            in_context_tokens=in_context_tokens,
            in_context_start=in_context_start,
            out_channels=CHANNELS * patch_size**2 if pixel_head == "linear" else CONV_HEAD_CHANNELS,
            spherify_blocks=spherify_blocks,
        )
        linear = nn.Linear(token_channels, width)
        self.x_embedder: nn.Module = linear
        if mixer_blocks:
            self.x_embedder = nn.Sequential(linear, Mixer(grid**2, width, mixer_blocks, mixer_norm_scale))
        self.out = PixelHead(pixel_head, grid, patch_size)

    def forward(self, v: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, N, d), (B,) -> (B, 3, H, W)."""
        match self.path(v.device):
            case "fast":
                return fast.decode(self, v, y)
            case "fused":
                return fused.decode(self, v, y)
        v = v.to(self.pos_embed.dtype)
        out: Tensor = self.out(self.run(self.x_embedder(v), y))  # (B, 3, H, W)
        return out


class ToPixels(nn.Module):
    """Tokens (B, N, c q^2) to a map (B, c, G q, G q), features in the order channel, row, column."""

    def __init__(self, grid: int, side: int) -> None:
        super().__init__()
        self.grid, self.side = grid, side

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, c q^2) -> (B, c, G q, G q)."""
        g, q = self.grid, self.side
        x = x.reshape(x.shape[0], g, g, -1, q, q).permute(0, 3, 1, 4, 2, 5)  # (B, c, G, q, G, q)
        return x.reshape(x.shape[0], -1, g * q, g * q)


class PixelHead(nn.Sequential):
    """Tokens to pixels in [-1, 1]: `linear` unfolds patches, `conv` upsamples a map of 32 channels."""

    def __init__(self, kind: str, grid: int, patch_size: int) -> None:
        if kind == "linear":
            conv = nn.Conv2d(CHANNELS, CHANNELS, 3)
            parts = [ToPixels(grid, patch_size), nn.ReflectionPad2d(1), conv, nn.Tanh()]
        else:
            c = CONV_HEAD_CHANNELS
            up = nn.ConvTranspose2d(c, CHANNELS, patch_size + 2, patch_size, padding=1)
            parts = [ToPixels(grid, 1), nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.SiLU(), up, nn.Tanh()]
        super().__init__(*parts)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, K) -> (B, 3, H, W). On CPUs without gradients one image at a time, so that its bits are its own."""
        if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
            return self._apply_parts(x)
        return torch.cat([self._apply_parts(one) for one in x.split(1)])

    def _apply_parts(self, x: Tensor) -> Tensor:
        for part in self:
            if isinstance(part, nn.Conv2d) and self.channels_last(x.device):
                x = x.contiguous(memory_format=torch.channels_last)
            x = part(x)
        return x

    def channels_last(self, device: torch.device) -> bool:
        """Whether the first convolution sees channels last: tensor cores read its 32 channels so; 3 are too few."""
        return device.type == "cuda" and self.kind == "conv"
