"""A recipe of the paper on a small synthetic set in its true layout: three steps at full size of image and latent.

Its images are noise; their names and folders are those of the set. tests/test_recipes.py compares each recipe with the
paper, tests/data/sets reads the other layouts, test_train.py has 1000 classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.images import read_provenance


@pytest.fixture
def animal_faces(tmp_path: Path) -> Path:
    """AFHQ's first version: train and val, three kinds of animals, 512 px."""
    for part, count in (("train", 2), ("val", 1)):
        for seed, kind in enumerate(("cat", "dog", "wild")):
            folder = tmp_path / "afhq" / part / kind
            folder.mkdir(parents=True)
            pixels = np.random.default_rng(seed).integers(0, 256, (512, 512, 3), dtype=np.uint8)
            for number in range(count):
                Image.fromarray(pixels).save(folder / f"flickr_{kind}_{number:06d}.jpg")
    return tmp_path / "afhq"


@pytest.mark.slow
def test_a_recipe_of_the_paper_takes_three_steps_and_samples(
    command: Callable[..., Any], work: Path, animal_faces: Path
) -> None:
    name = "animal-faces256"
    paper = recipes.load(zoo.find_recipe(name))
    result = command("train", name, "--data", animal_faces, "--smoke")
    assert result.exit_code == 0, result.stderr
    assert "data: animal-faces, 6 images, 3 classes\n" in result.stderr

    run = work / "runs" / f"{name}-smoke"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    # All else is the paper's file, but for the size of the networks and the perceptual networks, which are not here.
    trained = recipes.load(run / "recipe.toml")
    assert trained.model == paper.model.model_copy(update={"size": "nano"})
    assert trained.noise == paper.noise
    assert trained.loss == paper.loss.model_copy(update={"perceptual": "none"})
    assert trained.sample == paper.sample
    assert trained.data == paper.data.model_copy(update={"root": trained.data.root})

    sampled = command("sample", "--count", 1, "--steps", 1, "--out", "one.png")
    assert sampled.exit_code == 0, sampled.stderr
    assert f"model: runs/{name}-smoke (newest run)\n" in sampled.stderr
    with Image.open(work / "one.png") as image:
        assert image.size == (256, 256)
    about = read_provenance(work / "one.png")
    assert about is not None
    assert about["model"] == f"{name}-smoke"
