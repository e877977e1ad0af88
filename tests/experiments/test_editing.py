"""How editing is measured: seams, silhouettes, the blend it is compared with, and the page that tells it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments import editing
from experiments.editing import accuracy, feathered, iou, seam, with_tables
from spherectl import api
from spherectl.data.datasets import open_dataset
from spherectl.data.transforms import to_float
from spherectl.editing.rounds import TO_CLASS, rounds
from spherectl.editing.stitching import layout_mask, stitch
from spherectl.evaluation.extractors import open_extractor
from spherectl.recipe import DataSpec

ROOT = Path(__file__).parents[2]
DATA = DataSpec(kind="fashion-mnist", fit="pad", flip=False, channels="grey")


def halves(left: float, right: float) -> Tensor:
    image = torch.full((1, 3, 32, 32), left)
    image[..., 16:] = right
    return image


@pytest.mark.fast
def test_a_seam_is_the_step_in_the_middle() -> None:
    assert seam(halves(0.25, 0.75)).tolist() == [0.5]
    assert seam(halves(0.5, 0.5)).tolist() == [0]
    assert seam(halves(0.0, 1.0).roll(1, dims=-1)).tolist() == [0]


@pytest.mark.fast
def test_a_feathered_blend_is_a_ramp_over_the_seam() -> None:
    mask = layout_mask("left-right", 32)
    blend = stitch(torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32), feathered(mask, 8))[0, 0, 0]
    steps = blend.diff().abs()
    assert steps.max().item() == pytest.approx(1 / 8)
    assert (steps > 0).sum() == 8
    assert {blend[0].item(), blend[-1].item()} == {0.0, 1.0}
    assert feathered(mask, 8).shape == mask.shape


@pytest.mark.fast
def test_rounds_within_a_band_leave_the_rest_as_it_is(tiny_run: Path) -> None:
    model = api.load(tiny_run, dtype="float32")
    a, b = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    mask = layout_mask("left-right", 32)
    first, *_, last = editing.confined(model, a, b, mask, 8)
    for images in (first, last):
        changed = (images != stitch(a, b, mask)).any(dim=(0, 1, 2))
        assert changed.nonzero()[:, 0].tolist() == list(range(13, 20))  # 8 steps of the ramp
    assert not torch.equal(first, last)


@pytest.mark.fast
def test_silhouettes_overlap_as_areas_do() -> None:
    left, whole, nothing = halves(1.0, 0.0), halves(1.0, 1.0), halves(0.0, 0.0)
    assert iou(left, whole).item() == pytest.approx(0.5)
    assert iou(left, left * 0.2).item() == 1
    assert iou(left, nothing).item() == iou(nothing, nothing).item() == 0


@pytest.mark.fast
def test_accuracy_is_the_share_with_the_asked_class(fashion_excerpt: Path) -> None:
    test = open_dataset(DATA, 32, split="test", root=fashion_excerpt)
    images, scorer = to_float(test.gather(torch.arange(len(test)))), open_extractor(editing.SCORER)
    right = accuracy(images, test.labels, scorer)
    assert right > 0.85
    assert accuracy(images, (test.labels + 1) % 10, scorer) <= 1 - right


@pytest.mark.fast
def test_the_page_says_what_was_measured_and_the_default_is_the_best_point() -> None:
    results = json.loads((ROOT / "docs" / "editing.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8")
    assert with_tables(page, results) == page
    least = results["classes"]["iou_of_random_images"] + 0.12
    kept = [row for row in results["classes"]["rows"] if row["iou"] >= least]
    best = max(kept, key=lambda row: row["accuracy"])
    assert {"noise_deg": best["noise_deg"], "guidance": best["guidance"], "steps": 4} == TO_CLASS


@pytest.mark.slow
def test_a_model_is_measured(
    fashion_excerpt: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing, "ROUNDS", 2)
    monkeypatch.setattr(editing, "NOISES_DEG", (0.0, 60.0))
    monkeypatch.setattr(editing, "ANGLES_DEG", (0.0, 80.0))
    monkeypatch.setattr(editing, "GUIDANCES", (1.0, 2.0))
    monkeypatch.setattr(editing, "BANDS", (8,))
    monkeypatch.setattr(editing, "BAND_ROUNDS", 1)
    words = ["editing", "--model", str(tiny_run), "--count", "6", "--data", str(fashion_excerpt)]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path)])
    editing.main()
    found = json.loads((tmp_path / "editing.json").read_text(encoding="utf-8"))
    model = api.load(tiny_run, dtype="float32")
    assert (found["model_sha256"], found["count"]) == (model.sha256, 6)
    stitched, blended, own, *after = found["harmonise"]["rows"]
    assert len(after) == 2 * 2 + 1
    assert stitched["seam"] > blended["seam"]
    assert stitched["psnr_db"] > blended["psnr_db"] > 0
    low, high = found["harmonise"]["seam_band"]
    assert 0 <= low <= high
    assert own["frechet"] > 0
    rows = found["classes"]["rows"]
    assert [(row["noise_deg"], row["guidance"]) for row in rows] == [(0, 1), (0, 2), (80, 1), (80, 2)]
    test = open_dataset(model.recipe.data, 32, split="test", root=fashion_excerpt)
    numbers = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:6]
    images, labels = to_float(test.gather(numbers)), test.labels[numbers]
    generator = torch.Generator().manual_seed(0)
    target = (labels + torch.randint(1, 10, labels.shape, generator=generator)) % 10
    *_, drawn = rounds(model, images, target, count=4, noise_deg=80.0, guidance=2.0, seed=0)
    assert rows[-1]["iou"] == pytest.approx(iou(drawn, images).mean().item(), rel=0.01)
    assert rows[-1]["accuracy"] == pytest.approx(accuracy(drawn, target, open_extractor(editing.SCORER)), rel=0.01)
