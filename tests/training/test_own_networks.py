"""A kind of network and a logger, each added by one record: recipes, trainings, model files, errors know them."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from spherectl import api, registry
from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import UsageError
from spherectl.model.formats.header import read_header
from spherectl.model.formats.weights import read_package
from spherectl.recipe import Recipe
from spherectl.registry import LoggerKind, NetworkKind
from spherectl.settings import packaged
from spherectl.training import Part, Step, train
from spherectl.training.checkpoint import Counts
from spherectl.training.plan import plan

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
GUIDE = Path(__file__).parents[2] / "docs" / "own-networks.md"
LENGTH = {"length_images": 32, "checkpoint_images": 16, "sample_images": 16, "batch_size": 8}


@pytest.fixture
def dataset(fashion_excerpt: Path) -> ImageSet:
    recipe = recipes.load(packaged("recipes") / "debug.toml")
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


@pytest.fixture
def affine(monkeypatch: pytest.MonkeyPatch) -> NetworkKind:
    """Networks of one weight and one bias an image is multiplied by and added to."""

    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.bias = nn.Parameter(torch.rand(1)), nn.Parameter(torch.zeros(1))

    def step(recipe: Recipe, perceptual: Any) -> Step:
        def loss(networks: Any, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
            error = networks.gain * images + networks.bias - images
            return {"loss": error.square().mean(), "numbers": noise.float().mean()}

        return Step(lambda labels, part: part.numbers, loss)

    kind = NetworkKind(
        "affine", networks="a gain and a bias", build=lambda spec: Affine(), step=step, sampling="affine {}",
        previews=lambda networks, dataset: {"samples": networks.gain.detach().clamp(0, 1).expand(3, 4, 4)},
    )  # fmt: skip
    monkeypatch.setitem(registry.NETWORKS, kind.name, kind)
    return kind


def made(**run: Any) -> Recipe:
    tables = {"model": {"kind": "affine"}, "loss": {"perceptual": "none"}, "run": LENGTH | run}
    return recipes.parse({"name": "a", **tables}, "a")


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_kind_of_one_record_trains_stops_and_goes_on(affine: NetworkKind, dataset: ImageSet, tmp_path: Path) -> None:
    whole = train(made(), dataset, tmp_path / "whole", device="cpu").run
    assert [line["numbers"] for line in lines(whole.path)] == [3.5, 11.5, 19.5, 27.5]  # images seen before each
    assert "mfu" not in lines(whole.path)[0]  # its operations are not known
    asked = iter([False, True])
    train(made(), dataset, tmp_path / "parts", device="cpu", should_stop=lambda: next(asked))
    parts = train(made(), dataset, tmp_path / "parts", device="cpu")
    assert parts.steps_now == 2
    assert parts.run.model.read_bytes() == whole.model.read_bytes()
    assert [path.name for path in sorted(whole.samples.iterdir())] == ["000000000016.png", "000000000032.png"]
    pieces = train(made(micro_batch_size=3), dataset, tmp_path / "pieces", device="cpu").run
    assert [line["loss"] for line in lines(pieces.path)] == pytest.approx(
        [line["loss"] for line in lines(whole.path)], rel=1e-5
    )


def test_its_files_recipes_and_errors_have_its_name(
    affine: NetworkKind, dataset: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(made(), dataset, tmp_path / "run", device="cpu").run
    assert read_header(run.model)["architecture"] == "affine"
    assert sorted(read_package(run.model, "affine").weights) == ["bias", "gain"]
    assert plan(recipes.load(run.recipe)).parameters == 2
    with pytest.raises(UsageError, match="holds an affine; a sphere-encoder is needed here") as caught:
        api.load(run.path)
    assert caught.value.hint == f"`affine {run.model}` samples from it."
    with pytest.raises(UsageError, match=r"model\.kind: expected 'sphere'.* or 'affine', got 'gan'"):
        made().replace(model={"kind": "gan"})
    monkeypatch.delitem(registry.NETWORKS, "affine")
    with pytest.raises(UsageError, match=r"model\.kind: expected 'sphere'.*got 'affine'"):
        recipes.load(run.recipe)


def test_a_step_of_ones_own_trains_the_sphere_encoder(dataset: ImageSet, tmp_path: Path) -> None:
    seen: list[Part] = []

    def noise(labels: Tensor, part: Part) -> Tensor:
        seen.append(part)
        return labels

    def loss(networks: Any, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (networks.decoder(networks.encoder(images, labels), labels) - images).abs().mean()}

    recipe = recipes.load(packaged("recipes") / "debug.toml").replace(run=LENGTH)
    run = train(recipe, dataset, tmp_path / "run", step=Step(noise, loss), device="cpu").run
    assert [(part.images_seen, part.start, part.stop) for part in seen] == [(n, 0, 8) for n in (0, 8, 16, 24)]
    assert len({line["loss"] for line in lines(run.path)}) == 4
    assert {"loss_rec", "effective_rank"}.isdisjoint(lines(run.path)[-1])
    assert api.load(run.path).recipe.model.kind == "sphere"


def test_state_that_no_checkpoint_keeps_is_refused(
    affine: NetworkKind, dataset: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = NetworkKind("norm", networks="one", build=lambda spec: nn.BatchNorm2d(3), step=affine.step)
    monkeypatch.setitem(registry.NETWORKS, "norm", kind)
    recipe = made().replace(model={"kind": "norm"})
    with pytest.raises(UsageError, match="state beside their parameters: num_batches_tracked, running_mean"):
        train(recipe, dataset, tmp_path / "run", device="cpu")


def test_the_guide_trains_in_forty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    script = tmp_path / "autoencoder.py"
    script.write_text(code, encoding="utf-8")
    (tmp_path / "images").mkdir()
    for number in range(16):
        Image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), number + 2).save(tmp_path / "images" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "images")])
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        registry.NETWORKS.pop("autoencoder", None)
    folder, images = capsys.readouterr().out.split()
    assert images == "48"
    found = lines(Path(folder))
    assert found[-1]["loss"] < found[0]["loss"]
    assert all(line["rmse"] == pytest.approx(line["loss"] ** 0.5, rel=1e-5) for line in found)


# A logger


class Recorder:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.images_of: list[tuple[str, int]] = []

    def scalars(self, line: dict[str, float]) -> None:
        self.lines.append(line)

    def images(self, name: str, image: Tensor, counts: Counts) -> None:
        self.images_of.append((name, counts.images_seen))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()

    @contextlib.contextmanager
    def opened(folder: Path, *, step: int, last_step: int) -> Iterator[Recorder]:
        assert (folder.name, step, last_step) == ("run", 0, 4)
        yield found

    monkeypatch.setitem(registry.LOGGERS, "paper", LoggerKind("paper", "json", "nothing", opened))
    return found


@pytest.mark.parametrize("loggers", [None, ["paper"], []], ids=["all that are installed", "this one", "none"])
def test_a_logger_of_one_record_is_told_every_step_and_preview(
    loggers: list[str] | None, recorder: Recorder, affine: NetworkKind, dataset: ImageSet, tmp_path: Path
) -> None:
    recipe = made() if loggers is None else made(loggers=loggers)
    run = train(recipe, dataset, tmp_path / "run", device="cpu").run
    assert recorder.lines == ([] if loggers == [] else lines(run.path))
    assert recorder.images_of == ([] if loggers == [] else [("samples", 16), ("samples", 32)])
    assert (run.path / "tensorboard").is_dir() == (loggers is None and registry.TENSORBOARD.installed)


def test_a_logger_is_a_choice_of_recipes_and_told_where_it_is_missing(
    recorder: Recorder, affine: NetworkKind, dataset: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"run\.loggers: expected 'tensorboard' or 'paper', got 'pen'"):
        made(loggers=["pen"])
    monkeypatch.setitem(registry.LOGGERS, "paper", LoggerKind("paper", "no_such_module", "a pen", Recorder))
    with pytest.raises(UsageError, match=r"run\.loggers: paper needs the package no_such_module") as caught:
        train(made(loggers=["paper"]), dataset, tmp_path / "run", device="cpu")
    assert caught.value.hint == "Install it with a pen, or leave it out."
