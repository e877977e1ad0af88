"""The table [model]: two networks and their sizes."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from spherectl.errors import UsageError
from spherectl.recipe.limits import MAX_CHANNELS, MAX_CLASSES, MAX_IMAGE_SIZE, MAX_IN_CONTEXT, MAX_TOKENS, Mixers
from spherectl.registry import network_problem
from spherectl.shown import quoted
from spherectl.tables import Spec


class Size(NamedTuple):
    """Dimensions of one vision transformer; both networks use one unless the recipe says otherwise."""

    width: int
    blocks: int
    heads: int
    in_context_start: int


# `small` and above are the paper's; those below it are ours, for CPUs and tests.
SIZES: dict[str, Size] = {
    #             width blocks heads in-context start
    "nano":   Size(  32,     3,    2,  1),  # tests, --smoke, --debug
    "micro":  Size( 128,     6,    4,  2),  # a laptop CPU in an hour
    "tiny":   Size( 256,     8,    4,  2),  # a laptop CPU in a day
    "small":  Size( 512,     8,    8,  2),
    "base":   Size( 768,    12,   12,  4),
    "large":  Size(1024,    24,   16,  8),
    "xlarge": Size(1152,    28,   16,  8),
    "huge":   Size(1280,    32,   16, 10),
    "giant":  Size(1664,    40,   16, 12),
}  # fmt: skip

# Patch size at "low" latent resolution; "high" halves it.
LOW_RESOLUTION_PATCH = {32: 4, 64: 4, 128: 8, 256: 16, 512: 32}


def _check_kind(name: object) -> object:
    if problem := network_problem(name):
        raise ValueError(problem)
    return name


class ModelSpec(Spec):
    """The networks. What the keys mean is the Sphere Encoder's meaning; other kinds read those that they need."""

    kind: Annotated[str, BeforeValidator(_check_kind)] = "sphere"  # the name of a record in `spherectl.registry`
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] = 32
    size: str = "base"
    decoder_size: str | None = None  # None: as `size`
    patch_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] | None = (
        None  # None: from image_size and latent_resolution
    )
    latent_resolution: Literal["low", "high"] = "high"
    compression_ratio: Annotated[float, Field(ge=0.01, le=100_000)] = 1.5
    token_channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)] | None = (
        None  # None: floor(3 patch^2 / compression_ratio)
    )
    num_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)] | Literal["auto"] = "auto"  # 0: unconditional
    in_context_tokens: Annotated[int, Field(ge=0, le=MAX_IN_CONTEXT)] = 0
    pixel_head: Literal["linear", "conv"] = "linear"
    encoder_mixer_blocks: Mixers = 2
    decoder_mixer_blocks: Mixers = 2
    mixer_norm_scale: bool = True
    spherify_decoder_blocks: bool = False
    halve_depth: bool = False
    attention: Literal["auto", "xformers", "sdpa", "math"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        problems = [
            f"model.{key}: no size {quoted(value)}; sizes are {', '.join(SIZES)}"
            for key, value in (("size", self.size), ("decoder_size", self.decoder_size))
            if value is not None and value not in SIZES
        ]
        if self.patch_size is None and self.image_size not in LOW_RESOLUTION_PATCH:
            known = ", ".join(map(str, LOW_RESOLUTION_PATCH))
            problems.append(f"model.image_size: {self.image_size} px needs model.patch_size (known without: {known})")
        elif self.image_size % self.patch:
            problems.append(f"model.patch_size: {self.patch} does not divide model.image_size = {self.image_size}")
        elif self.tokens > MAX_TOKENS:
            problems.append(
                f"model.patch_size: {self.patch} px of {self.image_size} make {self.tokens:,} tokens, "
                f"at most {MAX_TOKENS:,} are allowed"
            )
        elif not 1 <= self.channels_per_token <= MAX_CHANNELS:
            problems.append(
                f"model.compression_ratio: {self.compression_ratio:g} leaves {self.channels_per_token:,} channels in a "
                f"token, 1 to {MAX_CHANNELS:,} are allowed"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def patch(self) -> int:
        """Patch side p in pixels."""
        if self.patch_size is not None:
            return self.patch_size
        return LOW_RESOLUTION_PATCH[self.image_size] // (2 if self.latent_resolution == "high" else 1)

    @property
    def tokens(self) -> int:
        """Number of tokens N = (H / p)^2."""
        return (self.image_size // self.patch) ** 2

    @property
    def channels_per_token(self) -> int:
        """Token channels d = floor(3 p^2 / compression ratio)."""
        if self.token_channels is not None:
            return self.token_channels
        return math.floor(3 * self.patch**2 / self.compression_ratio)

    @property
    def latent_size(self) -> int:
        """Latent size L = N d."""
        return self.tokens * self.channels_per_token

    @property
    def classes(self) -> int:
        """The number of classes once it is known; 0 is unconditional."""
        if self.num_classes == "auto":
            raise UsageError('model.num_classes is still "auto": it is set when the data has been seen.')
        return self.num_classes
