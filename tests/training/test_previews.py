"""Images of a training: against what the library draws by other ways, and angles measured on the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from spherectl import api
from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, MemoryImages, open_dataset
from spherectl.data.transforms import to_float
from spherectl.errors import FileError
from spherectl.images import grid
from spherectl.model.formats.weights import Package, instantiate
from spherectl.model.geometry import spherify
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.training.previews import chosen, reconstructions, samples

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> api.Model:
    return api.load(tiny_run, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> ImageSet:
    recipe = recipes.load(packaged("recipes") / "debug.toml")
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


def decoded_latents(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor | None]]:
    """What is decoded from now on."""
    seen: list[tuple[Tensor, Tensor | None]] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda v, labels: seen.append((v, labels)) or decode(v, labels))
    return seen


def test_samples_are_rows_of_one_step_and_of_four(model: api.Model) -> None:
    drawn = samples(model)
    assert (drawn.shape, drawn.dtype) == ((20, 3, 32, 32), torch.float32)
    for row, steps in zip(drawn.split(10), (1, 4), strict=True):
        assert torch.equal(row, torch.cat([one.images for one in api.generate(model, 10, steps=steps)]))


def test_samples_are_those_that_a_training_leaves_in_its_folder(model: api.Model, tiny_run: Path) -> None:
    with Image.open(tiny_run / "samples" / "000000000160.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert np.array_equal(grid(samples(model), 10).permute(1, 2, 0).numpy(), pixels)


def test_the_first_rows_are_the_images_and_what_the_model_makes_of_them(model: api.Model, dataset: ImageSet) -> None:
    images, labels = chosen(dataset)
    rows = reconstructions(model, images, labels).split(len(images))
    assert len(rows) == 4
    assert torch.equal(rows[0], images)
    assert torch.equal(rows[1], model.reconstruct(images, labels))
    assert not torch.equal(rows[2], rows[1])


def test_latents_are_turned_by_the_angles_along_one_noise(
    model: api.Model, dataset: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = chosen(dataset)
    v = model.encode(images, labels).flatten(1)
    seen = decoded_latents(model, monkeypatch)
    reconstructions(model, images, labels)
    assert all(torch.equal(given, labels) for _, given in seen)
    turned = [latents.flatten(1) for latents, _ in seen]
    assert all(torch.allclose(spherify(one), one, atol=1e-4) for one in turned)
    angles = [torch.cosine_similarity(v, one).clamp(max=1).acos().rad2deg() for one in turned]
    assert float(angles[0].max()) < 0.1
    # e is orthogonal to v but for 1 / sqrt(L), L = 128: 5 degrees
    for measured, wanted in zip(angles[1:], (40, 80), strict=True):
        assert float(measured.mean()) == pytest.approx(wanted, abs=4)
    # All three of an image lie in one plane: the noise is the same at every angle.
    for image in zip(*turned, strict=True):
        assert float(torch.linalg.svdvals(torch.stack(image))[2]) < 1e-3


def test_a_image_is_turned_alike_whatever_stands_beside_it(model: api.Model, dataset: ImageSet) -> None:
    images, labels = chosen(dataset)
    together = reconstructions(model, images, labels, (60.0,))
    alone = reconstructions(model, images[:1], labels[:1], (60.0,))
    assert torch.equal(together[[0, len(images)]], alone)


def test_an_unconditional_model_needs_no_labels(dataset: ImageSet, lively: Callable[[Recipe], Package]) -> None:
    recipe = recipes.load(packaged("recipes") / "debug.toml").replace(model={"num_classes": 0})
    package = lively(recipe)
    model = api.Model(instantiate(package, "raw"), package.header, name="a", device=CPU)
    images = to_float(dataset.gather([0, 1]))
    rows = reconstructions(model, images, None, (0.0, 30.0))
    assert rows.shape == (6, 3, 32, 32)
    assert torch.equal(rows[2:4], model.reconstruct(images))
    assert torch.equal(rows, reconstructions(model, images, torch.zeros(2, dtype=torch.int64), (0.0, 30.0)))


# Which images


def numbered(count: int, size: int = 32) -> MemoryImages:
    """Image i is all i, of class i."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None].expand(count, size, size)
    about: dict[str, Any] = {"name": "a", "root": Path(), "class_names": (), "licence": "", "fit": "pad"}
    return MemoryImages(pixels=pixels, labels=torch.arange(count), image_size=size, **about)


@pytest.mark.parametrize(
    ("count", "size", "numbers"),
    [
        (100, 32, [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]),
        (100, 256, [12, 37, 62, 87]),
        (3, 32, [0, 1, 2]),
        (1, 256, [0]),
    ],
)
def test_the_images_are_spread_evenly_over_the_set(count: int, size: int, numbers: list[int]) -> None:
    images, labels = chosen(numbered(count, size))
    assert labels.tolist() == numbers
    assert images.shape == (len(numbers), 3, size, size)
    assert (255 * images[:, 1, 0, 0]).round().int().tolist() == numbers


@dataclass(eq=False, repr=False, kw_only=True)
class Damaged(ImageSet):
    """A set of which only some images can be read; image i is all i."""

    readable: set[int]
    in_memory: ClassVar[bool] = False

    def _gather(self, indices: Tensor) -> Tensor:
        for number in indices.tolist():
            if number not in self.readable:
                raise FileError(f"Cannot read image {number}.")
        return indices.to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)

    def _contents(self) -> Iterator[bytes]:
        raise NotImplementedError


def test_images_that_cannot_be_read_are_left_out() -> None:
    about: dict[str, Any] = {"name": "a", "root": Path(), "class_names": (), "licence": "", "image_size": 32}
    about["labels"] = torch.arange(20)
    images, labels = chosen(Damaged(readable={1, 7, 9}, **about))  # of 1, 3, ..., 19
    assert labels.tolist() == [1, 7, 9]
    assert (255 * images[:, 0, 0, 0]).round().int().tolist() == [1, 7, 9]
    with pytest.raises(FileError, match="Cannot read image 19"):
        chosen(Damaged(readable={2}, **about))
