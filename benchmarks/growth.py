"""How time and memory grow with resolution, batch, steps and size, on the path that `spherectl sample` takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.subjects import Subject, best, draw, model, random_package, spec_of, what
from benchmarks.timing import counted_gflop, measured_once, peak_memory_mb, rounded
from spherectl import api
from spherectl.model.sphere import parameter_count
from spherectl.recipe import ModelSpec

SIDES = (32, 64, 128, 256, 512)
SIZES = ("micro", "tiny", "small", "base", "large")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
STEPS = (1, 2, 4, 8)
STEPS_BATCH = 8


def growth(subject: Subject | None, sides: Sequence[int] = SIDES, sizes: Sequence[str] = SIZES) -> list[dict[str, Any]]:
    """All rows.

    Args:
        subject: a trained model, for batches and steps; None: without these.
        sides: of images in px, one image of a small model; patches as in the paper.
        sizes: one image of 32 px in patches of 2.
    """
    rows = [random_row(f"{side} px", "resolution", spec_of("small", side)) for side in sides]
    rows += [random_row(size, "size", spec_of(size)) for size in sizes]
    if subject is not None:
        fast = best(subject.package, subject.name)
        draw(fast, 1, 2)
        rows += [row(str(batch), "batch", fast, batch, 1, batch * subject.gflop(1)) for batch in BATCHES]
        counted = [(steps, STEPS_BATCH * subject.gflop(steps)) for steps in STEPS]
        rows += [row(what(steps), "steps", fast, STEPS_BATCH, steps, gflop) for steps, gflop in counted]
    return rows


def random_row(value: str, over: str, spec: ModelSpec) -> dict[str, Any]:
    """One image in one step by a model of random weights; counted on the plain float32 path."""
    package = random_package("growth", spec)
    plain = model(package, "growth", "float32", plain=True)
    draw(plain, 1, 1)  # the class table is computed once, which is not counted
    gflop = counted_gflop(partial(draw, plain, 1, 1))
    fast = best(package, "growth")
    del plain, package  # float32, which `sample` would not hold
    return row(value, over, fast, 1, 1, gflop)


def row(value: str, over: str, fast: api.Model, batch: int, steps: int, gflop: float) -> dict[str, Any]:
    """The numbers of one draw; memory is that of its first call."""
    call = partial(draw, fast, batch, steps)
    memory_mb = peak_memory_mb(call)
    seconds = measured_once(call)
    spec = fast.recipe.model
    return {
        "over": over,
        "value": value,
        "images": batch,
        "tokens": spec.tokens,
        "parameters": parameter_count(fast.network),
        "precision": fast.precision,
        "ms": rounded(seconds * 1000),
        "images_per_s": rounded(batch / seconds),
        "gflop": rounded(gflop),
        "gflop_per_s": rounded(gflop / seconds),
        "weights_mb": rounded(sum(p.numel() * p.element_size() for p in fast.network.parameters()) / 1e6),
        "memory_mb": None if memory_mb is None else rounded(memory_mb),
    }
