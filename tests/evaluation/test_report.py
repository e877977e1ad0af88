"""Reports: tables that say what they are of, JSON without surprises, images that can be made again."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from spherectl import api
from spherectl.data.datasets import ImageSet
from spherectl.evaluation import report as reports
from spherectl.evaluation.bootstrap import Difference
from spherectl.evaluation.extractors import Extractor, open_extractor
from spherectl.evaluation.fidelity import Scores
from spherectl.evaluation.protocol import Comparison, Grid, Plan, Real, Reconstruction, Report, Row
from spherectl.evaluation.reference import of_images
from spherectl.evaluation.spectrum import PatchLines
from spherectl.evaluation.uniformity import uniformity_by_class
from spherectl.images import read_provenance
from spherectl.recipe import SampleSpec

pytestmark = pytest.mark.fast

SETTINGS = SampleSpec(steps=2, guidance=1.4)


@dataclasses.dataclass
class Named:
    """As much of an extractor as a table asks for."""

    is_inception: bool = False


def make_report(count: int = 2000, **changes: Any) -> Report:
    """One row of made-up scores beside a row of real images."""
    scores = Scores("net", "some set", count, "round", 3.25, 0.0123, 0.001, 8.5, 0.1, 0.75, 0.5, 0.912)
    interval = {"frechet_distance": (3.0, 3.5), "kid": (-0.01, 0.03)}
    row = Row(
        "model",
        SETTINGS.model_dump(),
        scores,
        32.5,
        interval,
        channel_spread=3,
        patch_lines=PatchLines(0.912, 1.1),
        seconds=12.34,
    )
    other = dataclasses.replace(row, settings=SETTINGS.model_copy(update={"steps": 4}).model_dump())
    real = Row("real images", None, dataclasses.replace(scores, frechet_distance=0.1, accuracy=None), 1.0)
    empty: dict[str, Any] = {"uniformity": {}, "memorisation": {}, "notes": [], "grids": [], "neighbours": {}}
    about = {
        "models": [],
        "plan": Plan(),
        "real": None,
        "extractor": Named(),
        "accuracy_real": 0.94,
        "rows": [row, other],
        "floor": real,
        "comparisons": [Comparison(other.label, row.label, "kid", Difference(-0.01, -0.02, 0.001))],
        "reconstructions": [Reconstruction("model", "set test", 50, 0.2, 25.9, 0.95, None, {"psnr": (25.0, 27.0)})],
    }
    return Report(**{**about, **empty, **changes})


@pytest.mark.parametrize(("count", "first"), [(4_999, "KID"), (5_000, "Frechet distance")])
def test_kid_stands_first_where_samples_are_few(count: int, first: str) -> None:
    heads = list(reports.score_rows(make_report(count))[0])
    assert heads[:5] == ["model", "steps", "guidance", "noise", first]


def test_names_of_inceptions_scores_are_for_inception_alone() -> None:
    own, published = (reports.score_rows(make_report(extractor=Named(one)))[0] for one in (False, True))
    assert {"Frechet distance", "class score"} <= own.keys()
    assert {"FID", "Inception Score"} <= published.keys()
    assert not {"FID", "Inception Score"} & own.keys()
    assert "rFID" in reports.reconstruction_rows(make_report(extractor=Named(True)))[0]


def test_a_row_shows_scores_with_their_intervals_and_the_real_images_below() -> None:
    first, _, real = reports.score_rows(make_report())
    assert first == {
        "model": "model",
        "steps": "2",
        "guidance": "1.4",
        "noise": "shared",
        "KID": "0.0123 (-0.01 to 0.03)",
        "Frechet distance": "3.25 (3 to 3.5)",
        "in floors": "32.50",
        "class score": "8.50",
        "precision": "0.750",
        "recall": "0.500",
        "class right": "91.2%",
        "colour": "3 levels",
        "patch lines": "0.91",
        "seconds": "12.3",
    }
    assert (real["model"], real["steps"], real["class right"]) == ("real images", "", "")


@pytest.mark.parametrize(
    ("settings", "cell", "label"),
    [
        ({}, "shared", ""),
        ({"noise": "fresh"}, "fresh", ", fresh noise"),
        ({"strength": "decaying"}, "shared, decaying", ", decaying noise"),
        ({"noise": "fresh", "strength": "decaying"}, "fresh, decaying", ", fresh and decaying noise"),
        ({"noise_deg": 70.0}, "shared, at most 70 degrees", ", at most 70 degrees"),
        (
            {"strength": "decaying", "noise_deg": 67.5},
            "shared, decaying, at most 67.5 degrees",
            ", decaying noise, at most 67.5 degrees",
        ),
    ],
)
def test_every_mode_of_noise_has_its_own_words(settings: dict[str, Any], cell: str, label: str) -> None:
    row = Row("model", SETTINGS.model_copy(update=settings).model_dump(), Scores("net", "set", 20, "round"))
    assert row.label == f"model, 2 steps, guidance 1.4{label}"
    assert reports.score_rows(make_report(rows=[row]))[0]["noise"] == cell


def test_what_was_not_measured_has_no_column() -> None:
    scores = Scores("net", "some set", 20, "round", frechet_distance=3.0)
    rows = reports.score_rows(make_report(rows=[Row("model", SETTINGS.model_dump(), scores)], floor=None))
    assert list(rows[0]) == ["model", "steps", "guidance", "noise", "Frechet distance", "seconds"]


def test_differences_say_whether_they_may_be_chance() -> None:
    (row,) = reports.comparison_rows(make_report())
    assert row["difference"] == "-0.01"
    assert row["differs"] == "not beyond chance"
    surely = make_report(comparisons=[Comparison("a", "b", "kid", Difference(-0.01, -0.02, -0.001))])
    assert reports.comparison_rows(surely)[0]["differs"] == "yes"


def test_uniformity_is_shown_beside_what_uniform_points_give() -> None:
    points = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    found = uniformity_by_class(points, torch.arange(60) % 2, ("a", "b"), draws=19)
    rows = reports.uniformity_rows(found)
    assert [row["class"] for row in rows] == ["all", "a", "b"]
    assert rows[0]["points"] == "60"
    assert f"{found.overall.effective_rank.value:.4g} (uniform" in rows[0]["effective rank / L"]


@pytest.fixture
def measured(excerpt: tuple[ImageSet, ImageSet], scorer: Extractor) -> dict[str, Any]:
    """What a real evaluation puts into its report beside the scores."""
    return {
        "models": [api.load("fashion-mnist")],
        "plan": Plan(steps=(2, 4), metrics=["fid"], count=2000),
        "real": Real(of_images(excerpt[1], scorer, what="test"), *excerpt, "test"),
        "extractor": scorer,
    }


def test_a_written_report_is_whole_and_its_images_can_be_made_again(measured: dict[str, Any], tmp_path: Path) -> None:
    model = measured["models"][0]
    settings = api.sample_settings(model, steps=2, guidance=1.4)
    labels = api.spread_classes(model, 20, None)
    pixels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grid = Grid("model, 2 steps, guidance 1.4", pixels, 10, model, settings, labels)
    report = make_report(grids=[grid], neighbours={"model": pixels[0]}, notes=["beware"], **measured)
    files = reports.write(tmp_path / "report", report, "spherectl evaluate --steps 2,4")
    assert [path.name for path in files] == [
        "report.json",
        "report.md",
        "model-2-steps-guidance-1.4.png",
        "model-neighbours.png",
    ]
    document = json.loads(files[0].read_text())
    assert document["command"] == "spherectl evaluate --steps 2,4"
    assert document["features"]["digest"] == measured["extractor"].digest
    assert document["reference"] == {"name": "fashion-mnist test, 100 images", "count": 100, "image_size": 32}
    assert document["models"][0]["sha256"] == model.sha256
    assert document["rows"][0]["scores"]["frechet_distance"] == 3.25
    assert document["rows"][0]["scores"]["count"] == 2000
    assert document["comparisons"][0]["difference"]["value"] == -0.01
    assert document["plan"]["metrics"] == ["fid"]
    assert {"spherectl", "torch", "torch-fidelity", "torchmetrics", "numpy"} == document["versions"].keys()
    text = files[1].read_text()
    for part in (
        "    spherectl evaluate --steps 2,4\n",
        "features: fashion-scorer; reference: fashion-mnist test, 100 images",
        "2,000 a row, classes in turn, seed 0",
        "rounded, floor(255 x + 1/2)",
        "| model | 2 | 1.4 | shared | 0.0123 (-0.01 to 0.03) |",
        "right about 94.0% of real test images",
        "- beware",
        "![model, 2 steps, guidance 1.4](model-2-steps-guidance-1.4.png)",
    ):
        assert part in text, part
    with Image.open(files[2]) as image:
        assert image.size == (10 * 34 - 2, 2 * 34 - 2)
    about = read_provenance(files[2])
    assert about is not None
    assert (about["index"], about["steps"], about["columns"]) == (list(range(20)), 2, 10)
    assert read_provenance(files[3]) is None


def test_truncated_samples_do_not_claim_that_sample_makes_them_again(measured: dict[str, Any], tmp_path: Path) -> None:
    model = measured["models"][0]
    settings = api.sample_settings(model, steps=2)
    pixels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    grids = [Grid("m", pixels, 2, model, settings, torch.arange(4))]
    truncated = dataclasses.replace(measured["plan"], quantise="floor")
    files = reports.write(tmp_path, make_report(grids=grids, **{**measured, "plan": truncated}), "c")
    assert read_provenance(files[2]) is None
    assert "truncated, floor(255 x)" in files[1].read_text()


def test_json_has_no_number_that_json_does_not_have(
    measured: dict[str, Any],
) -> None:
    one = Reconstruction("model", "set", 2, rfid=math.nan, psnr=math.inf)
    document = reports.as_json(make_report(reconstructions=[one], **measured), "c")
    assert json.loads(json.dumps(document, allow_nan=False))["reconstructions"][0]["psnr"] is None


def test_a_table_keeps_its_columns_whatever_the_names() -> None:
    assert reports.markdown_table([{"a": "x|y", "b": "1"}]) == ["| a | b |", "| --- | --- |", "| x\\|y | 1 |"]


def test_inceptions_report_says_fid(
    measured: dict[str, Any],
    inception_file: Path,
    tmp_path: Path,
) -> None:
    extractor = open_extractor(f"inception:{inception_file}")
    text = reports.write(tmp_path, make_report(**{**measured, "extractor": extractor}), "c")[1].read_text()
    assert "| FID |" in text
    assert "features: inception;" in text


def test_names_of_strangers_are_shown_as_they_are(tmp_path: Path) -> None:
    """A name is Markdown's text alone: no HTML, link, image, line or cell comes of it, and no control character."""
    name = "<script>x</script> ![a](http://b/c) \\[d](http://e) | f\n# g \x1b[31m \udcff"
    reference = SimpleNamespace(name=name, count=2, image_size=32)
    extractor = SimpleNamespace(name=name, is_inception=False, digest="")
    report = make_report(extractor=extractor, notes=[name], real=SimpleNamespace(reference=reference))
    report = dataclasses.replace(
        report,
        rows=[dataclasses.replace(row, model=name) for row in report.rows],
        reconstructions=[Reconstruction(name, name, 50, 0.2)],
        comparisons=[Comparison(name, name, "kid", Difference(-0.01, -0.02, 0.001))],
        neighbours={
            name + "\n": torch.zeros(3, 4, 4, dtype=torch.uint8),
            name: torch.zeros(3, 4, 4, dtype=torch.uint8),
        },
    )
    files = reports.write(tmp_path / name[:6], report, f"spherectl evaluate '{name}'")
    assert len({file.name for file in files}) == len(files) == 4
    assert all(file.is_file() for file in files)
    shown = "\n".join(line for line in files[1].read_text().splitlines() if not line.startswith("    "))
    for active in ("<script", "\\\\[", "![a]", "\x1b", "\n# g", " | f"):
        assert (active in shown) == (active == "\\\\["), active
    assert not re.search(r"(?<!\\)(\\\\)*\[[ad](?<!\\)(\\\\)*\]\(http", shown)
    document = files[0].read_text()
    assert "\x1b" not in document
    assert json.loads(document)["reference"]["name"] == name


def test_a_images_name_is_as_long_as_file_systems_take(tmp_path: Path) -> None:
    dataset = {"x" * 4_000 + str(number): torch.zeros(3, 4, 4, dtype=torch.uint8) for number in range(2)}
    files = reports._write_images(tmp_path, make_report(neighbours=dataset))
    assert len({file.name for file in files.values()}) == 2
    assert max(len(file.name) for file in files.values()) < 255
