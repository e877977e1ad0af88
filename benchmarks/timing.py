"""The instrument: ways of doing one thing timed one after another, and in turn with all the other things.

Beside the times: counted products, peak memory, and the machine.
"""

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

from spherectl.data.datasets import ImageSet
from spherectl.recipe import Recipe
from spherectl.training.loop import train
from spherectl.training.monitor import peak_resident_bytes
from spherectl.training.plan import resolve

CPU = torch.device("cpu")
TURN_S = 0.02  # a shorter call is repeated for so long, and the mean of its times is one measurement
MIN_VISITS, MAX_VISITS = 3, 24
SPARE = 0.15  # of the time for the least visits, which there is always for further ones
RUN_STEPS = 3  # of a short training; all but the first are timed
TOLD_S = 20  # seconds between words on the progress
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16")


@dataclass
class Case:
    """One way of doing a thing.

    Attributes:
        path: which way, as in "float32" or "bfloat16 kernels"; its first word is the precision.
        turn: makes one measurement: seconds a call.
        gflop: products of one call.
        memory_mb: what one call needs beyond what the process holds before it; None where the system does not tell.
        seconds: the measurements.
    """

    path: str
    turn: Callable[[], float]
    gflop: float
    memory_mb: float | None
    seconds: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Once more."""
        self.seconds.append(self.turn())

    @property
    def precision(self) -> str:
        """What the products are computed in."""
        return self.path.partition(" ")[0].rstrip(",")

    @property
    def median_s(self) -> float:
        """Median of the measurements."""
        return statistics.median(self.seconds)


@dataclass
class Group:
    """One thing done in several ways, which are timed one right after another: their ratio is of the same moment.

    Attributes:
        model: short name of the model.
        what: what one call does.
        images: for how many images.
        cases: the ways.
        visit_s: what the last visit took; 0 before the first.
    """

    model: str
    what: str
    images: int
    cases: list[Case]
    visit_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.model}, {self.what}" + (f", {self.images} images" if self.images else "")

    def visit(self) -> None:
        """Measure every case once."""
        began = time.perf_counter()
        for case in self.cases:
            case.measure()
        self.visit_s = time.perf_counter() - began


def repeated(call: Callable[[], Any]) -> Callable[[], float]:
    """A measurement of a call: seconds, the mean over so many calls as `TURN_S` takes."""

    def turn() -> float:
        began, calls = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < TURN_S:
            call()
            calls += 1
        return passed / calls

    return turn


def measured_once(call: Callable[[], Any], turns: int = 3) -> float:
    """Median seconds of a warm call, for what is not compared with anything."""
    call()
    turn = repeated(call)
    return statistics.median(turn() for _ in range(turns))


def training_turn(recipe: Recipe, dataset: ImageSet) -> Callable[[Callable[[], float]], float]:
    """Steps as `spherectl train` does them: images, losses, gradients, weights, average, line of metrics.

    Returns:
        A function of a gauge: by how much the gauge grows in a step, over a short run of which the first step does not
        count, nor what comes after the last.
    """
    length = RUN_STEPS * recipe.run.batch_size
    resolved = resolve(recipe.replace(run={"length_images": length}), dataset, CPU)

    def growth(gauge: Callable[[], float]) -> float:
        seen: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            train(resolved, dataset, Path(folder) / "run", device=CPU, on_step=lambda _: seen.append(gauge()))
        return (seen[-1] - seen[0]) / (len(seen) - 1)

    return growth


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count products; attention as plain ones, because the counter does not know its fused kernel for CPUs."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def counted_gflop(call: Callable[[], Any]) -> float:
    """Products of one call, in units of 10^9 floating-point operations; a multiplication and an addition are two."""
    with counting() as counter:
        call()
    return counter.get_total_flops() / 1e9


def peak_memory_mb(call: Callable[[], Any]) -> float | None:
    """The most memory that a call needs beyond what the process holds before it; None but on Linux with glibc."""
    reset = Path("/proc/self/clear_refs")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.access(reset, os.W_OK) else None
    if trim is None:
        return None
    trim(0)  # freed memory that is kept for later would serve the call unseen
    reset.write_text("5", encoding="ascii")
    before = peak_resident_bytes()
    call()
    return (peak_resident_bytes() - before) / 1e6


def time_in_turns(groups: list[Group], until: float) -> int:
    """Visit all groups once, then again and again in an order that spreads each one's visits over the whole time.

    A machine that slows down for a while slows a few visits of every group, which a median forgets.

    Args:
        groups: warm; the `seconds` of their cases grow. One that was measured before has had its first visit.
        until: on the monotonic clock, where the visits should end; late or not, each group has `MIN_VISITS`.

    Returns:
        The number of visits.
    """
    for group in groups:
        if not group.visit_s:
            group.visit()
        tell(f"{group}: {group.visit_s:.1f} s for a visit")
    costs, said = [group.visit_s for group in groups], 0.0
    order = visits(costs, until - time.monotonic())
    for done, index in enumerate(order):
        if time.monotonic() - said > TOLD_S:
            said = time.monotonic()
            tell(f"{done} of {len(order)} further visits, about {sum(costs[i] for i in order[done:]):.0f} s to go")
        groups[index].visit()
    return len(groups) + len(order)


def visits(costs: list[float], budget_s: float) -> list[int]:
    """Which group is visited when, after the first visit of each.

    What costs little is visited more often, so that all get about the same time, but none more than `MAX_VISITS` in
    all and none fewer than `MIN_VISITS`. Each group's visits are spread evenly.

    Args:
        costs: seconds of a visit.
        budget_s: seconds for all of them; passed where the least visits and a little time to spare do not fit.
    """
    counts = [MIN_VISITS - 1] * len(costs)
    least = sum(cost * count for cost, count in zip(costs, counts, strict=True))
    left = max(budget_s - least, SPARE * least)
    while affordable := [i for i, cost in enumerate(costs) if cost <= left and counts[i] < MAX_VISITS - 1]:
        poorest = min(affordable, key=lambda i: costs[i] * counts[i])
        counts[poorest] += 1
        left -= costs[poorest]
    places = sorted(((k + 0.5) / count, i) for i, count in enumerate(counts) for k in range(count))
    return [i for _, i in places]


def tell(text: str) -> None:
    """Words on the progress."""
    print(text, file=sys.stderr, flush=True)


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
