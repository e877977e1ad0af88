"""Exponential moving average of the weights, its length given as a half-life in images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spherectl.processes import local, whole
from spherectl.recipe import OptimSpec


# decay = 2^(-batch / half-life), the half-life at most ramp * images seen
def ema_decay(optim: OptimSpec, images_seen: int, batch: int) -> float:
    """Decay of one step.

    Args:
        optim: half-life, and the ramp that shortens it early in short runs (0: off, as in the paper).
        images_seen: after the step.
        batch: images of the step.
    """
    half_life = float(optim.ema_half_life_images)
    if optim.ema_ramp_ratio:
        half_life = min(half_life, optim.ema_ramp_ratio * images_seen)
    return float(0.5 ** (batch / half_life))


class EMA:
    """Averaged copy of a module's parameters, from their start values on; of a sharded module, of its shards."""

    def __init__(self, module: nn.Module) -> None:
        self._names = [name for name, _ in module.named_parameters()]
        self._averages = [local(p.detach()).clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """averages = decay * averages + (1 - decay) * parameters."""
        torch._foreach_lerp_(self._averages, [local(p.detach()) for p in module.parameters()], 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The averages that this process holds, by parameter name (not copies)."""
        return dict(zip(self._names, self._averages, strict=True))

    def gathered(self, module: nn.Module) -> dict[str, Tensor]:
        """All averages, whole; of shards, all processes call it together."""
        averages = []
        for p, average in zip(module.parameters(), self._averages, strict=True):
            if hasattr(p, "device_mesh"):
                from torch.distributed.tensor import DTensor

                places: Any = p
                shards = DTensor.from_local(
                    average, places.device_mesh, places.placements, shape=p.shape, stride=p.stride()
                )
                averages.append(whole(shards))
            else:
                averages.append(average)
        return dict(zip(self._names, averages, strict=True))
