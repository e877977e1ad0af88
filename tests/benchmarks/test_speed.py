"""`make bench` on a tiny model: what it writes, what in it must be exact, and that the page says what the JSON says."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from benchmarks import speed, subjects
from benchmarks.page import page
from benchmarks.subjects import BASELINE, INT8, KERNELS, PLAIN, spec_of

pytestmark = pytest.mark.slow

EQUALITY = {
    "date": "2031-02-04",
    "command": "python -m benchmarks.training_equality",
    "recipe": "fashion-mnist",
    "steps": 500,
    "last": 100,
    "length": 32000,
    "difference_percent": 0.123,
    "rows": [{"path": "float32", "mean_loss": 0.9}],
}


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, fashion_excerpt: Path
) -> tuple[dict[str, Any], str, str]:
    """The JSON, the page without what was kept, and what was said on stderr; sizes are those of a test."""
    docs = tmp_path_factory.mktemp("docs")
    earlier = {"format": 2, "training_equality": EQUALITY, "cases": "of yesterday"}
    (docs / "performance.json").write_text(json.dumps(earlier), encoding="utf-8")
    options = ["--models", tiny_run, "--recipe", "debug", "--seconds", 0, "--images", 6, "--no-growth", "--out", docs]
    sizes = {
        "subjects.EMBEDDED_DRAWS": ((1, (1, 2)), (4, (2,))),
        "cases.MATRIX": 128,
        "cases.COPIED_BYTES": 1 << 20,
        "cases.TOGETHER": 4,
        "timing.TURN_S": 0.001,
        "timing.MIN_VISITS": 1,
        "quality.RESAMPLES": 5,
    }
    out, told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(told):
        for name, value in sizes.items():
            patch.setattr(f"benchmarks.{name}", value)
        patch.setenv("SPHERECTL_DATA", str(fashion_excerpt))
        patch.setattr(sys, "argv", ["speed", *map(str, options)])
        speed.main()
    assert Path(out.getvalue().strip()) == docs / "performance.md"
    text = (docs / "performance.json").read_text(encoding="utf-8")
    return json.loads(text), (docs / "performance.md").read_text(encoding="utf-8"), told.getvalue()


def test_every_case_is_measured(written: tuple[dict[str, Any], str, str]) -> None:
    results, _, told = written
    draws = [("draws", *one) for one in (("1 step", 1), ("1 step", 2), ("4 guided steps", 2))]
    passes = [("passes", what, 4) for what in ("encode", "reconstruct")]
    steps = [("training", what, 8) for what in ("training step", "training step, no perceptual part")]
    cases = results["cases"]
    assert {tuple(case[key] for key in ("kind", "what", "images")) for case in cases} == {*draws, *passes, *steps}
    paths = {kind: [c["path"] for c in cases if c["kind"] == kind] for kind in ("draws", "passes", "training")}
    assert len(paths["draws"]) == len(draws) * len(set(paths["draws"]))
    assert all(BASELINE in each for each in paths.values())
    for case in cases:
        assert 0 < case["lowest_ms"] <= case["ms"] <= case["highest_ms"]
        assert case["images_per_s"] == pytest.approx(1000 * case["images"] / case["ms"], rel=0.02)
        assert case["percent_of_peak"] > 0
        if case["path"] == BASELINE:
            assert case["ratio"] == 1
    assert results["visits"] >= (len(draws) + len(passes) + len(steps))
    assert told.count("for a visit") == len(draws) + len(passes) + len(steps) + 2
    (model,) = results["models"]
    assert (model["name"], model["parameters"]) == ("tiny", 153_275)
    assert {"processor", "flags", "cores", "threads"} <= results["machine"].keys()
    assert "torch" in results["versions"]


def test_images_are_compared_and_scored(written: tuple[dict[str, Any], str, str]) -> None:
    quality = written[0]["quality"]
    assert (quality["model"], quality["images"], quality["scorer"]) == ("tiny", 6, "fashion-scorer")
    for row in quality["rows"]:
        assert row["path"] not in (BASELINE, PLAIN)
        assert row["low_psnr_db"] <= row["median_psnr_db"]
        assert row["frechet"] == pytest.approx(row["frechet_float32"] * (1 + row["change_percent"] / 100), rel=0.02)
        assert row["interval_percent"] > 0
    for row in written[0]["invariance"]:
        if row["path"] != PLAIN:
            assert row["bytes_that_differ"] == 0, row["path"]


def test_the_page_is_of_the_json_and_an_earlier_comparison_of_losses_stays(
    written: tuple[dict[str, Any], str, str],
) -> None:
    results, text, _ = written
    assert text == page(results)
    assert results["training_equality"] == EQUALITY
    assert "The same losses" in text
    assert "growth" not in results


def test_a_training_step_of_ours_is_beside_plain_ones(written: tuple[dict[str, Any], str, str]) -> None:
    paths = [case["path"] for case in written[0]["cases"] if case["what"] == "training step"]
    assert paths[0] == BASELINE
    if written[0]["kernels"].startswith("works"):
        assert paths[-1] == KERNELS


@pytest.mark.parametrize("options", [["--models", "a", "b"], ["--models", "nowhere"]])
def test_a_mistake_is_a_sentence(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", *options, "--out", str(tmp_path / "docs")])
    with pytest.raises(SystemExit, match=r"^error: .*\."):
        speed.main()
    assert not (tmp_path / "docs").exists()


def test_the_baseline_is_judged_and_what_is_left_out_is_told() -> None:
    package = subjects.random_package("base", spec_of("nano"))
    models = {BASELINE: subjects.model(package, "base", "float32", plain=True)}
    base = subjects.Subject("base", "base, 32 px", package, models, ((1, (8,)),), left_out=((1, 64),))
    row = {"model": "base", "what": "1 step", "images": 8, "path": BASELINE, "gflop": 2.0, "ms": 10.0}  # 200 GFLOP/s
    for share, holds in ((79.9, False), (80.0, True)):
        judged = speed._model_row(base, [{**row, "percent_of_peak": share}])
        assert (judged["baseline_percent"], judged["baseline_holds"]) == (share, holds)
    first, *others = speed._left_out([base], [row])
    seconds = float(f"{64 * base.gflop(1) / 200:.3g}")
    assert first == f"base, 32 px: 1 step, 64 images: about {seconds:g} s in float32."
    assert [sentence.partition(":")[0] for sentence in others] == [PLAIN, KERNELS, INT8]


def test_an_older_json_is_not_read(tmp_path: Path) -> None:
    for text in ('{"peaks": []}', "[]", "{", '{"format": 1}'):
        (tmp_path / "performance.json").write_text(text, encoding="utf-8")
        assert speed.read(tmp_path) == {}
    assert speed.read(tmp_path / "nowhere") == {}
