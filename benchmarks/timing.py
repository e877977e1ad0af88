"""The instrument: cases timed in turns, their products and memory, and the machine they ran on."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spherectl.data.datasets import PictureSet
from spherectl.recipe import Recipe
from spherectl.training.loop import train
from spherectl.training.plan import resolve

CPU = torch.device("cpu")
TURN_S = 0.02  # a shorter call is repeated for so long, and the mean of its times is one measurement
LEAST_ROUNDS = 2
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # what decides the speed of products


@dataclass
class Case:
    """Something that is timed.

    Attributes:
        what, dtype, images: what one call does, in which precision, for how many images.
        turn: makes one measurement: seconds a call.
        gflop: products of one call.
        memory_mb: what one call needs beyond what the process holds before it; None where the system does not tell.
        seconds: the measurements.
    """

    what: str
    dtype: str
    images: int
    turn: Callable[[], float]
    gflop: float
    memory_mb: float | None
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Median of the measurements."""
        return statistics.median(self.seconds)


def call_case(what: str, dtype: str, images: int, call: Callable[[], Any]) -> Case:
    """A plain call, warm afterwards."""

    def turn() -> float:
        began, calls = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < TURN_S:
            call()
            calls += 1
        return passed / calls

    call()
    memory_mb = peak_memory_mb(call)
    with counting() as counter:
        call()
    return Case(what, dtype, images, turn, counter.get_total_flops() / 1e9, memory_mb)


def training_case(what: str, dtype: str, recipe: Recipe, pictures: PictureSet) -> Case:
    """A step as `spherectl train` does it: pictures, losses, gradients, weights, average, line of metrics.

    A turn is a run of three steps; the first is not counted, nor what comes after the last.
    """
    batch = recipe.run.batch_size
    resolved = resolve(recipe.replace(run={"dtype": dtype, "length_images": 3 * batch}), pictures, CPU)

    def growth(look: Callable[[], float]) -> float:
        """By how much `look()` grows in a step."""
        seen: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            train(resolved, pictures, Path(folder) / "run", device=CPU, on_step=lambda _: seen.append(look()))
        return (seen[-1] - seen[0]) / (len(seen) - 1)

    with counting() as counter:
        gflop = growth(counter.get_total_flops) / 1e9
    memory_mb = peak_memory_mb(lambda: growth(time.perf_counter))
    return Case(what, dtype, batch, lambda: growth(time.perf_counter), gflop, memory_mb)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count products; attention as plain ones, because the counter does not know its fused kernel for CPUs."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def peak_memory_mb(call: Callable[[], Any]) -> float | None:
    """The most memory that a call needs beyond what the process holds before it; None but on Linux with glibc."""
    reset = Path("/proc/self/clear_refs")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.access(reset, os.W_OK) else None
    if trim is None:
        return None
    trim(0)  # freed memory that is kept for later would serve the call unseen
    reset.write_text("5", encoding="ascii")
    before = _peak_kb()
    call()
    return (_peak_kb() - before) * 1024 / 1e6


def _peak_kb() -> int:
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[0])


def time_in_turns(cases: list[Case], until: float) -> int:
    """Measure all cases in turn (A B C A B C ...), so that a machine that slows down slows all alike.

    Args:
        cases: warm; their `seconds` grow.
        until: on the monotonic clock. No round begins that would end after it, but there are always two.

    Returns:
        The number of rounds.
    """
    rounds, longest = 0, 0.0
    while rounds < LEAST_ROUNDS or time.monotonic() + longest < until:
        began = time.monotonic()
        for case in cases:
            case.seconds.append(case.turn())
        rounds, passed = rounds + 1, time.monotonic() - began
        longest = max(longest, passed)
        print(f"round {rounds} took {passed:.1f} s", file=sys.stderr)
    return rounds


def machine() -> dict[str, Any]:
    """What computes, and how busy it was before."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = set(text.split())
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": rounded(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.platform(),
        "load_before": rounded(os.getloadavg()[0]),
    }


def rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
