"""The page of the committed JSON: every number of it, in words and tables that say what it is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import page
from benchmarks.tables import show, table

pytestmark = pytest.mark.fast

DOCS = Path(__file__).parents[2] / "docs"
RESULTS: dict[str, Any] = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))

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
    assert text == (DOCS / "performance.md").read_text(encoding="utf-8")
    for key, value in values(RESULTS):
        if key not in UNSEEN:
            assert show(value) in text, (key, value)
    assert f"SHA-256 {RESULTS['models'][0]['sha256'][:12]}" in text


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
