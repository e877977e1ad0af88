"""A model of grey images draws grey: its three output channels are one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spherectl.model.vit import Decoder
from spherectl.recipe import Recipe


def tie_channels(model: nn.Module, recipe: Recipe) -> None:
    """Give each output channel of a decoder's last convolution the mean of the three, weights (3, 3, 3, 3) and bias.

    Called once before the training and after each step of it, which is training with one channel: its step is the
    mean of the three, and the average (EMA) of equal weights is equal. Nothing happens where the recipe's images
    have colours, or to a diffusion model, whose channels start equal and whose noise is grey as well.

    Args:
        model: the networks, sharded or not.
        recipe: theirs.
    """
    decoder = getattr(model, "decoder", None)
    if recipe.data.channels != "grey" or not isinstance(decoder, Decoder):
        return
    last = next(part for part in reversed(decoder.out) if isinstance(part, nn.Conv2d | nn.ConvTranspose2d))
    assert last.bias is not None
    with torch.no_grad():
        _tie(last.weight, 1 if isinstance(last, nn.ConvTranspose2d) else 0)
        _tie(last.bias, 0)


# first + mean(parameter - first): of equal channels exactly these, which (a + a + a) / 3 is not
def _tie(parameter: Tensor, channels: int) -> None:
    """Replace a parameter by its mean along an axis."""
    first = parameter.narrow(channels, 0, 1)
    parameter.copy_((first + (parameter - first).mean(channels, keepdim=True)).expand_as(parameter))
