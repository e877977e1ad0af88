"""The table of short trials: each is what it says, results are kept, and the command goes on where it was stopped."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import trials
from experiments.trials import (
    FORMAT,
    SHAPES,
    TRIALS,
    begin,
    begun_with,
    pace,
    page,
    shortened,
    table_of,
    write,
)
from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.data.datasets import ImageSet, open_dataset
from spherectl.errors import TrainingError, UsageError
from spherectl.model.sphere import build
from spherectl.recipe import SIZES, Recipe, differing_keys
from spherectl.tables import flatten, parse_overrides
from spherectl.training.optimiser import learning_rate, total_steps
from spherectl.training.run import Run

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {trial.name: trial for trial in TRIALS}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    for name, size in SHAPES.items():
        monkeypatch.setitem(SIZES, name, size)
    return begun_with(recipes.load(zoo.find_recipe("fashion-mnist")))


@pytest.fixture
def dataset(recipe: Recipe, fashion_excerpt: Path) -> ImageSet:
    return open_dataset(recipe.data, recipe.model.image_size, root=fashion_excerpt)


@pytest.mark.fast
@pytest.mark.parametrize("trial", TRIALS[1:], ids=lambda trial: trial.name)
def test_a_trial_differs_from_the_base_in_what_it_says_and_builds(
    trial: trials.Trial, recipe: Recipe, dataset: ImageSet
) -> None:
    base, changed = (shortened(one, 640, dataset) for one in (recipe, trial.apply(recipe)))
    said = flatten(parse_overrides(trial.changes.split()))
    assert differing_keys(base, changed) == sorted(said)
    assert {key: flatten(changed.to_table())[key] for key in said} == pytest.approx(said)
    with torch.device("meta"):
        network = build(changed.model)
    assert network.latent_shape == (changed.model.tokens, changed.model.channels_per_token)


@pytest.mark.fast
def test_names_that_tell_a_number_are_true(recipe: Recipe, dataset: ImageSet) -> None:
    def of(name: str) -> Recipe:
        return shortened(BY_NAME[name].apply(recipe), 6400, dataset)

    assert of("base").model.latent_size == 512
    assert (of("latent-2048").model.latent_size, of("latent-256").model.latent_size) == (2048, 256)
    assert (SIZES[of("blocks-8").model.size].blocks, SIZES[of("width-192").model.size].width) == (8, 192)
    assert of("patch-2").model.patch == 2
    assert of("patch-2").model.latent_size == 512
    base, half = of("base"), of("batch-32")
    assert total_steps(half) == 2 * total_steps(base)
    tops = [max(learning_rate(step, one) for step in range(total_steps(one))) for one in (base, half, of("lr-2e-3"))]
    assert tops == pytest.approx([1e-3, 1e-3, 2e-3])


@pytest.mark.fast
def test_a_shortened_recipe_has_the_whole_schedule_and_no_folder(recipe: Recipe, dataset: ImageSet) -> None:
    short = shortened(recipe, 6400, dataset)  # more than the warm-up
    assert learning_rate(total_steps(short) - 1, short) == pytest.approx(recipe.optim.min_lr)
    assert not short.run.default
    assert short.data.root == str(dataset.root.absolute())
    assert "root" not in table_of(short)["data"]
    assert short.data.root is not None  # the recipe itself is as it was


@pytest.fixture
def committed() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((ROOT / "docs" / "trials.json").read_text(encoding="utf-8"))
    return table


@pytest.mark.fast
def test_results_of_another_base_are_refused_and_kept(committed: dict[str, Any], tmp_path: Path) -> None:
    about = {key: committed[key] for key in ("base", "count")}
    assert begin(tmp_path, about) == {"format": FORMAT, **about, "trials": []}
    older = copy.deepcopy(committed)
    older["base"]["model"].pop("kind", None)  # as before recipes had that key
    write(tmp_path, older)
    before = (tmp_path / "trials.json").read_bytes()
    assert begin(tmp_path, about)["trials"] == committed["trials"]
    other = copy.deepcopy(about)
    other["base"]["run"] |= {"length_images": 1000, "batch_size": 3}
    with pytest.raises(UsageError, match=r"differ from these in base\.run\.batch_size, base\.run\.length_images"):
        begin(tmp_path, other)
    with pytest.raises(UsageError, match="in count;"):
        begin(tmp_path, about | {"count": 10})
    assert (tmp_path / "trials.json").read_bytes() == before


@pytest.mark.fast
def test_the_committed_table_is_gone_on_with(committed: dict[str, Any], recipe: Recipe, dataset: ImageSet) -> None:
    dtype = committed["base"]["run"]["dtype"]  # of the processor they ran on; "auto" may mean another one here
    base = table_of(shortened(recipe.replace(run={"dtype": dtype}), 60_000, dataset))
    assert begin(ROOT / "docs", {"base": base, "count": 2000})["trials"] == committed["trials"]
    assert (ROOT / "docs" / "trials.md").read_text(encoding="utf-8") == page(committed)


@pytest.mark.fast
def test_the_pace_counts_a_step_once_and_forgets_a_line_cut_short(tmp_path: Path) -> None:
    speeds = [10.0, 40.0, 30.0]
    lines = [json.dumps({"step": step, "images_per_s": speed}) for step, speed in enumerate(speeds, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    seconds = [(1, 60.0), (2, 90.0), (2, 120.0), (3, 60.0)]
    steps = [json.dumps({"step": step, "cpu_s": cpu_s}) for step, cpu_s in seconds]
    steps.insert(2, '{"step": 3, "c' + steps[0])  # killed while it wrote; the next process wrote on behind
    (tmp_path / "cpu.jsonl").write_text("\n".join(steps) + "\n", encoding="utf-8")
    assert pace(Run(tmp_path)) == {"images_per_s": 30.0, "cpu_minutes": 4.0}


@pytest.mark.fast
def test_a_training_that_fails_is_told_of_and_not_recorded(
    tmp_path: Path, fashion_excerpt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(*arguments: Any, **settings: Any) -> None:
        raise TrainingError("Step 3 has a non-finite loss.")

    monkeypatch.setattr(trials, "train", diverge)
    monkeypatch.setattr(trials, "SIZES", dict(SIZES))
    given = Namespace(names=["base", "lr-2e-3"], images=640, count=10, recipe="fashion-mnist", data=fashion_excerpt)
    given.work, given.out = tmp_path / "work", tmp_path / "docs"
    assert trials.run(given) == ["base", "lr-2e-3"]
    assert "lr-2e-3: Step 3 has a non-finite loss." in capsys.readouterr().err
    assert not given.out.exists()


@pytest.mark.slow
def test_the_command_keeps_what_it_has_and_goes_on(
    tmp_path: Path, fashion_excerpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SIZES", SIZES)
    for name, size in SHAPES.items():
        monkeypatch.setitem(SIZES, name, size)
    out, work = tmp_path / "docs", tmp_path / "work"

    def run(*names: str, images: int = 64) -> dict[str, Any]:
        given = Namespace(names=names, images=images, count=10, recipe="fashion-mnist", data=fashion_excerpt)
        given.work, given.out = work, out
        assert trials.run(given) == []
        found: dict[str, Any] = json.loads((out / "trials.json").read_text(encoding="utf-8"))
        return found

    first = run("base")
    assert [one["name"] for one in first["trials"]] == ["base"]
    assert 0 < first["trials"][0]["cpu_minutes"] < 10
    assert 1 <= first["trials"][0]["rank"] <= 10

    # A killed trial: trained, its checkpoint there, but not in the table. It is scored again, and scores the same.
    (out / "trials.json").unlink()
    second = run("base", "blocks-8")
    assert second["trials"][0] == first["trials"][0]
    assert second["trials"][1]["parameters"] > second["trials"][0]["parameters"]
    assert len((work / "base" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "| blocks-8 | `model.size=micro-8` |" in (out / "trials.md").read_text(encoding="utf-8")

    kept = (out / "trials.json").read_bytes()
    run("base", "blocks-8")
    assert (out / "trials.json").read_bytes() == kept
    with pytest.raises(UsageError, match=r"differ from these in base\.run\.length_images"):
        run("base", images=192)
