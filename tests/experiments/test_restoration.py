"""How restoring is compared: the baselines, the choice of settings, and the page that tells it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments import restoration
from experiments.restoration import choose, with_tables
from experiments.restoration_cases import CASES, Case
from spherectl import api
from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import to_float
from spherectl.editing.measurements import measured
from spherectl.editing.restoration import DEFAULTS, TASKS
from spherectl.images import psnr
from spherectl.recipe import DataSpec

ROOT = Path(__file__).parents[2]
DATA = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")


@pytest.fixture(scope="module")
def dataset(fashion_excerpt: Path) -> Tensor:
    return to_float(open_dataset(DATA, 32, split="test", root=fashion_excerpt).gather(torch.arange(6)))


@pytest.mark.fast
@pytest.mark.parametrize("case", CASES, ids=TASKS)
def test_baselines_restore_and_treat_channels_as_they_are(case: Case, dataset: Tensor) -> None:
    how = case.measurement(len(dataset), 32, seed=0)
    y = measured(dataset, how, sigma=case.sigma, grey=True)
    grey = case.compared(how, y, case.parameters[len(case.parameters) // 2], grey=True)
    assert grey.shape == dataset.shape
    assert float(psnr(grey, dataset).mean()) > float(psnr(how.start(y).clamp(0, 1), dataset).mean())
    assert torch.equal(grey[:, 0], grey[:, 2])
    tinted = dataset * torch.tensor([1.0, 0.5, 0.25]).reshape(1, 3, 1, 1)
    found = case.compared(how, how.apply(tinted), case.parameters[0], grey=False)
    assert (found.mean((0, 2, 3)).diff() < -0.03).all()  # colours stay in their order


@pytest.mark.fast
def test_settings_are_chosen_by_the_rule() -> None:
    rows = [
        {"psnr_db": 20.0, "frechet": 9.0, "rounds": 8, "worse": 0.0},
        {"psnr_db": 21.0, "frechet": 9.0, "rounds": 2, "worse": 0.0},
        {"psnr_db": 17.0, "frechet": 5.0, "rounds": 1, "worse": 0.0},
        {"psnr_db": 23.0, "frechet": 12.0, "rounds": 1, "worse": 0.0},
    ]
    assert choose(rows, 18.0) is rows[1]
    assert choose(rows, 16.0) is rows[2]
    assert choose(rows, 22.0) is rows[3]
    assert choose(rows, 30.0) is rows[3]  # none is near: the nearest
    for row, worse in zip(rows, (0.1, 0.3, 0.2, 0.4), strict=True):
        row["worse"] = worse
    assert choose(rows, 18.0) is rows[0]  # of the others one makes too many images worse, one is not near
    assert choose(rows, 16.0) is rows[2]
    assert choose(rows, 22.0) is rows[3]


@pytest.mark.fast
def test_the_page_says_what_was_measured_and_the_defaults_are_what_was_chosen() -> None:
    results = json.loads((ROOT / "docs" / "restoration.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "restoration.md").read_text(encoding="utf-8")
    assert with_tables(page, results) == page
    tasks = results["fashion-mnist"]["tasks"]
    assert {task: one["chosen"] for task, one in tasks.items()} == DEFAULTS
    for one in tasks.values():
        floor = max(row["psnr_db"] for row in one["baselines"]) - restoration.MARGIN_DB
        assert one["chosen"].items() <= choose(one["sweep"], floor).items()


@pytest.mark.slow
def test_one_model_is_measured_and_others_stay(
    fashion_excerpt: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [
        dataclasses.replace(case, angles_deg=(30.0,), weights=case.weights[:2], parameters=case.parameters[:2])
        for case in CASES
    ]
    monkeypatch.setattr(restoration, "CASES", few)
    monkeypatch.setattr(restoration, "ROUNDS", (1, 2))
    old = json.loads((ROOT / "docs" / "restoration.json").read_text(encoding="utf-8"))
    marks = "".join(
        f"<!-- {name}: python -m experiments.restoration -->\nold\n<!-- end of {name} -->\n"
        for name in ("results", "settings")
    )
    (tmp_path / "restoration.json").write_text(json.dumps(old), encoding="utf-8")
    (tmp_path / "restoration.md").write_text(marks, encoding="utf-8")
    words = ["restoration", "--model", str(tiny_run), "--count", "6", "--data", str(fashion_excerpt)]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path)])
    restoration.main()
    results = json.loads((tmp_path / "restoration.json").read_text(encoding="utf-8"))
    assert results["fashion-mnist"] == old["fashion-mnist"]
    found = results["tiny"]
    assert list(found["tasks"]) == list(TASKS)
    page = (tmp_path / "restoration.md").read_text(encoding="utf-8")
    assert "old\n" not in page
    assert page.count("`tiny`, ") == page.count("`fashion-mnist`, ") == 2
    dataset = open_dataset(api.load(tiny_run).recipe.data, 32, split="test", root=fashion_excerpt)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:6]
    truth = to_float(dataset.gather(order))
    for case, one in zip(few, found["tasks"].values(), strict=True):
        assert len(one["sweep"]) == 2 * 2
        damaged, *baselines, restored = one["results"]
        how = case.measurement(6, 32, seed=1)
        y = measured(truth, how, sigma=case.sigma, grey=True, seed=1)
        start = how.start(y).clamp(0, 1)
        assert damaged["psnr_db"] == pytest.approx(float(psnr(start, truth).mean()), rel=0.005)
        assert [row["what"].split(",")[0] for row in baselines] == [case.baseline] * len(baselines)
        assert {key: restored[key] for key in one["chosen"]} == one["chosen"]
