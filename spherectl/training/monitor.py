"""What is read off a training as it runs: how its latents lie, what the device can do, what memory it took.

Letters: B batch, N tokens, d token channels, L = N d.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spherectl.model import geometry, kernels
from spherectl.recipe import Recipe
from spherectl.training.flops import training_gflop

# Sides of the square matrices whose products are timed, each twice the one before: a slow device stops early, a quick
# one goes on to where its speed no longer depends on the side.
SMALLEST_SIDE, LARGEST_SIDE = 128, 8192
CALLS = 6
BUDGET_S = 0.5

_STATUS = Path("/proc/self/status")


def latent_norm(z: Tensor) -> Tensor:
    """Mean Euclidean norm of latents before f: a scalar on their device, without gradient, so that nothing waits.

    Args:
        z: (B, N, d), or any (B, ...).
    """
    mean: Tensor = geometry.at_least_float32(z.detach()).flatten(1).norm(dim=1).mean()
    return mean


def effective_rank(z: Tensor) -> float:
    """How many directions the latents of a batch use, at most min(B, L): see `spherectl.model.geometry`.

    Args:
        z: (B, N, d), or any (B, ...), before f or on the sphere; lengths do not matter.

    Returns:
        1 where all lie on one line; 0 where no latent has a direction, as at the start values.
    """
    flat = geometry.at_least_float32(z.detach()).flatten(1)  # (B, L)
    lengths = flat.norm(dim=1)  # (B,)
    directed = lengths > 0
    if not directed.any():
        return 0.0
    with torch.autocast(z.device.type, enabled=False):
        return geometry.effective_rank(flat[directed] / lengths[directed, None])


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """What the device can do: operations a second of its best product of square matrices, measured in half a second.

    Under the settings now in force: threads, TF32.

    Args:
        device: that trains.
        dtype: that its products are in. In bfloat16 on a CPU with the compiled kernels, they are what is timed, or
            torch where training takes that.
    """
    side, best, before = SMALLEST_SIDE, 0.0, 0.0
    product = _product(device, dtype, side)
    _seconds(product, device)  # what this sets up is not of the budget: kernels may be built
    until = time.perf_counter() + BUDGET_S
    while True:
        seconds = _quickest(product, device, until)
        best = max(best, 2 * side**3 / seconds)
        # What a call costs beside its operations stays as it is: threads that wait for a busy core need milliseconds.
        following = seconds + 8 * max(0.0, seconds - before)
        if side == LARGEST_SIDE or 2 * following > until - time.perf_counter():
            return best
        side, before = 2 * side, seconds
        product = _product(device, dtype, side)


class Monitor:
    """What a step says of its machine.

    Args:
        recipe: resolved; its operations are counted.
        device: that trains.
        dtype: of its products.
        processes: that train together; each is taken to have a device like this one.
    """

    KEYS = ("images_per_s", "data_wait_s", "flop_per_s", "mfu", "memory_mb", "wall_s")  # differ run by run

    def __init__(self, recipe: Recipe, device: torch.device, dtype: torch.dtype, processes: int) -> None:
        self._device = device
        gflop = training_gflop(recipe)
        self._flop = None if gflop is None else gflop * 1e9
        self._peak = 0.0 if gflop is None else _peak(device, dtype, torch.get_num_threads()) * processes
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # of the training, not of the matrices that were timed

    def read(self, images: int, step_s: float, waited_s: float) -> dict[str, float]:
        """A step of so many images, over all processes, that took so long.

        Args:
            images: B.
            step_s: from one step's start to its end.
            waited_s: seconds of it spent waiting for images.

        Returns:
            images_per_s, data_wait_s; flop_per_s and mfu (of what the devices were measured to do, 0 to 1) where the
            operations of the kind of network are known; memory_mb where the system tells.
        """
        values: dict[str, float] = {"images_per_s": round(images / step_s, 3), "data_wait_s": round(waited_s, 6)}
        if self._flop is not None:
            flop_per_s = self._flop * images / step_s
            values |= {"flop_per_s": round(flop_per_s), "mfu": round(flop_per_s / self._peak, 4)}
        memory = memory_mb(self._device)
        return values if math.isnan(memory) else values | {"memory_mb": round(memory, 1)}


@functools.cache
def _peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:  # noqa: ARG001 - it depends on them
    return peak_flops(device, dtype)


def memory_mb(device: torch.device) -> float:
    """The most memory that this process has held at once, in MB (10^6 bytes).

    Tensors on CUDA; what the driver holds now on MPS, which keeps no peak; else all that is resident. NaN where the
    system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e6
    return peak_resident_bytes() / 1e6


def peak_resident_bytes() -> float:
    """The most bytes of memory that were resident at once in this process; NaN where the system does not tell."""
    # Linux's getrusage passes on to a new program the peak of the one that started it, which this file does not.
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE):
            return int(found[1]) * 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def _product(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], object]:
    """One product of square matrices, of numbers that differ: of equal ones a GPU computes faster than it can."""
    if device.type == "cpu" and dtype == torch.bfloat16:
        return kernels.bfloat16_product(side, side)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, side, side, generator=generator).to(device, dtype)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _quickest(call: Callable[[], object], device: torch.device, until: float) -> float:
    """Seconds of the quickest of a few calls, which end about `until`; the first one also sets things up."""
    best = math.inf
    for _ in range(CALLS):
        seconds = _seconds(call, device)
        best = min(best, seconds)
        if time.perf_counter() + seconds > until:
            break
    return best


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """What a call takes on the device."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            call()
            after.record()
            after.synchronize()
        return float(before.elapsed_time(after)) / 1000
    began = time.perf_counter()
    call()
    if device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began
