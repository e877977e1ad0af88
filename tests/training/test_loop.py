"""The loop: what it learns, what it leaves behind, when it refuses, and where it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from spherectl import recipe as recipes
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import TrainingError, UsageError
from spherectl.model import objective
from spherectl.model.formats.weights import Package, instantiate, read_package
from spherectl.model.sphere import build
from spherectl.recipe import Recipe
from spherectl.settings import packaged
from spherectl.training import checkpoint
from spherectl.training.finetune import take_over
from spherectl.training.loop import train
from spherectl.training.monitor import Monitor
from spherectl.training.plan import plan, resolve, smoke
from spherectl.training.run import Run
from spherectl.training.step import Part, sphere_step

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")

# The debug recipe's first 20 losses in float64: a change detector, no oracle. Replaced only with a CHANGELOG line.
DEBUG_LOSSES: list[float] = json.loads(Path(__file__).with_name("debug-losses.json").read_text())


def debug(dataset: ImageSet, **tables: dict[str, Any]) -> Recipe:
    return resolve(recipes.load(packaged("recipes") / "debug.toml").replace(**tables), dataset, CPU)


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> ImageSet:
    recipe = recipes.load(packaged("recipes") / "debug.toml")
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


def lines(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(dataset: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the debug recipe, left as it is by all tests."""
    return train(debug(dataset), dataset, tmp_path_factory.mktemp("whole") / "run", device=CPU).run


def test_debug_recipe_has_its_stored_losses_which_halve(dataset: ImageSet, tmp_path: Path) -> None:
    outcome = train(debug(dataset, run={"dtype": "float64"}), dataset, tmp_path / "run", device=CPU)
    losses = [line["loss"] for line in lines(outcome.run)]
    assert losses == pytest.approx(DEBUG_LOSSES, rel=1e-7)
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]


def test_a_scheduled_weight_counts_as_it_is_then(dataset: ImageSet, tmp_path: Path) -> None:
    """The first step's parts are equal but for their weights: nothing has moved yet."""
    weights = {"con": 1, "con_perceptual": 1, "latent": 0.5, "centre": 0.1}
    entries = ({"images": 8, "con": 0.5, "latent": 0.1, "centre": 0}, {"images": 24})
    plain, scheduled = (
        lines(train(debug(dataset, loss=loss, run={"length_images": 64}), dataset, tmp_path / name, device=CPU).run)
        for name, loss in (("plain", weights), ("scheduled", weights | {"schedule": entries}))
    )
    parts = ("loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat", "loss_centre")
    for line in plain:
        assert line["loss"] == pytest.approx(sum(line[part] for part in parts), rel=1e-5)
        assert -0.1 <= line["loss_centre"] <= 0.1
    assert scheduled[0]["loss_rec"] == plain[0]["loss_rec"]
    for part, share in (("loss_con", 0.5), ("loss_lat", 0.2), ("loss_centre", 0)):
        assert scheduled[0][part] == pytest.approx(share * plain[0][part], rel=1e-5)
    assert scheduled[1]["loss_centre"] == 0 < abs(scheduled[-1]["loss_centre"])
    assert scheduled[-1]["loss"] != plain[-1]["loss"]


def test_a_steps_loss_is_that_of_its_time(dataset: ImageSet) -> None:
    loss = {"pooled": 3, "schedule": [{"images": 80, "pooled": 1}, {"images": 120}]}
    step = sphere_step(debug(dataset, loss=loss), None)
    drawn = [step.noise(torch.zeros(8, dtype=torch.long), Part(seen, 0, 8, CPU)) for seen in (0, 80, 100, 120, 160)]
    assert [weights.pooled for _, weights in drawn] == [1, 1, 2, 3, 3]


def test_a_run_folder_has_what_it_promises(dataset: ImageSet, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    recipe = debug(dataset)
    outcome = train(recipe, dataset, tmp_path / "run", device=CPU, on_step=seen.append)
    run = outcome.run
    assert (outcome.finished, outcome.images_seen, outcome.steps_now) == (True, 160, 20)
    assert recipes.load(run.recipe) == recipe
    assert recipe.run.length_images == 160
    assert lines(run) == seen
    assert list(seen[0]) == [
        *("step", "images_seen", "loss", "loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat"),
        *("latent_norm", "lr", "grad_norm", *Monitor.KEYS),
    ]
    assert [line["images_seen"] for line in seen] == list(range(8, 161, 8))
    assert [line["step"] for line in seen if "effective_rank" in line] == [10, 20]
    assert all(1 <= line["effective_rank"] <= 8 for line in seen if "effective_rank" in line)
    assert all(line["data_wait_s"] < 8 / line["images_per_s"] for line in seen)
    sampled = [f"{images:012d}{kind}.png" for images in (80, 160) for kind in ("", "-reconstructions")]
    assert sorted(p.name for p in run.samples.iterdir()) == sorted(sampled)
    assert {"device", "versions", "parent"} <= json.loads(run.info.read_text()).keys()
    package = read_package(run.model)
    header = package.header
    assert header["images_seen"] == 160
    assert header["class_names"][9] == "ankle-boot"
    assert header["channels"] == "grey"
    assert str(tmp_path) not in json.dumps(header)  # no paths
    assert str(dataset.root) not in json.dumps(header)
    newest = checkpoint.checkpoints(run.checkpoints)[-1]
    averages = checkpoint.read_part(newest, "ema")
    assert averages.keys() == package.weights.keys()
    assert all(torch.equal(package.weights[name], t) for name, t in averages.items())
    raw = checkpoint.read_part(newest, "model")
    model = instantiate(Package(header, package.weights, raw), "raw")
    assert not torch.equal(model.state_dict()["decoder.out.2.bias"], package.weights["decoder.out.2.bias"])


def test_tensorboard_is_written(whole: Run) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole.path / "tensorboard")).Reload()
    by_step = {line["step"]: line["loss"] for line in lines(whole)}
    for event in events.Scalars("loss"):
        assert event.value == pytest.approx(by_step[event.step], rel=1e-6)
    assert [event.step for event in events.Scalars("loss")] == [10, 20]


def test_checkpoints_are_pruned(dataset: ImageSet, tmp_path: Path) -> None:
    recipe = debug(dataset, run={"length_images": 64, "checkpoint_images": 24, "keep_checkpoints": 2})
    run = train(recipe, dataset, tmp_path / "run", device=CPU).run
    assert [p.name for p in checkpoint.checkpoints(run.checkpoints)] == ["000000000048", "000000000064"]


def test_stopping_saves_and_the_next_call_goes_on_alike(whole: Run, dataset: ImageSet, tmp_path: Path) -> None:
    recipe = debug(dataset)
    asked = iter(range(7))
    first = train(recipe, dataset, tmp_path / "parts", device=CPU, should_stop=lambda: next(asked) == 6)
    assert (first.finished, first.images_seen) == (False, 56)
    second = train(recipe, dataset, tmp_path / "parts", device=CPU)
    assert (second.finished, second.steps_now) == (True, 13)
    assert second.run.model.read_bytes() == whole.model.read_bytes()
    third = train(recipe, dataset, tmp_path / "parts", device=CPU)
    assert (third.finished, third.steps_now) == (True, 0)


def test_a_run_whose_rate_has_not_begun_to_fall_may_become_longer(dataset: ImageSet, tmp_path: Path) -> None:
    """6 steps of one that would have been 8 long, then as one of 10: the same as 10 from the start."""
    short, long = (debug(dataset, optim={"decay_images": 16}, run={"length_images": n}) for n in (64, 80))
    whole = train(long, dataset, tmp_path / "whole", device=CPU).run
    asked = iter(range(6))
    first = train(short, dataset, tmp_path / "parts", device=CPU, should_stop=lambda: next(asked) == 5)
    assert first.images_seen == 48
    second = train(long, dataset, tmp_path / "parts", device=CPU)
    assert (second.finished, second.steps_now) == (True, 4)
    assert second.run.model.read_bytes() == whole.model.read_bytes()
    assert recipes.load(second.run.recipe).run.length_images == 80


@pytest.mark.parametrize("decay", [None, 16])
def test_a_run_whose_rate_has_fallen_stays_as_long_as_it_is(
    decay: int | None, dataset: ImageSet, tmp_path: Path
) -> None:
    short, long = (debug(dataset, optim={"decay_images": decay}, run={"length_images": n}) for n in (64, 80))
    train(short, dataset, tmp_path / "run", device=CPU)
    with pytest.raises(UsageError, match=r"differs in run\.length_images"):
        train(long, dataset, tmp_path / "run", device=CPU)


def test_a_kill_between_the_last_checkpoint_and_the_model_file_is_made_good(
    whole: Run, dataset: ImageSet, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(whole.path, tmp_path / "run"))
    run.model.write_bytes(train(smoke(debug(dataset)), dataset, tmp_path / "a", device=CPU).run.model.read_bytes())
    half = run.path / ".model.safetensors.abc.tmp.safetensors"
    half.write_bytes(whole.model.read_bytes()[:1000])
    again = train(debug(dataset), dataset, run.path, device=CPU)
    assert (again.finished, again.steps_now) == (True, 0)
    assert run.model.read_bytes() == whole.model.read_bytes()
    assert not half.exists()


def test_another_recipe_in_the_folder_is_refused_by_its_keys(dataset: ImageSet, tmp_path: Path) -> None:
    train(debug(dataset, run={"length_images": 8}), dataset, tmp_path / "run", device=CPU)
    other = debug(dataset, run={"length_images": 8, "seed": 1}, optim={"lr": 2e-3})
    with pytest.raises(UsageError, match=r"differs in optim\.lr, run\.seed"):
        train(other, dataset, tmp_path / "run", device=CPU)


def test_two_trainings_in_one_folder_are_refused(dataset: ImageSet, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.locked(), pytest.raises(TrainingError, match="Another process"):
        train(debug(dataset), dataset, run.path, device=CPU)
    assert train(debug(dataset, run={"length_images": 8}), dataset, run.path, device=CPU).finished  # lock is gone


def test_a_loss_that_is_not_finite_stops_before_anything_moves(
    dataset: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = debug(dataset, run={"length_images": 64, "checkpoint_images": 64})
    real, count = objective.objective, 0

    def broken(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        losses = real(*arguments, **named)
        if count == 5:
            object.__setattr__(losses, "total", losses.total * float("nan"))
        return losses

    monkeypatch.setattr(objective, "objective", broken)
    with pytest.raises(TrainingError, match="Step 5 has a non-finite loss"):
        train(recipe, dataset, tmp_path / "run", device=CPU)
    monkeypatch.undo()
    run = Run(tmp_path / "run")
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert [p.name for p in checkpoint.checkpoints(run.checkpoints)] == ["000000000032"]
    # Trained on from there it equals a run that never failed: nothing had moved.
    whole = train(recipe, dataset, tmp_path / "whole", device=CPU).run
    assert train(recipe, dataset, tmp_path / "run", device=CPU).run.model.read_bytes() == whole.model.read_bytes()


def test_a_gradient_that_is_not_finite_stops_too(
    dataset: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match="gradient norm"):
        train(debug(dataset), dataset, tmp_path / "run", device=CPU)


def test_fine_tuning_takes_what_fits(whole: Run, dataset: ImageSet, tmp_path: Path) -> None:
    start = read_package(whole.model)
    model = build(debug(dataset).model.model_copy(update={"num_classes": 4}))
    kept = take_over(model, start.weights)
    assert kept == ["encoder.y_embedder.embedding_table.weight", "decoder.y_embedder.embedding_table.weight"]
    state = model.state_dict()
    assert all(torch.equal(state[n], t) for n, t in start.weights.items() if n not in kept)
    recipe = debug(dataset, run={"length_images": 8})
    tuned = train(recipe, dataset, tmp_path / "run", device=CPU, start=start, parent="abc").run
    assert read_package(tuned.model).header["parent"] == "abc"
    assert lines(tuned)[0]["loss"] < 0.6 * lines(whole)[0]["loss"]
    with pytest.raises(UsageError, match="--from"):
        train(recipe, dataset, tmp_path / "run", device=CPU)


@pytest.mark.parametrize("name", sorted(p.stem for p in packaged("recipes").glob("*.toml")))
def test_a_smoke_recipe_keeps_resolution_and_latent(name: str) -> None:
    recipe = recipes.load(packaged("recipes") / f"{name}.toml")
    small = smoke(recipe)
    assert small.model.image_size == recipe.model.image_size
    assert small.model.latent_size == recipe.model.latent_size
    assert (small.model.size, small.run.length_images) == ("nano", 12)
    assert small.run.default == recipe.run.default


def test_plan_counts_without_allocating() -> None:
    recipe = recipes.load(packaged("recipes") / "imagenet256-xl.toml").resolve(1_281_167, 1000)
    size = plan(recipe)
    assert size.parameters == 1_388_922_404
    assert (size.tokens, size.latent_size) == (1024, 65536)
    assert size.images == size.steps * 256
    assert size.images == pytest.approx(800 * 1_281_167, abs=256)
    assert size.memory_bytes > 20 * size.parameters
