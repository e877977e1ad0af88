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
from spherectl.data.image_set import ImageSet
from spherectl.evaluation import report as reports
from spherectl.evaluation import report_tables as shown
from spherectl.evaluation.bootstrap import Difference
from spherectl.evaluation.extractors import Extractor
from spherectl.evaluation.fidelity import Scores
from spherectl.evaluation.protocol import Comparison, Grid, Plan, Real, Reconstruction, Report, Row
from spherectl.evaluation.reference import of_images
from spherectl.evaluation.spectrum import PatchLines
from spherectl.images import read_provenance
from spherectl.recipe import SampleSpec

pytestmark = pytest.mark.fast

SETTINGS = SampleSpec(steps=2, guidance=1.4)
VALUES = {
    "frechet_distance": 3.25,
    "kid": 0.0123,
    "kid_deviation": 0.001,
    "inception_score": 8.5,
    "inception_score_deviation": 0.1,
    "precision": 0.75,
    "recall": 0.5,
    "accuracy": 0.912,
}


def extractor_named(name: str = "net", *, is_inception: bool = False) -> Any:
    """As much of an extractor as a report asks for."""
    return SimpleNamespace(name=name, is_inception=is_inception, digest="")


def make_report(count: int = 2000, **changes: Any) -> Report:
    """Two rows of made-up scores beside a row of real images."""
    scores = Scores("net", "some set", count, "round", dict(VALUES))
    interval = {"frechet_distance": (3.0, 3.5), "kid": (-0.01, 0.03)}
    lines = PatchLines(0.912, 1.1)
    row = Row("model", SETTINGS.model_dump(), scores, 32.5, interval, 3, lines, seconds=12.34)
    other = dataclasses.replace(row, settings=SETTINGS.model_copy(update={"steps": 4}).model_dump())
    of_real = dataclasses.replace(scores, values=VALUES | {"frechet_distance": 0.1})
    of_real.values.pop("accuracy")
    values = {"rfid": 0.2, "psnr": 25.9, "ssim": 0.95}
    about = {
        "models": [],
        "plan": Plan(),
        "real": SimpleNamespace(reference=SimpleNamespace(name="some set", count=2, image_size=32)),
        "extractor": extractor_named(),
        "accuracy_real": 0.94,
        "rows": [row, other],
        "real_row": Row("real images", None, of_real, 1.0),
        "comparisons": [Comparison(other.label, row.label, "kid", Difference(-0.01, -0.02, 0.001))],
        "reconstructions": [Reconstruction("model", "set test", 50, values, {"psnr": (25.0, 27.0)})],
        "uniformity": {},
        "memorisation": {},
        "notes": [],
        "grids": [],
        "neighbours": {},
    }
    return Report(**{**about, **changes})


def test_a_row_shows_scores_with_their_intervals_and_the_real_images_below() -> None:
    first, _, real = shown.score_rows(make_report())
    assert first == {
        "model": "model",
        "steps": "2",
        "guidance": "1.4",
        "noise": "shared",
        "KID": "0.0123 (-0.01 to 0.03)",
        "Frechet distance": "3.25 (3 to 3.5)",
        "FD ratio": "32.50",
        "class score": "8.50",
        "precision": "0.750",
        "recall": "0.500",
        "accuracy": "91.2%",
        "colour": "3 levels",
        "patch lines": "0.91",
        "seconds": "12.3",
    }
    assert (real["model"], real["steps"], real["accuracy"]) == ("real images", "", "")
    published = make_report(extractor=extractor_named("inception", is_inception=True))
    heads = shown.score_rows(published)[0].keys() - first.keys()
    assert heads == {"FID", "Inception Score"}  # these names are for Inception alone
    (line,) = shown.reconstruction_rows(published)
    assert (line["images"], line["rFID"], line["PSNR, dB"]) == ("50 of set test", "0.2", "25.90 (25.00 to 27.00)")


@pytest.mark.parametrize(
    ("key", "difference", "verdict"),
    [
        ("kid", Difference(-0.01, -0.02, 0.001), "not surely another"),
        ("kid", Difference(-0.01, -0.02, -0.001), "better"),
        ("accuracy", Difference(-0.01, -0.02, -0.001), "worse"),
    ],
)
def test_differences_say_whether_they_may_be_chance(key: str, difference: Difference, verdict: str) -> None:
    (row,) = shown.comparison_rows(make_report(comparisons=[Comparison("a", "b", key, difference)]))
    assert (row["of"], row["less that of"], row["difference"]) == ("a", "b", "-0.01")
    assert row["the first is"] == verdict


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
    lost = Reconstruction("other", "set", 2, {"rfid": math.nan, "psnr": math.inf})  # which JSON has no numbers for
    reconstructions = [*make_report().reconstructions, lost]
    report = make_report(
        grids=[grid], neighbours={"model": pixels[0]}, notes=["beware"], reconstructions=reconstructions, **measured
    )
    files = reports.write(tmp_path / "report", report, "spherectl evaluate --steps 2,4")
    names = ["report.json", "report.md", "model-2-steps-guidance-1.4.png", "model-neighbours.png"]
    assert [path.name for path in files] == names
    document = json.loads(files[0].read_text())
    assert document["command"] == "spherectl evaluate --steps 2,4"
    assert document["features"]["digest"] == measured["extractor"].digest
    assert document["reference"] == {"name": "fashion-mnist test, 100 images", "count": 100, "image_size": 32}
    assert document["models"][0]["sha256"] == model.sha256
    about = {"features": "net", "reference": "some set", "count": 2000, "quantise": "round"}
    assert document["rows"][0]["scores"] == about | VALUES
    assert document["rows"][0]["fd_ratio"] == 32.5
    assert document["real_row"]["scores"]["accuracy"] is None
    assert document["comparisons"][0]["difference"]["value"] == -0.01
    found = [(one["rfid"], one["psnr"], one["lpips"]) for one in document["reconstructions"]]
    assert found == [(0.2, 25.9, None), (None, None, None)]
    assert document["plan"]["metrics"] == ["fid"]
    assert {"spherectl", "torch", "torch-fidelity", "torchmetrics", "numpy"} == document["versions"].keys()
    text = files[1].read_text()
    for part in (
        "features: fashion-scorer; reference: fashion-mnist test, 100 images",
        "2,000 a row, classes in turn, seed 0",
        "| model | 2 | 1.4 | shared | 0.0123 (-0.01 to 0.03) |",
        "- beware",
        "![model, 2 steps, guidance 1.4](model-2-steps-guidance-1.4.png)",
    ):
        assert part in text, part
    with Image.open(files[2]) as image:
        assert image.size == (10 * 34 - 2, 2 * 34 - 2)
    told = read_provenance(files[2])
    assert told is not None
    assert (told["index"], told["steps"], told["columns"]) == (list(range(20)), 2, 10)
    assert read_provenance(files[3]) is None
    # Truncated samples are not what `sample --like` would make.
    truncated = dataclasses.replace(report, plan=dataclasses.replace(report.plan, quantise="floor"))
    files = reports.write(tmp_path, truncated, "c")
    assert read_provenance(files[2]) is None


def test_names_of_strangers_are_shown_as_they_are(tmp_path: Path) -> None:
    """A name is Markdown's text alone: no HTML, link, image, line or cell comes of it, and no control character."""
    name = "<script>x</script> ![a](http://b/c) \\[d](http://e) | f\n# g \x1b[31m \udcff"
    reference = SimpleNamespace(name=name, count=2, image_size=32)
    report = make_report(extractor=extractor_named(name), notes=[name], real=SimpleNamespace(reference=reference))
    report = dataclasses.replace(
        report,
        rows=[dataclasses.replace(row, model=name) for row in report.rows],
        reconstructions=[Reconstruction(name, name, 50, {"rfid": 0.2})],
        comparisons=[Comparison(name, name, "kid", Difference(-0.01, -0.02, 0.001))],
        neighbours={one: torch.zeros(3, 4, 4, dtype=torch.uint8) for one in (name, name + "\n")},
    )
    files = reports.write(tmp_path / name[:6], report, f"spherectl evaluate '{name}'")
    assert len({file.name for file in files}) == len(files) == 4
    assert all(file.is_file() for file in files)
    text = "\n".join(line for line in files[1].read_text().splitlines() if not line.startswith("    "))
    for active in ("<script", "\\\\[", "![a]", "\x1b", "\n# g", " | f"):
        assert (active in text) == (active == "\\\\["), active
    assert not re.search(r"(?<!\\)(\\\\)*\[[ad](?<!\\)(\\\\)*\]\(http", text)
    document = files[0].read_text()
    assert "\x1b" not in document
    assert json.loads(document)["reference"]["name"] == name
