"""How fast spherectl is on this machine's processor: `make bench` writes docs/performance.json and docs/performance.md.

The page is written from the JSON alone: no number in it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.page import page
from benchmarks.timing import TURN_S, Case, call_case, machine, rounded, time_in_turns, training_case
from spherectl import api, zoo
from spherectl import recipe as recipes
from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import to_uint8
from spherectl.errors import SpherectlError
from spherectl.files import write_text
from spherectl.model.sphere import parameter_count
from spherectl.recipe import Recipe, SampleSpec
from spherectl.training.run import versions

ROOT = Path(__file__).resolve().parents[1]
EXCERPT = ROOT / "tests" / "data" / "fashion-excerpt"  # what the pictures show does not change the speed

DTYPES: dict[api.Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRODUCT, COPY = "matrix product", "copy"
MATRIX = 2048  # side of the products that stand for the peak
COPIED_BYTES = 1 << 28  # far more than any cache holds
DRAW = {1: "draw, 1 step", 4: "draw, 4 guided steps"}
GUIDANCE = 1.4
BATCHES = (1, 8, 64)
CHUNK, ALL = BATCHES[1:]


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="fashion-mnist", help="zoo name, model file or run; default %(default)s")
    parser.add_argument("--recipe", default="fashion-mnist", help="whose step is timed; default %(default)s")
    parser.add_argument("--seconds", type=float, default=240, help="for all of it, about; default %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder; default docs")
    given = parser.parse_args()
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    try:
        results = measure(command, given.model, given.recipe, time.monotonic() + given.seconds)
        write_text(given.out / "performance.json", json.dumps(results, indent=1) + "\n")
        write_text(given.out / "performance.md", page(results))
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(given.out / "performance.md")


def measure(command: str, model: str, recipe_name: str, until: float) -> dict[str, Any]:
    """Everything; JSON-able.

    Args:
        command: what was typed.
        model: name or path of what draws.
        recipe_name: name or path of what is trained.
        until: end of the timing, on the monotonic clock.
    """
    about = {"date": datetime.now(UTC).date().isoformat(), "command": command, "machine": machine()}
    models = {dtype: api.load(model, device="cpu", dtype=dtype) for dtype in DTYPES}
    recipe = recipes.load(zoo.find_recipe(recipe_name))
    compared = differences(models)
    cases = [*machine_cases()]
    for dtype, loaded in models.items():
        cases += [*model_cases(dtype, loaded), *training_cases(dtype, recipe)]
    rounds = time_in_turns(cases, until)
    tops = {case.dtype: case.gflop / case.median_s for case in cases if case.what == PRODUCT}
    plain = models["float32"]
    return {
        **about,
        "versions": versions(),
        "model": plain.name,
        "sha256": plain.sha256,
        "parameters": parameter_count(plain.network),
        "recipe": recipe.name,
        "rounds": rounds,
        "method": {
            "turn_ms": round(TURN_S * 1000),
            "matrix_side": MATRIX,
            "copied_mb": COPIED_BYTES // 1_000_000,
            "guidance": GUIDANCE,
            "images": ALL,
            "chunk": CHUNK,
        },
        "peaks": [peak_row(case) for case in cases if case.what in (PRODUCT, COPY)],
        "cases": [case_row(case, tops[case.dtype]) for case in cases if case.what not in (PRODUCT, COPY)],
        "differences": compared,
        "chunks": chunk_costs(cases),
    }


def machine_cases() -> Iterator[Case]:
    """What the machine can do: products of large matrices, a copy."""
    for name, dtype in DTYPES.items():
        a, b = torch.rand(2, MATRIX, MATRIX).to(dtype)
        yield call_case(PRODUCT, name, 0, partial(torch.mm, a, b))
    source = torch.zeros(COPIED_BYTES // 4)
    target = torch.zeros_like(source)
    yield call_case(COPY, "float32", 0, partial(target.copy_, source))


def model_cases(dtype: str, model: api.Model) -> Iterator[Case]:
    """Drawing at several batches, encoding, reconstructing."""
    for steps, what in DRAW.items():
        settings = sampling(model, steps)
        for batch in BATCHES:
            chunk = torch.arange(batch)
            yield call_case(what, dtype, batch, partial(draw, model, [chunk], settings))
    indices = torch.arange(ALL)
    images, labels = draw(model, [indices], sampling(model, 1)), labels_of(model, indices)
    yield call_case("encode", dtype, ALL, partial(model.encode, images, labels))
    yield call_case("reconstruct", dtype, ALL, partial(model.reconstruct, images, labels))


def training_cases(dtype: str, recipe: Recipe) -> Iterator[Case]:
    """A training step with the recipe's perceptual part and without."""
    pictures = open_dataset(recipe.data, recipe.model.image_size, root=EXCERPT)
    plain = recipe.replace(loss={"perceptual": "none", "rec_perceptual": 0.0, "con_perceptual": 0.0})
    yield training_case("training step", dtype, recipe, pictures)
    yield training_case("training step, no perceptual part", dtype, plain, pictures)


def sampling(model: api.Model, steps: int) -> SampleSpec:
    """The model's own settings at so many steps; guided where there are several steps, and classes."""
    return api.sample_settings(model, steps=steps, guidance=GUIDANCE if steps > 1 and model.num_classes else 1.0)


def labels_of(model: api.Model, indices: Tensor) -> Tensor | None:
    """(B,) classes of images (B,): all in turn."""
    return indices % model.num_classes if model.num_classes else None


def draw(model: api.Model, chunks: Iterable[Tensor], settings: SampleSpec) -> Tensor:
    """Images (n, 3, H, W) in [0, 1], those of a chunk of indices computed together."""
    return torch.cat([api.sample_indices(model, c, labels_of(model, c), settings, seed=0) for c in chunks])


def differences(models: dict[api.Dtype, api.Model]) -> list[dict[str, Any]]:
    """How far precision, and what is computed together, change pictures of four guided steps."""
    settings, indices = sampling(models["float32"], 4), torch.arange(ALL)
    together = {dtype: draw(model, [indices], settings) for dtype, model in models.items()}
    alone = {dtype: draw(model, indices.split(1), settings) for dtype, model in models.items()}
    half = models["bfloat16"]
    in_chunk = draw(half, [indices[:CHUNK]], settings)
    filled_up = torch.cat([draw(half, [index.repeat(CHUNK)], settings)[:1] for index in indices[:CHUNK]])
    pairs = {
        f"float32, {ALL} together and one by one": (together["float32"], alone["float32"]),
        f"bfloat16, {ALL} together and one by one": (together["bfloat16"], alone["bfloat16"]),
        f"bfloat16, a chunk of {CHUNK} and each filled up to {CHUNK}": (in_chunk, filled_up),
        f"bfloat16 and float32, {ALL} together": (together["bfloat16"], together["float32"]),
    }
    return [{"compared": name, **difference(a, b)} for name, (a, b) in pairs.items()]


def difference(a: Tensor, b: Tensor) -> dict[str, Any]:
    """Between the same images (n, 3, H, W) in [0, 1], computed in two ways."""
    levels = (to_uint8(a).int() - to_uint8(b).int()).abs()
    error = (a - b).square().mean((1, 2, 3)).median().item()
    return {
        "bytes_differ_percent": rounded(100 * (levels > 0).double().mean().item()),
        "largest_difference_levels": int(levels.max()),
        "psnr_db": rounded(-10 * math.log10(error)) if error else None,
    }


def chunk_costs(cases: list[Case]) -> list[dict[str, Any]]:
    """What it would cost to compute every bfloat16 image in a chunk of one size."""
    rows = []
    for what in DRAW.values():
        ms = {case.images: case.median_s * 1000 for case in cases if (case.what, case.dtype) == (what, "bfloat16")}
        in_chunks = ALL // CHUNK * ms[CHUNK]
        row = {"one_ms": ms[1], "one_in_chunk_ms": ms[CHUNK], "one_ratio": ms[CHUNK] / ms[1]}
        row |= {"all_ms": ms[ALL], "all_in_chunks_ms": in_chunks, "all_ratio": in_chunks / ms[ALL]}
        rows.append({"what": what, **{key: rounded(value) for key, value in row.items()}})
    return rows


def peak_row(case: Case) -> dict[str, Any]:
    """GFLOP/s of products, or GB/s of a copy."""
    work, unit = (case.gflop, "GFLOP/s") if case.what == PRODUCT else (2 * COPIED_BYTES / 1e9, "GB/s")
    seconds = {"median": case.median_s, "lowest": max(case.seconds), "highest": min(case.seconds)}
    numbers = {key: rounded(work / value) for key, value in seconds.items()}
    return {"what": case.what, "precision": case.dtype, "unit": unit, **numbers}


def case_row(case: Case, peak_gflops: float) -> dict[str, Any]:
    """The numbers of one case."""
    numbers = {
        "ms": case.median_s * 1000,
        "lowest_ms": min(case.seconds) * 1000,
        "highest_ms": max(case.seconds) * 1000,
        "images_per_s": case.images / case.median_s,
        "gflop": case.gflop,
        "percent_of_peak": 100 * case.gflop / case.median_s / peak_gflops,
        "memory_mb": case.memory_mb,
    }
    row = {"what": case.what, "precision": case.dtype, "images": case.images}
    return {**row, **{key: None if value is None else rounded(value) for key, value in numbers.items()}}


if __name__ == "__main__":
    main()
