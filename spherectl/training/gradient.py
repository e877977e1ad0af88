"""The gradient of a whole batch, from this process's share of it in micro-batches and from the others' shares."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from spherectl.data.transforms import to_float
from spherectl.model.objective import Draws, draw
from spherectl.model.sphere import SphereEncoder
from spherectl.processes import Processes, local, whole
from spherectl.recipe import Recipe
from spherectl.training.parallel import Step, shares, synchronised, wrap
from spherectl.training.perceptual import PerceptualDistance

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
AUTOCAST = (torch.bfloat16, torch.float16)


class Gradient:
    """What a batch adds to the parameters' gradients.

    Args:
        model: the networks, in float64 where the recipe says so, else in float32.
        recipe: resolved.
        perceptual: the frozen distance of the loss, or None.
        device: that trains.
        processes: those that train together.

    Attributes:
        share: of a batch's images, the first that this process takes and the one after the last.
    """

    def __init__(
        self,
        model: SphereEncoder,
        recipe: Recipe,
        perceptual: PerceptualDistance | None,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self._recipe, self._device, self._processes = recipe, device, processes
        self._pieces = shares(recipe.run.batch_size, processes, recipe.run.micro_batch_size)
        self.share = (self._pieces[0][0], self._pieces[-1][1])
        self._dtype = DTYPES[recipe.run.dtype]
        self._step = wrap(Step(model, recipe, perceptual), recipe, device, processes)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._latents: list[Tensor] = []

    def settle_buckets(self) -> None:
        """Let DDP order its buckets now, by a gradient of nothing, as it otherwise does after the first step.

        Their order is that in which several processes' gradients are added up: a resumed run, which would begin with
        the other one, would differ in its last bits.
        """
        if not isinstance(self._step, torch.nn.parallel.DistributedDataParallel):
            return
        image = torch.zeros(1, 3, *2 * (self._recipe.model.image_size,), device=self._device)
        draws = self._draws(torch.zeros(1, dtype=torch.int64, device=self._device), 0, (0, 1))
        loss, *_ = self._forward(image, draws)
        loss.backward()
        self._clear()

    def __call__(
        self, images: Tensor, labels: Tensor, images_seen: int, loss_scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Leave the batch's gradient, clipped, in the parameters.

        Args:
            images: this process's share, (b, 3, H, W) uint8.
            labels: (b,).
            images_seen: before this batch, which decides everything random.
            loss_scale: what the loss is multiplied by, and the gradient divided, for float16.

        Returns:
            This process's share of `parallel.PARTS`, (7,), and the norm of the whole gradient before it was clipped.
        """
        self._clear()
        batch, world, first = self._recipe.run.batch_size, self._processes.world, self.share[0]
        sums: Tensor | None = None
        for start, stop in self._pieces:
            inside, share = slice(start - first, stop - first), (stop - start) / batch
            draws = self._draws(labels[inside], images_seen, (start, stop))
            with synchronised(self._step, now=stop == self.share[1]):
                loss, parts, z = self._forward(to_float(images[inside]), draws)
                # The processes' gradients are averaged, so each loss counts as often as there are processes.
                (loss * (share * world * loss_scale)).backward()
            self._latents.append(z)
            sums = share * parts if sums is None else sums + share * parts
        assert sums is not None
        if loss_scale != 1:
            torch._foreach_mul_([local(p.grad) for p in self._parameters if p.grad is not None], 1 / loss_scale)
        return sums, whole(torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.optim.clip_norm))

    def latents(self) -> Tensor:
        """The last batch's latents before f, (B, N, d), of all processes; they call it together."""
        return self._processes.together(torch.cat(self._latents), self.share[0], self._recipe.run.batch_size)

    def _clear(self) -> None:
        self._latents = []
        for p in self._parameters:
            p.grad = None

    def _forward(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its parts and the latents of float images; in float64 where the networks are."""
        autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._dtype in AUTOCAST:
            autocast = torch.autocast(self._device.type, self._dtype)
        with autocast:
            loss, parts, z = self._step(images.to(self._parameters[0].dtype), draws)
        return loss, parts, z

    def _draws(self, labels: Tensor, images_seen: int, part: tuple[int, int]) -> Draws:
        """Everything random for images `part` of a batch."""
        recipe, spec = self._recipe, self._recipe.model
        return draw(
            recipe.run.seed,
            images_seen,
            labels if spec.classes else None,
            batch=recipe.run.batch_size,
            part=part,
            latent_shape=(spec.tokens, spec.channels_per_token),
            hard_ratio=recipe.noise.hard_ratio,
            num_classes=spec.classes,
            hard_probability=recipe.noise.hard_case_probability,
            hard_cases=recipe.noise.hard_cases,
            label_dropout=recipe.loss.label_dropout,
            device=self._device,
        )
