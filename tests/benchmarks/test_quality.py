"""How pictures are compared: against numbers made by hand, closed forms, and `score_samples`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import subjects
from benchmarks.quality import SCORER, Scorer, compared, differences, half_interval, invariance, resamples
from benchmarks.subjects import BASELINE, PLAIN, spec_of
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import to_float
from spherectl.features.scores import reference_statistics, score_samples
from spherectl.features.store import load_feature_network

pytestmark = pytest.mark.fast


def test_psnr_is_of_the_middle_and_of_the_worst_pictures() -> None:
    exact = torch.full((200, 3, 4, 4), 0.5)
    images = exact.clone()
    images[:150] += 0.1  # 20 dB
    images[150:153] += 0.3  # 10.46 dB: the worst three of 200, so the second lowest is one of them
    assert compared(images, exact) == {"median_psnr_db": 20, "low_psnr_db": 10.5, "largest_difference_levels": 76}


def test_equal_pictures_have_no_psnr() -> None:
    exact = torch.full((5, 3, 4, 4), 0.5)
    assert compared(exact, exact) == {"median_psnr_db": None, "low_psnr_db": None, "largest_difference_levels": 0}


def test_levels_are_counted_after_rounding() -> None:
    exact = torch.full((1, 3, 4, 4), 0.5)
    images = exact.clone()
    images[0, 0, 0, 0] += 3 / 255
    assert compared(images, exact)["largest_difference_levels"] == 3
    assert compared(exact + 1e-6, exact)["largest_difference_levels"] == 0


def test_the_interval_holds_the_middle_of_the_values() -> None:
    assert half_interval([float(value) for value in range(1001)]) == pytest.approx(475)
    assert half_interval([2.0] * 10) == 0


def test_resamples_are_drawn_with_replacement_and_again_the_same() -> None:
    drawn = resamples(50, 20)
    assert drawn.shape == (20, 50)
    assert int(drawn.min()) == 0
    assert int(drawn.max()) == 49
    assert all(len(row.unique()) < 50 for row in drawn)
    assert torch.equal(drawn, resamples(50, 20))


def test_the_distance_is_that_of_score_samples(fashion_excerpt: Path) -> None:
    recipe = recipes.load(zoo.find_recipe("fashion-mnist"))
    test = open_dataset(recipe.data, 32, root=fashion_excerpt, split="test")
    train = open_dataset(recipe.data, 32, root=fashion_excerpt)
    images = to_float(train.gather(torch.arange(100)))
    model = subjects.embedded().baseline
    scorer = Scorer(model, test)
    features = scorer.embed(images)
    network = load_feature_network(SCORER)
    expected = score_samples([(images, None)], network, reference_statistics(network, test), recipe=model.recipe)
    assert scorer.distance(features) == pytest.approx(expected.frechet)
    row = scorer.compared(features, features)
    assert (row["change_percent"], row["frechet"]) == (0, row["frechet_float32"])
    assert row["interval_percent"] > 0
    assert scorer.compared(features + 1, features)["change_percent"] > 0


def test_fast_ways_are_compared_and_no_way_depends_on_the_batch() -> None:
    package = subjects.random_package("nano", spec_of("nano"))
    nano = subjects.Subject("nano", "nano", package, subjects.ways(package, "nano"), ())
    rows = differences(nano, 12, None)
    fast = [path for path in nano.models if path not in (BASELINE, PLAIN)]
    assert [(row["what"], row["path"]) for row in rows] == [
        (what, path) for what in ("1 step", "4 guided steps") for path in fast
    ]
    assert all(row["median_psnr_db"] > 20 for row in rows)
    for row in invariance(nano, count=5):
        if row["path"] != PLAIN:
            assert row["bytes_that_differ"] == row["largest_difference_levels"] == 0, row["path"]
        assert row["bytes"] == 5 * 3 * 32 * 32
