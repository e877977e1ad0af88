"""How images are compared: against numbers made by hand, closed forms, and the evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import subjects
from benchmarks.quality import Scorer, compared, differences, invariance
from benchmarks.scoring import SCORER
from benchmarks.subjects import BASELINE, PLAIN, spec_of
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import to_float
from spherectl.evaluation.fidelity import fidelity

pytestmark = pytest.mark.fast


def test_psnr_is_of_the_middle_and_of_the_worst_images_and_none_of_equal_ones() -> None:
    exact = torch.full((200, 3, 4, 4), 0.5)
    images = exact.clone()
    images[:150] += 0.1  # 20 dB
    images[150:153] += 0.3  # 10.46 dB: the worst three of 200, so the second lowest is one of them
    assert compared(images, exact) == {"median_psnr_db": 20, "low_psnr_db": 10.5, "largest_difference_levels": 76}
    assert compared(exact, exact) == {"median_psnr_db": None, "low_psnr_db": None, "largest_difference_levels": 0}


def test_the_distance_is_that_of_the_evaluation(fashion_excerpt: Path) -> None:
    recipe = recipes.load(zoo.find_recipe("fashion-mnist"))
    test = open_dataset(recipe.data, 32, root=fashion_excerpt, split="test")
    train = open_dataset(recipe.data, 32, root=fashion_excerpt)
    pixels = train.gather(torch.arange(100))
    scorer = Scorer(subjects.embedded().baseline, test)
    features = scorer.embed(to_float(pixels))
    expected = fidelity(pixels, test, SCORER, metrics=["fid"])
    assert scorer.distance(features) == pytest.approx(expected.frechet_distance)
    row = scorer.compared(features, features)
    assert (row["change_percent"], row["frechet"]) == (0, row["frechet_float32"])
    assert row["interval_percent"] > 0
    assert scorer.compared(features + 1, features)["change_percent"] > 0


def test_fast_ways_are_compared_and_no_way_depends_on_the_batch() -> None:
    package = subjects.random_package("nano", spec_of("nano"))
    nano = subjects.Subject("nano", "nano", package, subjects.ways(package, "nano"), ())
    rows = differences(nano, 4, None)
    fast = [path for path in nano.models if path not in (BASELINE, PLAIN)]
    assert [(row["what"], row["path"]) for row in rows] == [
        (what, path) for what in ("1 step", "4 guided steps") for path in fast
    ]
    assert all(row["median_psnr_db"] > 20 for row in rows)
    for row in invariance(nano, count=3):
        if row["path"] != PLAIN:
            assert row["bytes_that_differ"] == row["largest_difference_levels"] == 0, row["path"]
        assert row["bytes"] == 3 * 3 * 32 * 32
