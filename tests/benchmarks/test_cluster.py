"""What recipes need: against a step that really ran, and arithmetic by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cluster
from benchmarks.cases import training_gflop
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.datasets import open_dataset
from spherectl.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def measured() -> list[dict[str, Any]]:
    """The rows that `make bench` counted."""
    rows: list[dict[str, Any]] = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))["cluster"]["rows"]
    return rows


@pytest.mark.fast
def test_sizes_count_as_a_step_that_ran(fashion_excerpt: Path) -> None:
    recipe = recipes.load(zoo.find_recipe("debug"))
    images = open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)
    assert cluster.step_gflop(recipe.model) == pytest.approx(training_gflop(recipe, images), rel=1e-6)


@pytest.mark.fast
def test_recipes_are_counted_by_their_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "step_gflop", lambda _: 570.0)
    monkeypatch.setattr(cluster, "perceptual_gflop", lambda _: 30.0)
    (row,) = cluster.needs(("cifar10",))
    assert row["exaflop"] == 150  # 250 million images of 600 GFLOP
    assert row["parameters"] == 263_818_155
    assert [row[f"gpu_hours_at_{share}"] for share in (30, 40, 50)] == [140, 105, 84.3]
    with pytest.raises(UsageError, match="fashion-mnist gives its length in images"):
        cluster.needs(("fashion-mnist",))


@pytest.mark.fast
def test_the_guides_costs_are_those_that_were_counted(measured: list[dict[str, Any]]) -> None:
    """docs/training.md and docs/performance.md are written by two commands from one count."""
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    assert cluster.with_costs(text, measured) == text
    assert [row["recipe"] for row in measured] == list(cluster.RECIPES)


@pytest.mark.slow
def test_a_count_of_today_is_the_pages(measured: list[dict[str, Any]]) -> None:
    """Networks and loss are as they were when the pages were written; counting all recipes takes a minute."""
    assert cluster.needs(("cifar10",)) == [row for row in measured if row["recipe"] == "cifar10"]
