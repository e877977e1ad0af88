"""The loop: what it learns, what it leaves behind, when it refuses, and where it goes on."""

from __future__ import annotations

import json
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


def test_debug_recipe_has_its_stored_losses(dataset: ImageSet, tmp_path: Path) -> None:
    outcome = train(debug(dataset, run={"dtype": "float64"}), dataset, tmp_path / "run", device=CPU)
    assert [line["loss"] for line in lines(outcome.run)] == pytest.approx(DEBUG_LOSSES, rel=1e-7)


def test_the_loss_at_least_halves(dataset: ImageSet, tmp_path: Path) -> None:
    recipe = debug(dataset, run={"length_images": 1600, "checkpoint_images": 1600, "sample_images": 1600})
    run = train(recipe, dataset, tmp_path / "run", device=CPU).run
    losses = [line["loss"] for line in lines(run)]
    assert sum(losses[-20:]) / 20 < 0.5 * losses[0]


def test_the_part_that_centres_classes_is_told_where_it_is_on(dataset: ImageSet, tmp_path: Path) -> None:
    recipe = debug(dataset, loss={"centre": 0.5})
    run = train(recipe, dataset, tmp_path / "run", device=CPU).run
    told = lines(run)
    assert all(-0.5 <= line["loss_centre"] <= 0.5 for line in told)
    assert len({line["loss_centre"] for line in told}) > 1
    parts = ("loss_rec", "loss_rec_perc", "loss_con", "loss_con_perc", "loss_lat", "loss_centre")
    assert all(line["loss"] == pytest.approx(sum(line[part] for part in parts), rel=1e-5) for line in told)


def test_a_scheduled_weight_counts_as_it_is_then(dataset: ImageSet, tmp_path: Path) -> None:
    """The first step's parts are equal but for their weights: nothing has moved yet."""
    weights = {"con": 1, "con_perceptual": 1, "latent": 0.5, "centre": 0.1}
    entries = ({"images": 8, "con": 0.5, "latent": 0.1, "centre": 0}, {"images": 80})
    plain, scheduled = (
        lines(train(debug(dataset, loss=weights | {"schedule": s}), dataset, tmp_path / name, device=CPU).run)
        for name, s in (("plain", ()), ("scheduled", entries))
    )
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
    drawn = [f"{images:012d}{kind}.png" for images in (80, 160) for kind in ("", "-reconstructions")]
    assert sorted(p.name for p in run.samples.iterdir()) == sorted(drawn)
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


def test_tensorboard_is_written(dataset: ImageSet, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(debug(dataset), dataset, tmp_path / "run", device=CPU).run
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    by_step = {line["step"]: line["loss"] for line in lines(run)}
    for event in events.Scalars("loss"):
        assert event.value == pytest.approx(by_step[event.step], rel=1e-6)
    assert [event.step for event in events.Scalars("loss")] == [10, 20]


def test_checkpoints_are_pruned(dataset: ImageSet, tmp_path: Path) -> None:
    recipe = debug(dataset, run={"checkpoint_images": 24, "keep_checkpoints": 2})
    run = train(recipe, dataset, tmp_path / "run", device=CPU).run
    assert [p.name for p in checkpoint.checkpoints(run.checkpoints)] == ["000000000144", "000000000160"]


def test_stopping_saves_and_the_next_call_goes_on_alike(dataset: ImageSet, tmp_path: Path) -> None:
    recipe = debug(dataset)
    whole = train(recipe, dataset, tmp_path / "whole", device=CPU).run
    count = 0

    def after_seven() -> bool:
        nonlocal count
        count += 1
        return count == 7

    first = train(recipe, dataset, tmp_path / "parts", device=CPU, should_stop=after_seven)
    assert (first.finished, first.images_seen) == (False, 56)
    second = train(recipe, dataset, tmp_path / "parts", device=CPU)
    assert (second.finished, second.steps_now) == (True, 13)
    assert second.run.model.read_bytes() == whole.model.read_bytes()
    third = train(recipe, dataset, tmp_path / "parts", device=CPU)
    assert (third.finished, third.steps_now) == (True, 0)


def test_a_run_whose_rate_has_not_begun_to_fall_may_become_longer(dataset: ImageSet, tmp_path: Path) -> None:
    """12 steps of one that would have been 14 long, then as one of 20: the same as 20 from the start."""
    short, long = (debug(dataset, optim={"decay_images": 16}, run={"length_images": n}) for n in (112, 160))
    whole = train(long, dataset, tmp_path / "whole", device=CPU).run
    asked = iter(range(100))
    first = train(short, dataset, tmp_path / "parts", device=CPU, should_stop=lambda: next(asked) == 11)
    assert first.images_seen == 96
    second = train(long, dataset, tmp_path / "parts", device=CPU)
    assert (second.finished, second.steps_now) == (True, 8)
    assert second.run.model.read_bytes() == whole.model.read_bytes()
    assert recipes.load(second.run.recipe).run.length_images == 160


@pytest.mark.parametrize("decay", [None, 64])
def test_a_run_whose_rate_has_fallen_stays_as_long_as_it_is(
    decay: int | None, dataset: ImageSet, tmp_path: Path
) -> None:
    short, long = (debug(dataset, optim={"decay_images": decay}, run={"length_images": n}) for n in (112, 160))
    train(short, dataset, tmp_path / "run", device=CPU)
    with pytest.raises(UsageError, match=r"differs in run\.length_images"):
        train(long, dataset, tmp_path / "run", device=CPU)


def test_a_kill_between_the_last_checkpoint_and_the_model_file_is_made_good(dataset: ImageSet, tmp_path: Path) -> None:
    run = train(debug(dataset), dataset, tmp_path / "run", device=CPU).run
    whole, earlier = (
        run.model.read_bytes(),
        train(debug(dataset, run={"length_images": 80}), dataset, tmp_path / "a", device=CPU).run,
    )
    run.model.write_bytes(earlier.model.read_bytes())
    half = run.path / ".model.safetensors.abc.tmp.safetensors"
    half.write_bytes(whole[:1000])
    again = train(debug(dataset), dataset, run.path, device=CPU)
    assert (again.finished, again.steps_now) == (True, 0)
    assert run.model.read_bytes() == whole
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
    recipe = debug(dataset, run={"checkpoint_images": 160})
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


def test_fine_tuning_takes_what_fits(dataset: ImageSet, tmp_path: Path) -> None:
    source = train(debug(dataset, run={"length_images": 80}), dataset, tmp_path / "a", device=CPU).run
    start = read_package(source.model)
    model = build(debug(dataset).model.model_copy(update={"num_classes": 4}))
    kept = take_over(model, start.weights)
    assert kept == ["encoder.y_embedder.embedding_table.weight", "decoder.y_embedder.embedding_table.weight"]
    state = model.state_dict()
    assert all(torch.equal(state[n], t) for n, t in start.weights.items() if n not in kept)
    tuned = train(debug(dataset), dataset, tmp_path / "b", device=CPU, start=start, parent="abc").run
    assert read_package(tuned.model).header["parent"] == "abc"
    assert lines(tuned)[0]["loss"] < 0.6 * lines(source)[0]["loss"]
    with pytest.raises(UsageError, match="--from"):
        train(debug(dataset), dataset, tmp_path / "b", device=CPU)


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


def test_raw_weights_of_a_run_are_those_of_its_newest_checkpoint(dataset: ImageSet, tmp_path: Path) -> None:
    run = train(debug(dataset), dataset, tmp_path / "run", device=CPU).run
    raw = checkpoint.read_part(checkpoint.checkpoints(run.checkpoints)[-1], "model")
    package = read_package(run.model)
    model = instantiate(Package(package.header, package.weights, raw), "raw")
    assert not torch.equal(model.state_dict()["decoder.out.2.bias"], package.weights["decoder.out.2.bias"])
