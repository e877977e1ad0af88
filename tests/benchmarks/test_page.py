"""The page of a hand-made JSON: every number of it, in words and tables that say what it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.page import page
from benchmarks.tables import show, table

pytestmark = pytest.mark.fast


def case(kind: str, model: str, what: str, images: int, path: str, ms: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "model": model,
        "what": what,
        "images": images,
        "path": path,
        "ms": ms,
        "lowest_ms": ms - 0.25,
        "highest_ms": ms + 0.25,
        "images_per_s": 77.7,
        "gflop": 1.48,
        "percent_of_peak": 84.2,
        "memory_mb": None,
        "ratio": 3.33,
        "ratio_to_plain_bfloat16": 1.71,
    }


RESULTS: dict[str, Any] = {
    "format": 2,
    "date": "2031-02-03",
    "command": "python -m benchmarks.speed --seconds 5",
    "machine": {"processor": "Abacus", "flags": ["avx2"], "cores": 2, "memory_gb": 25.3},
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
    "kernels": "works (bfloat16 products 4.0 times as fast as float32)",
    "recipe": "fashion-mnist",
    "visits": 123,
    "method": {
        "turn_ms": 20,
        "matrix_side": 2048,
        "copied_mb": 268,
        "guidance": 1.4,
        "least_baseline_percent": 80,
    },
    "peaks": [
        {
            "what": "matrix product",
            "precision": "int8",
            "unit": "GFLOP/s",
            "median": 1010.0,
            "lowest": 9.9,
            "highest": 2e3,
        }
    ],
    "models": [
        {
            "name": "fashion-mnist",
            "title": "fashion-mnist (micro)",
            "parameters": 3848548,
            "sha256": "0123456789abcdef",
        },
        {
            "name": "base",
            "title": "base, 32 px, patch 2",
            "parameters": 263818155,
            "sha256": "",
            "baseline_images": 8,
            "baseline_percent": 84.2,
            "baseline_holds": True,
        },
    ],
    "cases": [
        case("draws", "fashion-mnist", "4 guided steps", 64, "float32", 1234.0),
        case("draws", "base", "1 step", 8, "int8, kernels", 987.0),
        case("passes", "fashion-mnist", "encode", 64, "float32", 345.0),
        case("training", "fashion-mnist", "training step", 64, "float32", 2345.0),
        case("training", "fashion-mnist", "training step", 64, "bfloat16, kernels", 543.0),
    ],
    "quality": {
        "model": "fashion-mnist",
        "images": 1000,
        "scorer": "fashion-scorer",
        "resamples": 200,
        "covered": 95.0,
        "rows": [
            {
                "what": "1 step",
                "path": "int8, kernels",
                "images": 1000,
                "median_psnr_db": 52.6,
                "low_psnr_db": 46.7,
                "largest_difference_levels": 7,
                "frechet_float32": 1.21,
                "frechet": 1.22,
                "change_percent": 0.826,
                "interval_percent": 4.31,
            }
        ],
    },
    "invariance": [
        {
            "what": "4 guided steps",
            "path": "float32",
            "images": 32,
            "bytes": 98304,
            "bytes_that_differ": 0,
            "largest_difference_levels": 0,
        }
    ],
    "growth": [
        {
            "over": over,
            "value": value,
            "images": 1,
            "tokens": 256,
            "parameters": 79898955,
            "precision": "bfloat16",
            "ms": 55.5,
            "images_per_s": 18.0,
            "gflop": 15.3,
            "gflop_per_s": 276.0,
            "weights_mb": 160.0,
            "memory_mb": 110.0,
        }
        for over, value in (("resolution", "512 px"), ("size", "large"), ("batch", "64"), ("steps", "8 guided steps"))
    ],
    "cluster": {
        "gpu": "H100",
        "gpu_tflops": 989,
        "source": "NVIDIA H100 datasheet",
        "shares_percent": [30, 40, 50],
        "rows": [
            {
                "recipe": "cifar10",
                "parameters": 263818155,
                "epochs": 5000.0,
                "images": 50000,
                "gflop_an_image": 571.0,
                "perceptual_gflop_an_image": 90.1,
                "exaflop": 165.0,
                "gpu_hours_at_30": 155.0,
                "gpu_hours_at_40": 116.0,
                "gpu_hours_at_50": 92.8,
            }
        ],
    },
    "left_out": ["base, 32 px, patch 2: 1 step, 64 images: about 25 s in float32."],
    "training_equality": {
        "date": "2031-02-04",
        "command": "python -m benchmarks.training_equality",
        "recipe": "fashion-mnist",
        "steps": 500,
        "last": 100,
        "length": 32000,
        "difference_percent": 0.123,
        "rows": [
            {"path": "float32", "mean_loss": 0.901234},
            {"path": "bfloat16, kernels", "mean_loss": 0.902345},
        ],
    },
}

UNSEEN = {  # which table a row is in, and what decides how it is shown
    *("format", "turn_ms", "name", "kind", "model", "over", "baseline_holds", "shares_percent", "sha256"),
    *("ratio_to_plain_bfloat16", "images_per_s", "images"),  # shown in some tables, checked below
}


def values(table: Any, key: str = "") -> list[tuple[str, Any]]:
    """All values with their keys, however deep."""
    if isinstance(table, dict):
        return [pair for name, value in table.items() for pair in values(value, name)]
    if isinstance(table, list):
        return [pair for value in table for pair in values(value, key)]
    return [(key, table)]


def test_every_number_of_the_json_is_on_the_page() -> None:
    text = page(RESULTS)
    for key, value in values(RESULTS):
        if key not in UNSEEN:
            assert show(value) in text, (key, value)
    assert "SHA-256 0123456789ab" in text
    assert "| 1.71 |" in text


def test_what_was_not_measured_is_not_on_the_page() -> None:
    few = {key: value for key, value in RESULTS.items() if key not in ("quality", "growth", "cluster")}
    few.pop("training_equality")
    text = page(few)
    for head in ("The same images", "Growth", "on a cluster", "The same losses"):
        assert head in page(RESULTS)
        assert head not in text
    unscored = copy.deepcopy(RESULTS)
    unscored["quality"]["scorer"] = None
    for row in unscored["quality"]["rows"]:
        for key in ("frechet", "frechet_float32", "change_percent", "interval_percent"):
            del row[key]
    assert "there are no Frechet distances" in page(unscored)
    assert "| samples | path | median PSNR, dB | 1% quantile, dB | at most, of 255 |" in page(unscored)

    without = copy.deepcopy(RESULTS)
    without["quality"]["rows"] = []  # no fast ways on this processor
    assert "median PSNR" not in page(without)
    assert "## The same images\n\n32 images" in page(without)


def test_columns_of_words_stand_left_and_missing_numbers_are_dashes() -> None:
    rows = [{"a": "x", "b": 1234.5, "c": None}, {"a": "y", "b": 1e6, "c": 2}]
    assert table(rows, {"a": "A", "b": "B", "c": "C"}).splitlines() == [
        "| A | B | C |",
        "| --- | --: | --: |",
        "| x | 1,234.5 | - |",
        "| y | 1,000,000 | 2 |",
    ]
