"""What is timed: what the machine can do, drawing, encoding, reconstructing, training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.subjects import BASELINE, KERNELS, PLAIN, Subject, draw, labels_of, what
from benchmarks.timing import (
    CPU,
    Case,
    Group,
    counted_gflop,
    counting,
    peak_memory_mb,
    repeated,
    rounded,
    training_turn,
)
from spherectl.data.datasets import ImageSet
from spherectl.model import kernels
from spherectl.model.devices import has_fast_bfloat16
from spherectl.recipe import Recipe

MATRIX = 2048  # side of the products that stand for the peak
COPIED_BYTES = 1 << 28  # far more than any cache holds
MACHINE, PRODUCT, COPY = "machine", "matrix product", "copy"
ONEDNN = "float32, oneDNN"
EXACT = 1e-5  # relative error of a float32 product; a product of bfloat16 numbers has 1e-3
TOGETHER = 64  # images that are encoded or reconstructed in one call
MEASURED_STEPS = 2  # further rounds repeat the second, and need no more memory
COUNTED_BATCH = 8  # the counter makes a step slow
NO_PERCEPTUAL = {"perceptual": "none", "rec_perceptual": 0.0, "con_perceptual": 0.0}
STEP, STEP_PLAIN = "training step", "training step, no perceptual part"

# Precision and attention backend of a training step in each way; a backend that is named keeps the kernels out. Plain
# attention has a quicker backward pass in bfloat16 than SDPA's, so a step on torch alone can do better than plain.
MATH = "bfloat16, math attention"
TRAINING = {
    BASELINE: ("float32", "sdpa"),
    PLAIN: ("bfloat16", "sdpa"),
    MATH: ("bfloat16", "math"),
    KERNELS: ("bfloat16", "auto"),
}


def machine_groups() -> list[Group]:
    """Products of large matrices in each precision, and a copy."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, MATRIX, MATRIX, generator=generator)
    gflop = 2 * MATRIX**3 / 1e9
    cases = [Case(BASELINE, warm(partial(torch.mm, a, b)), gflop, None)]
    if _relative_error(_onednn(a, b), a, b) < EXACT:  # not where it would round to bfloat16, on processors with AMX
        cases.append(Case(ONEDNN, warm(partial(_onednn, a, b)), gflop, None))
    if has_fast_bfloat16(CPU):
        cases.append(Case("bfloat16", warm(partial(torch.mm, a.bfloat16(), b.bfloat16())), gflop, None))
    octets = [(255 * one - 128).to(torch.int8) for one in (a, b)]
    cases.append(Case("int8", warm(partial(torch._int_mm, *octets)), gflop, None))  # noqa: SLF001
    source = torch.ones(COPIED_BYTES // 4)  # zeros might never have been written
    copy = Case(BASELINE, warm(partial(torch.empty_like(source).copy_, source)), 0, None)
    return [Group(MACHINE, PRODUCT, 0, cases), Group(MACHINE, COPY, 0, [copy])]


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    """The product by oneDNN, which torch asks for float32 only under this setting."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return a @ b
    finally:
        torch.set_float32_matmul_precision(before)


def _relative_error(product: Tensor, a: Tensor, b: Tensor) -> float:
    exact = a.double() @ b.double()
    return float((product - exact).norm() / exact.norm())


def draw_groups(subject: Subject) -> Iterator[Group]:
    """Drawing at each of the subject's steps and batches."""
    for model in subject.models.values():
        draw(model, 1, MEASURED_STEPS)  # lays out the weights of both networks
    for steps, batches in subject.draws:
        for batch in batches:
            cases = []
            for path, model in subject.models.items():
                memory_mb = peak_memory_mb(partial(draw, model, batch, min(steps, MEASURED_STEPS)))
                turn = repeated(partial(draw, model, batch, steps))
                cases.append(Case(path, turn, batch * subject.gflop(steps), memory_mb))
            yield Group(subject.name, what(steps), batch, cases)


def pass_groups(subject: Subject) -> Iterator[Group]:
    """Encoding and reconstructing."""
    indices = torch.arange(TOGETHER)
    images, labels = draw(subject.baseline, TOGETHER, 1), labels_of(subject.baseline, indices)
    for name in ("encode", "reconstruct"):
        one = partial(getattr(subject.baseline, name), images[:1], None if labels is None else labels[:1])
        gflop, cases = TOGETHER * counted_gflop(one), []
        for path, model in subject.models.items():
            call = partial(getattr(model, name), images, labels)
            memory_mb = peak_memory_mb(call)
            cases.append(Case(path, repeated(call), gflop, memory_mb))
        yield Group(subject.name, name, TOGETHER, cases)


def training_groups(recipe: Recipe, dataset: ImageSet) -> Iterator[Group]:
    """A training step with the recipe's perceptual part and without."""
    ways = dict(TRAINING)
    if not has_fast_bfloat16(CPU):
        del ways[PLAIN], ways[MATH]
    if not kernels.available():
        del ways[KERNELS]
    for name, asked in ((STEP, recipe), (STEP_PLAIN, recipe.replace(loss=NO_PERCEPTUAL))):
        gflop = asked.run.batch_size * training_gflop(asked, dataset)
        group, began = Group(recipe.name, name, asked.run.batch_size, []), time.perf_counter()
        for path, (dtype, attention) in ways.items():
            step = training_turn(asked.replace(run={"dtype": dtype}, model={"attention": attention}), dataset)
            case = Case(path, partial(step, time.perf_counter), gflop, None)
            case.memory_mb = peak_memory_mb(case.measure)  # a run is long, and needs no other to be warm
            group.cases.append(case)
        if all(case.seconds for case in group.cases):
            group.visit_s = time.perf_counter() - began
        yield group


def training_gflop(recipe: Recipe, dataset: ImageSet) -> float:
    """Products of a training step for each image, counted on the plain float32 path."""
    small = {"dtype": "float32", "batch_size": COUNTED_BATCH}
    step = training_turn(recipe.replace(run=small, model={"attention": "sdpa"}), dataset)
    with counting() as counter:
        return step(counter.get_total_flops) / 1e9 / COUNTED_BATCH


def warm(call: Callable[[], Any]) -> Callable[[], float]:
    """A measurement of a call that has been made once."""
    call()
    return repeated(call)


def peak_rows(groups: list[Group]) -> list[dict[str, Any]]:
    """GFLOP/s of products, and GB/s of a copy, read and written."""
    rows = []
    for group in groups:
        for case in group.cases:
            work, unit = (case.gflop, "GFLOP/s") if group.what == PRODUCT else (2 * COPIED_BYTES / 1e9, "GB/s")
            seconds = {"median": case.median_s, "lowest": max(case.seconds), "highest": min(case.seconds)}
            numbers = {key: rounded(work / value) for key, value in seconds.items()}
            rows.append({"what": group.what, "precision": case.path, "unit": unit, **numbers})
    return rows


def case_rows(group: Group, peaks_gflops: dict[str, float]) -> list[dict[str, Any]]:
    """The numbers of a group, a row each way.

    Args:
        group: measured.
        peaks_gflops: median speed of a large product, by precision.
    """
    medians = {case.path: case.median_s for case in group.cases}
    rows = []
    for case in group.cases:
        peak, plain = peaks_gflops.get(case.precision), medians.get(PLAIN)
        numbers = {
            "ms": case.median_s * 1000,
            "lowest_ms": min(case.seconds) * 1000,
            "highest_ms": max(case.seconds) * 1000,
            "images_per_s": group.images / case.median_s,
            "gflop": case.gflop,
            "percent_of_peak": None if peak is None else 100 * case.gflop / case.median_s / peak,
            "memory_mb": case.memory_mb,
            "ratio": medians[BASELINE] / case.median_s,
            "ratio_to_plain_bfloat16": None if plain is None else plain / case.median_s,
        }
        row = {"model": group.model, "what": group.what, "images": group.images, "path": case.path}
        rows.append({**row, **{key: None if value is None else rounded(value) for key, value in numbers.items()}})
    return rows


def peaks_by_precision(groups: list[Group]) -> dict[str, float]:
    """Median GFLOP/s of a large product by precision; float32 as torch computes it by itself, like the baseline."""
    return {
        case.path: case.gflop / case.median_s
        for group in groups
        if group.what == PRODUCT
        for case in group.cases
        if case.path != ONEDNN
    }
