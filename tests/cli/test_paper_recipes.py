"""The paper's recipes on small synthetic sets in their true layouts: three steps at full size of image and latent.

Then `sample` samples from the run. The files are noise; their names, folders, labels and numbers are those of the sets.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.images import read_provenance
from spherectl.model.formats.header import read_header

# Section 4: px, N, d, L, classes. What else the paper's table has, tests/test_recipes.py compares with it.
SHAPES = {
    "cifar10": (32, 256, 8, 2048, 10),
    "cifar10-uncond": (32, 256, 8, 2048, 0),
    "animal-faces256": (256, 1024, 128, 131072, 0),
    "flowers256": (256, 1024, 128, 131072, 102),
    "imagenet256": (256, 1024, 64, 65536, 1000),
    "imagenet256-xl": (256, 1024, 64, 65536, 1000),
}


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def jpeg(path: Path, seed: int, width: int, height: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, height, width, 3)).save(path, "JPEG")
    return path


def link(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, place)


def cifar10(root: Path) -> str:
    """The binary version: rows of a label and three planes, in five files and one."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = noise(number, 4, 3073)
        rows[:, 0] = np.arange(4) + number
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n...\n")
    return "cifar10, 20 images, 10 classes"


def animal_faces(root: Path) -> str:
    """AFHQ's first version: train and val, three kinds of animals, 512 px."""
    for part, count in (("train", 2), ("val", 1)):
        for seed, kind in enumerate(("cat", "dog", "wild")):
            for number in range(count):
                prefix = "flickr_wild" if kind == "wild" else f"flickr_{kind}"
                jpeg(root / part / kind / f"{prefix}_{number:06d}.jpg", seed, 512, 512)
    return "animal-faces, 6 images, 3 classes"


def flowers102(root: Path) -> str:
    """All 8,189 names, labels and split numbers; shorter sides of 500 px, upright and lying."""
    folder = root / "flowers-102"
    shown = [jpeg(folder / f"{seed}.jpg", seed, *size) for seed, size in enumerate([(500, 620), (667, 500)])]
    for number in range(1, 8190):
        link(shown[number % 2], folder / "jpg" / f"image_{number:05d}.jpg")
    labels = np.arange(8189) % 102 + 1
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    numbers = np.arange(1, 8190, dtype=np.uint16)[None]
    splits = {"trnid": numbers[:, :1020], "valid": numbers[:, 1020:2040], "tstid": numbers[:, 2040:]}
    scipy.io.savemat(folder / "setid.mat", splits)
    return "flowers102, 8,189 images, 102 classes"


def imagenet(root: Path) -> str:
    """A folder a synset, the first and the last by their true names; .JPEG, one of them grey as some of ImageNet's."""
    shown = [jpeg(root / f"{seed}.JPEG", seed, *size) for seed, size in enumerate([(500, 375), (333, 500)])]
    grey = root / "grey.JPEG"
    Image.fromarray(noise(2, 300, 400)).save(grey)
    synsets = ["n01440764", *(f"n02{number:06d}" for number in range(998)), "n15075141"]
    for number, synset in enumerate(synsets):
        link([*shown, grey][number % 3], root / "train" / synset / f"{synset}_{number}.JPEG")
    link(shown[0], root / "val" / synsets[0] / "ILSVRC2012_val_00000293.JPEG")
    for path in (*shown, grey):
        path.unlink()
    return "imagenet, 1,000 images, 1000 classes"


MAKERS: dict[str, Callable[[Path], str]] = {
    "cifar10": cifar10,
    "animal-faces": animal_faces,
    "flowers102": flowers102,
    "imagenet": imagenet,
}


@pytest.fixture(scope="module")
def published_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """`published_set("imagenet")`: its folder, made once, and what `train` is to say of it."""
    made: dict[str, tuple[Path, str]] = {}

    def make(kind: str) -> tuple[Path, str]:
        if kind not in made:
            root = tmp_path_factory.mktemp("sets") / kind
            root.mkdir()
            made[kind] = root, MAKERS[kind](root)
        return made[kind]

    return make


@pytest.mark.fast
def test_shapes_are_those_of_every_recipe_of_the_paper() -> None:
    """The paper's recipes are those that give their length in epochs."""
    paths = zoo.find_recipe("cifar10").parent.glob("*.toml")
    assert {path.stem for path in paths if recipes.load(path).run.length_epochs is not None} == SHAPES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_recipe_of_the_paper_takes_three_steps_and_samples(
    name: str, command: Callable[..., Any], work: Path, published_set: Callable[[str], tuple[Path, str]]
) -> None:
    paper = recipes.load(zoo.find_recipe(name))
    data, said = published_set(paper.data.kind)
    result = command("train", name, "--data", data, "--smoke")
    assert result.exit_code == 0, result.stderr
    assert f"data: {said}\n" in result.stderr

    run = work / "runs" / f"{name}-smoke"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    trained = recipes.load(run / "recipe.toml")
    model, (px, *_, classes) = trained.model, SHAPES[name]
    latents = (model.tokens, model.channels_per_token, model.latent_size)
    assert (model.image_size, *latents, model.num_classes) == SHAPES[name]
    # All else is the paper's file, but for the size of the networks and the perceptual networks, which are not here.
    assert model == paper.model.model_copy(update={"size": "nano"})
    assert trained.noise == paper.noise
    assert trained.loss == paper.loss.model_copy(update={"perceptual": "none"})
    assert trained.sample == paper.sample
    assert trained.data == paper.data.model_copy(update={"root": trained.data.root})

    sampled = command("sample", "--count", 1, "--steps", 1, "--out", "one.png")
    assert sampled.exit_code == 0, sampled.stderr
    assert f"model: runs/{name}-smoke (newest run)\n" in sampled.stderr
    with Image.open(work / "one.png") as image:
        assert image.size == (px, px)
    about = read_provenance(work / "one.png")
    assert about is not None
    assert about["model"] == f"{name}-smoke"
    names = read_header(run / "model.safetensors")["class_names"]
    assert len(names) == classes
    if classes == 1000:
        assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
