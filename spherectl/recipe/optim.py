"""The table [optim]: rates, their schedule, the moving average."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from spherectl.recipe.limits import AboveZero, Batch, Epochs, Images, Positive, Probability, Rate
from spherectl.tables import Spec


class OptimSpec(Spec):
    """AdamW, its schedule and the moving average. Lengths are in images; epochs are resolved away."""

    lr: AboveZero = 1e-4  # of the decoder, for a batch of lr_batch_size; scaled linearly
    lr_batch_size: Batch = 256
    min_lr: Rate = 1e-6  # scaled alike
    encoder_lr_ratio: AboveZero = 0.1
    warmup_epochs: Epochs | None = None
    warmup_images: Images | None = None
    decay_images: Positive | None = None  # the rate falls over the last so many, and is constant before; None: over all
    betas: Annotated[tuple[Probability, Probability], Field(strict=False)] = (0.9, 0.95)
    weight_decay: Rate = 0.0
    clip_norm: Annotated[float, Field(gt=0, le=1e12)] = 1.0
    ema_half_life_images: Positive = 591_396  # 0.9997 a step at batch 256
    ema_ramp_ratio: Rate = 0.0  # half-life at most this share of images seen; 0: off

    @model_validator(mode="after")
    def _check(self) -> OptimSpec:
        problems = []
        if self.warmup_epochs is not None and self.warmup_images is not None:
            problems.append("optim.warmup_epochs, optim.warmup_images: give one of the two")
        if self.min_lr > self.lr:
            problems.append(f"optim.min_lr: {self.min_lr:g}, the end of the schedule, is above optim.lr = {self.lr:g}")
        if problems:
            raise ValueError("; ".join(problems))
        return self
