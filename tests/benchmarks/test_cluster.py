"""What recipes need: against a step that really ran, and arithmetic by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cluster
from benchmarks.cases import training_gflop
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.datasets import open_dataset
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast


def test_hours_of_a_gpu() -> None:
    assert cluster.gpu_hours(989 * 3600 / 1e6, 100) == pytest.approx(1)
    assert cluster.gpu_hours(100, 25) == pytest.approx(4 * cluster.gpu_hours(100, 100))


def test_sizes_count_as_a_step_that_ran(fashion_excerpt: Path) -> None:
    recipe = recipes.load(zoo.find_recipe("debug"))
    pictures = open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)
    assert cluster.step_gflop(recipe.model) == pytest.approx(training_gflop(recipe, pictures), rel=1e-6)


def test_recipes_are_counted_by_their_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "step_gflop", lambda _: 570.0)
    monkeypatch.setattr(cluster, "perceptual_gflop", lambda _: 30.0)
    (row,) = cluster.needs(("cifar10",))
    assert row["exaflop"] == 150  # 250 million images of 600 GFLOP
    assert row["parameters"] == 263_818_155
    assert [row[f"gpu_hours_at_{share}"] for share in (30, 40, 50)] == [140, 105, 84.3]
    with pytest.raises(UsageError, match="fashion-mnist gives its length in images"):
        cluster.needs(("fashion-mnist",))


def test_every_recipe_of_the_paper_is_there() -> None:
    of_the_paper = {
        path.stem
        for path in zoo.find_recipe("cifar10").parent.glob("*.toml")
        if recipes.load(path).run.length_epochs is not None
    }
    assert set(cluster.RECIPES) == of_the_paper
