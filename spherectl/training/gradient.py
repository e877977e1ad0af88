"""The gradient of a whole batch, from this process's share of it in micro-batches and from the others' shares."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from spherectl.data.transforms import to_float
from spherectl.processes import Processes, local, whole
from spherectl.recipe import Recipe
from spherectl.training.parallel import shares, synchronised, wrap
from spherectl.training.steps import Step

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
        step: the objective over the networks, which are in float64 where the recipe says so, else in float32.
        recipe: resolved.
        device: that trains.
        processes: those that train together.

    Attributes:
        share: of a batch's images, the first that this process takes and the one after the last.
        parts: names of the numbers that it tells of a batch.
    """

    def __init__(
        self,
        step: Step,
        recipe: Recipe,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self._recipe, self._device, self._processes = recipe, device, processes
        self._pieces = shares(recipe.run.batch_size, processes, recipe.run.micro_batch_size)
        self.share = (self._pieces[0][0], self._pieces[-1][1])
        self._dtype = DTYPES[recipe.run.dtype]
        self.parts, self._draws = step.parts, step.draws
        self._step = wrap(step, recipe, device, processes)
        self._parameters = [p for p in step.model.parameters() if p.requires_grad]
        self._latents: list[Tensor] = []

    def settle_buckets(self) -> None:
        """Let DDP order its buckets now, by a gradient of nothing, as it otherwise does after the first step.

        Their order is that in which several processes' gradients are added up: a resumed run, which would begin with
        the other one, would differ in its last bits.
        """
        if not isinstance(self._step, torch.nn.parallel.DistributedDataParallel):
            return
        image = torch.zeros(1, 3, *2 * (self._recipe.model.image_size,), device=self._device)
        draws = self._draws(torch.zeros(1, dtype=torch.int64, device=self._device), 0, (0, 1), self._device)
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
            This process's share of `parts`, and the norm of the whole gradient before it was clipped.
        """
        self._clear()
        batch, world, first = self._recipe.run.batch_size, self._processes.world, self.share[0]
        sums: Tensor | None = None
        for start, stop in self._pieces:
            inside, share = slice(start - first, stop - first), (stop - start) / batch
            draws = self._draws(labels[inside], images_seen, (start, stop), self._device)
            with synchronised(self._step, now=stop == self.share[1]):
                loss, parts, z = self._forward(to_float(images[inside]), draws)
                # The processes' gradients are averaged, so each loss counts as often as there are processes.
                (loss * (share * world * loss_scale)).backward()
            self._latents += [] if z is None else [z]
            sums = share * parts if sums is None else sums + share * parts
        assert sums is not None
        if loss_scale != 1:
            torch._foreach_mul_([local(p.grad) for p in self._parameters if p.grad is not None], 1 / loss_scale)
        return sums, whole(torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.optim.clip_norm))

    def latents(self) -> Tensor | None:
        """The last batch's latents, (B, N, d), of all processes, which call it together; None where there are none."""
        if not self._latents:
            return None
        return self._processes.together(torch.cat(self._latents), self.share[0], self._recipe.run.batch_size)

    def _clear(self) -> None:
        self._latents = []
        for p in self._parameters:
            p.grad = None

    def _forward(self, images: Tensor, draws: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """The loss, its parts and the latents of float images; in float64 where the networks are."""
        autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._dtype in AUTOCAST:
            autocast = torch.autocast(self._device.type, self._dtype)
        with autocast:
            loss, parts, z = self._step(images.to(self._parameters[0].dtype), draws)
        return loss, parts, z
