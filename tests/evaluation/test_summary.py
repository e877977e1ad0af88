"""The summary against what its parts give by hand, on a model whose drawings are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl import api
from spherectl.data.datasets import PictureSet, open_dataset
from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.evaluation.summary import reconstruction_psnr, summarise
from spherectl.features.scores import frechet_distance, reference_statistics
from spherectl.features.store import load_feature_network
from spherectl.model.sphere import build, initialise
from spherectl.recipe import Recipe

pytestmark = pytest.mark.fast

TABLE: dict[str, Any] = {
    "name": "known",
    "model": {"image_size": 32, "patch_size": 8, "size": "nano", "num_classes": 10, "compression_ratio": 24},
    "data": {"kind": "fashion-mnist", "fit": "pad", "flip": False, "channels": "grey"},
    "loss": {"perceptual": "features:fashion-features"},
    "run": {"length_images": 8},
}


@pytest.fixture(scope="module")
def sets(fashion_excerpt: Path) -> tuple[PictureSet, PictureSet]:
    data = Recipe.model_validate(TABLE).data
    return tuple(open_dataset(data, 32, root=fashion_excerpt, split=s) for s in ("train", "test"))  # type: ignore[return-value,arg-type]


@pytest.fixture(scope="module")
def model(sets: tuple[PictureSet, PictureSet]) -> api.Model:
    network = build(Recipe.model_validate(TABLE).model)
    initialise(network, 0)
    header = {"recipe": TABLE, "weights": "raw", "class_names": list(sets[0].class_names)}
    device = torch.device("cpu")
    return api.Model(network.eval().requires_grad_(False), header, name="known", device=device)


def test_a_score_by_the_models_own_loss_is_refused(model: api.Model, sets: tuple[PictureSet, PictureSet]) -> None:
    with pytest.raises(UsageError, match="fashion-features"):
        summarise(model, *sets, scorer="fashion-features", count=20)


def test_numbers_are_those_of_the_pictures(
    model: api.Model, sets: tuple[PictureSet, PictureSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = sets

    def draw_real(_model: api.Model, count: int, *, steps: int, **_: Any) -> Any:
        """Training pictures at four steps, the same with half their labels wrong at one."""
        images, labels = to_float(train.gather(torch.arange(count))), train.labels[:count]
        wrong = torch.arange(count) % 2 == 0
        given = torch.where(wrong, (labels + 1) % 10, labels) if steps == 1 else labels
        yield api.Generated(images, given, torch.arange(count))

    monkeypatch.setattr(api, "generate", draw_real)
    summary = summarise(model, train, test, scorer="fashion-scorer", count=200, steps=(1, 4))
    network = load_feature_network("fashion-scorer")
    one, four = summary.samples
    with torch.no_grad():
        right = network(to_float(train.gather(torch.arange(200)))).argmax(1) == train.labels[:200]
    assert four.accuracy == pytest.approx(float(right.double().mean()))
    assert one.accuracy < 0.55
    reference = reference_statistics(network, test)
    drawn = reference_statistics(network, train, torch.arange(200))
    expected = frechet_distance(drawn.mean, drawn.covariance, reference.mean, reference.covariance)
    assert four.frechet == pytest.approx(expected, rel=1e-6)
    assert summary.channel_spread == 0
    assert summary.accuracy_real > 0.85


def test_psnr_of_a_constant_error(model: api.Model, sets: tuple[PictureSet, PictureSet]) -> None:
    class Off:
        num_classes = 10

        @staticmethod
        def reconstruct(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return images + 0.1

    assert reconstruction_psnr(Off(), sets[1]) == pytest.approx(20.0, abs=1e-4)  # type: ignore[arg-type]  # -10 log10 0.01


def test_another_number_of_classes_is_refused(model: api.Model, sets: tuple[PictureSet, PictureSet]) -> None:
    other = {**TABLE, "model": {**TABLE["model"], "num_classes": 3}}
    network = build(Recipe.model_validate(other).model)
    three = api.Model(network, {"recipe": other, "weights": "raw"}, name="three", device=torch.device("cpu"))
    with pytest.raises(UsageError, match="three has 3 classes"):
        summarise(three, *sets, scorer="fashion-scorer", count=20)
